"""A model for others to read: open_clip's form, transformers', ONNX; on this machine, in a bucket, on a hub."""
