"""Evaluation sets in the forms in which people have them: each read as it lies, none copied.

open.py asks what lies at a path --> tars.py | folders.py | lists.py | arrow.py --> EvaluationSet (form.py)
prompts.py: class names and templates, from files beside the pictures or from ImageNet's
write.py: any of them as tars in CLIP_benchmark's form
"""
