"""Search by words or by a picture, over features that `embed` made."""
