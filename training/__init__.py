"""Openwit's trainer: CLIP models from WebDataset shards.

Start reading at `train.py`, the loop. A room knows only of those below it:

    __main__.py, train.py, launch_ray.py, export.py     the commands
    run/              what stands around the loop: begin, snapshots of the data, phases, log, stop
    evaluation/       zero-shot classification and retrieval
    learning/         the model, its loss, its exact gradient, its optimiser
    checkpoints/      the run's state on disk
    distributed.py    one process or many
    data/             shards to batches, in the run's order
    config.py, errors.py
"""
