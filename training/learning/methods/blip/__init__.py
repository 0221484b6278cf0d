"""BLIP: contrast with a momentum queue, matching on hard negatives, captions."""
