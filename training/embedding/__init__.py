"""Features of pictures and texts, by uid: made once, kept as Parquet, read by search and scores."""
