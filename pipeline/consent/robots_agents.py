"""The robots that are known to gather training data, by the names that they answer to in robots.txt."""

from __future__ import annotations

__all__ = ["AI_TRAINING_AGENTS", "COMMON_CRAWL"]

COMMON_CRAWL = "ccbot"
"""Common Crawl's robot. Who takes URLs from its archives is asked to obey its group too, under a name of their own
(https://commoncrawl.org/ccbot)."""

AI_TRAINING_AGENTS = frozenset(
    {
        "ai2bot",  # Allen Institute for AI
        "ai2bot-dolma",
        "amazonbot",  # Amazon
        "anthropic-ai",  # Anthropic, of earlier years
        "applebot-extended",  # Apple: a name in robots.txt alone
        "bytespider",  # ByteDance
        COMMON_CRAWL,
        "claude-web",  # Anthropic, of earlier years
        "claudebot",  # Anthropic
        "cohere-ai",  # Cohere
        "cohere-training-data-crawler",
        "cotoyogi",  # ROIS, Japan
        "diffbot",  # Diffbot
        "facebookbot",  # Meta, of earlier years
        "friendlycrawler",
        "google-cloudvertexbot",  # Google
        "google-extended",  # Google: a name in robots.txt alone
        "gptbot",  # OpenAI
        "icc-crawler",  # NICT, Japan
        "imagesiftbot",  # Hive
        "img2dataset",  # who builds data sets with that tool
        "laion-huggingface-processor",  # LAION
        "laiondownloader",
        "meta-externalagent",  # Meta
        "omgili",  # Webz.io
        "omgilibot",
        "pangubot",  # Huawei
        "sbintuitionsbot",  # SB Intuitions
        "tiktokspider",  # ByteDance
        "timpibot",  # Timpi
        "velenpublicwebcrawler",  # Velen
        "webzio-extended",  # Webz.io
        "youbot",  # You.com
    }
)
"""In small letters. Gathered on 2026-11-29 from their operators' pages and from what robots.txt files name; robots that
only search or act for a user at the moment (OAI-SearchBot, ChatGPT-User, PerplexityBot) are left out."""
