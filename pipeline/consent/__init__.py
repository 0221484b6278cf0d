"""What owners say of the use of their works, each signal read as its own text defines it (docs/consent.md)."""
