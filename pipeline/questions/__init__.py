"""What asks a data set and leaves it as it is."""
