"""YAML by kind (`queries/`, `shards/`, `train/`) and `load.py`, the only code."""
