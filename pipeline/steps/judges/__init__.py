"""The steps that turn pairs away once their pictures are there."""
