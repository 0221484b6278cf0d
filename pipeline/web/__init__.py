"""URLs, answers and packed bytes, read in one way wherever they are met."""
