"""MobileCLIP: a student learns from its teachers' similarities."""
