"""From the shards of a data set to batches of pictures and tokens, in the order of the run."""
