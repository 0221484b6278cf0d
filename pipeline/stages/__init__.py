"""One stage per file. Stages are strangers to each other: none imports another."""
