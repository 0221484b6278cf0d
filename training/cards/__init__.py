"""What is known of a model, for those who may use it: its limits, measured, and its card.

Model --limits.py: probes.py's pictures, drawn by drawing.py--> limits.json, limits.parquet
RUN   --card.py: facts.py, curves.py--------------------------> README.md, curves.svg
"""
