"""Compiled code: how a kernel is declared, what its code depends on, and where it is kept for the next process."""
