"""From files to files: each step cuts its work into tasks and wires pure stages to Parquet and tar files.

A step module has `plan(...) -> Step`, which names the tasks and their keys, and the top-level functions
that do the work. `wit.py` puts the steps in order.
"""
