"""SigLIP 2: the sigmoid, captions, and late in the run what a moving average says of the whole picture."""
