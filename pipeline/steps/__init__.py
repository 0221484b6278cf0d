"""From files to files: each step cuts its work into tasks and wires pure stages to Parquet and tar files.

A step is a function under `@step` that yields typed tasks (`step.py`); which steps there are, and in which order, is
for `wit.py` to say.
"""
