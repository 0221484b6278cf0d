"""Every reason for which a stage rejects something: one word per thing, for the ledger and for SQL."""

from __future__ import annotations

__all__ = ["REASONS", "is_reason"]

REASONS: dict[str, dict[str, str]] = {
    "extract": {
        "unreadable_source": "the file cannot be fetched or read as what it should be; --retry-failed asks again",
        "bad_record": "a record or row that cannot be parsed",
        "not_a_page": "an answer that is no HTML page: a picture, a script, a DNS answer; counted, without a row each",
        "other_record": "a record of an archive without an answer: request, warcinfo; counted, without a row each",
        "oversized_record": "a record larger than the limit",
        "truncated_file": "the file ends in the middle of a record; what came before is used",
        "opt_out": "the page's robots meta or header forbids this use (noai, noimageai, noml, tdm-reservation)",
        "no_text": "the link has no alt text, nor another text that the config reads",
        "bad_url": "the URL cannot be parsed or has no host",
        "no_picture": "the row of an img2dataset directory says that its picture is not stored",
        "not_http": "data:, blob:, file: and other schemes that are not http or https",
    },
    "clean": {
        "empty": "nothing is left after white space and control characters are gone",
        "too_short": "fewer characters or words than the limit",
        "too_long": "more characters than the limit, and no word's end to cut at",
        "file_name": "the text is a file name without words",
        "date": "the text is a date, a time or a number",
        "placeholder": "the text says only that there is a picture or no text: image, untitled, nan, {{ title }}",
        "keyword_list": "a list of search terms, not a description",
        "web_address": "the text is a URL or an e-mail address",
    },
    "language": {
        "other_language": "the likeliest language is not a target language",
        "low_confidence": "the likeliest language is a target language, below the least probability",
        "unknown_language": "the model knows nothing of the text, nor do the lexicons know all its words",
    },
    "match": {"no_query": "the caption contains no query of the list"},
    "dedup": {
        "duplicate": "the same (canonical URL, caption) stands before it in the order that decides what stays",
        "other_caption": "another caption of the same picture was kept",
    },
    "captions": {
        "boilerplate_caption": "the caption stands on more different pictures than the limit",
        "other_caption": "another caption of the same picture was kept",
    },
    "balance": {"not_selected": "none of the pair's queries selected it"},
    "fetch": {
        "http_NNN": "the final answer's status, for example http_404",
        "address_not_allowed": "the connection would reach a non-global address that the config does not allow",
        "scheme_not_allowed": "neither http nor https, at the start or after a redirect",
        "bad_url": "the URL cannot be requested",
        "dns": "the host name does not resolve",
        "connect": "no connection: refused, unreachable or timed out",
        "tls": "the TLS handshake or the certificate failed",
        "timeout": "the whole transfer took longer than the limit",
        "too_slow": "the transfer rate stayed under the limit",
        "transfer": "the connection broke, or the body ended early",
        "too_large": "more bytes than the limit, announced or received",
        "too_many_redirects": "more redirects than the limit, or a loop",
        "opt_out": "X-Robots-Tag or another header forbids this use",
        "robots_txt": "the host's robots.txt forbids the path to our user agent",
        "block_list": "the user's block list names the host, the URL or the body's SHA-256",
        "empty_body": "the answer has no body",
        "not_stored": "an img2dataset directory does not hold the picture that it should",
    },
    "check_image": {
        "not_an_image": "the bytes are of no image format: HTML, text, unknown",
        "unsupported_format": "an image format that is not decoded, such as SVG",
        "broken_image": "truncated or corrupt: it does not decode to its last pixel",
        "too_many_pixels": "the header announces more pixels than the limit; it was not decoded",
        "too_small": "a side is shorter than the limit",
        "aspect_ratio": "longer side / shorter side is above the limit",
        "crashed_decoder": "decoding this picture killed the decoder's process",
    },
    "filters": {
        "too_small": "a side of the picture, as served, is shorter than the limit",
        "aspect_ratio": "longer side / shorter side, as served, is above the limit",
        "too_few_words": "the caption has fewer words than the limit",
        "too_short": "the caption has fewer characters than the limit",
        "other_language": "the caption's language is not one of those that stay",
        "no_score": "the files of scores do not know the uid, or hold no number for it",
        "low_score": "a score is below the limit",
        "high_score": "a score is above the limit",
    },
    "decontaminate": {
        "evaluation_file": "the very file is part of an evaluation set (SHA-256)",
        "evaluation_picture": "the picture looks like one of an evaluation set (perceptual hash)",
        "evaluation_caption": "the caption equals one of an evaluation set, or a prompt of its classes",
    },
    "image_dedup": {
        "same_file": "another URL serves the very same file; the detail is the uid of a pair that stays",
        "same_picture": "another picture looks the same; the detail is the uid of a pair that stays",
    },
    "final_balance": {"reserve_not_needed": "its queries reached their limits without it; it was fetched as a reserve"},
}
"""stage -> reason -> what it means."""


def is_reason(stage: str, reason: str) -> bool:
    """Whether `reason` is one that `stage` may give; `http_NNN` stands for any three digits."""
    if stage == "fetch" and reason.startswith("http_"):
        return len(reason) == 8 and reason[5:].isdigit()
    return reason in REASONS.get(stage, {})
