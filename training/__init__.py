"""Openwit's trainer: CLIP models from WebDataset shards.

Start reading at `train.py`, the loop. A room knows only of those below it:

    commands/         the command line, a thin layer
    experiment/       the same training on differently made data, compared; seeds.py: one config, several seeds
    launch_ray.py     any of the work below on Ray's workers
    train.py, plan.py the loop, and what a run will take; clip.py: a trained CLIP from Python
    cards/ search/ scores/    what is known of a model; words to pictures; columns by uid for better data
    embedding/ exports/       features by uid; a model for open_clip, transformers, ONNX
    run/              what stands around the loop: begin, snapshots of the data, phases, log, stop
    evaluation/       sets of every form; zero-shot classification, retrieval, linear probe
    learning/         the model, its loss, its exact gradient, its optimiser
    checkpoints/      the run's state on disk
    distributed.py    one process or many
    data/             shards to batches, in the run's order
    config.py, errors.py
"""
