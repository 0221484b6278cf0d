"""Around the loop: where a run begins, what feeds it, what it tells and what stops it."""
