"""Scores by uid, made of features: what a trained CLIP says of each sample, as columns to filter and to subset by.

FEATURES --cosine.py, aesthetic.py, policy.py--> a number a row
         --k_means.py, duplicates.py-----------> which rows say the same, and which one of them stays
score.py puts them together, part by part, into one Parquet
"""
