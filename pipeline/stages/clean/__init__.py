"""Clean: alt text made fit to be a caption, or turned away with a reason (`clean.py`)."""
