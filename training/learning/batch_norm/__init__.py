"""Image towers with batch normalisation, exact under micro-batches: cut into segments that take the whole batch."""
