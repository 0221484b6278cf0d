"""What a model is worth: zero-shot classification and retrieval on an evaluation set."""
