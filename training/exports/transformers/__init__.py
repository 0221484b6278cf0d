"""A directory that `transformers` reads, written without it.

Model --clip.py | siglip.py--> config.json, model.safetensors      architectures that it has, names of their weights
      --tokens.py-----------> tokenizer files
      --directory.py--------> preprocessor_config.json, and all of it, whole
"""
