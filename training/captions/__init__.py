"""Captions that models write of a data set's pictures, and how well they fit."""
