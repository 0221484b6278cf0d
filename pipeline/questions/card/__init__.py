"""The data card: figures gathered by named queries, drawn by templates, in one HTML page that asks for nothing else."""
