"""Privacy: personal data in captions, and pictures that may not be kept at all.

caption --looks like it? (one expression over the batch)--> pii.py: mail, phones, payment, national --> `pii`
"""
