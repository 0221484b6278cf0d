"""What brings a data set about: run, extend, retry, repair, publish."""
