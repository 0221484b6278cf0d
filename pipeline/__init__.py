"""Openwit's pipeline: from crawl archives and tables to balanced WebDataset shards.

Start reading at `wit.py`, the page; `records/schema.py` is the glossary.
"""
