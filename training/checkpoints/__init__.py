"""A run's state on disk: written whole, read by any number of ranks."""
