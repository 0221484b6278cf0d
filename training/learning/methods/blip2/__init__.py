"""BLIP-2: a Q-Former between a locked image tower and the texts, then between it and a locked language model."""
