"""Stages of one's own: where they stand on the page, what holds them to their word, what a set says of them."""
