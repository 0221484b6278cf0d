"""A published set made ready for others: what goes out of it, and how they check it. docs/release.md shows it."""
