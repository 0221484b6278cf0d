"""What learns: the model, its loss, its exact gradient and its optimiser."""
