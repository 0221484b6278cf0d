"""Builds the query list: what the pipeline looks for in captions.

    dump parts --count--> words, bigrams, titles --\\
    page-view files ------> views per title -------- >--merge (by hash)--> select --> queries.parquet
    WordNet index files, the user's own lists -----/

One source per file: unigrams, bigrams, titles, wordnet. `python -m query_list build CONFIG.yaml`.
"""
