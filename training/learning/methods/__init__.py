"""Methods that come with the trainer, a file each."""
