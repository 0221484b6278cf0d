"""SQL over a data set: DuckDB, and the views of the page's outputs."""
