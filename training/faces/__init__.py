"""Faces: where a detector of the user's own finds them, by uid, for filters."""
