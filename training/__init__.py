"""Openwit's trainer: CLIP models from WebDataset shards.

Start reading at `train.py`, the loop.
"""
