"""Reinforcements of a data set: features that strong models have of its augmentations and captions, made once."""
