"""Does balancing pay? The same training on differently made data, measured side by side."""
