"""What learns: the model, its loss, its exact gradient and its optimiser. Nothing else imports open_clip."""

import os

# The trainer works from local files alone: no model, tokenizer or weight is looked up on a network. Before open_clip
# is imported, which reads this once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
