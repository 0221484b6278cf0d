"""Every reason for which a step rejects something: one word per thing, for the ledger and for SQL."""

from __future__ import annotations

__all__ = ["REASONS"]

_PAGE_SIGNALS = {
    "page_robots": "the page's robots metas or X-Robots-Tag forbid this use (noai, noimageai, noml)",
    "tdm_reservation": "tdm-reservation: 1, in a meta or header of the page",
    "content_usage": "Content-Usage: train-ai=n, a header of the page",
    "content_signal": "Content-Signal: ai-train=no, a header of the page",
}
_ANSWER_SIGNALS = {
    "x_robots_tag": "X-Robots-Tag of the picture's answer forbids this use",
    "tdm_reservation": "tdm-reservation: 1, a header of the picture's answer",
    "content_usage": "Content-Usage: train-ai=n, a header of the picture's answer or in robots.txt",
    "content_signal": "Content-Signal: ai-train=no, a header of the picture's answer or in robots.txt",
    "data_mining": "plus:DataMining in the picture's XMP prohibits this use",
    "tdmrep_json": "the host's /.well-known/tdmrep.json reserves the path",
    "c2pa_training": "a training and data mining assertion of the picture's C2PA manifest does not allow this use",
}

REASONS: dict[str, dict[str, str]] = {
    "extract": {
        "unreadable_source": "the file cannot be fetched or read as what it should be; --retry-failed asks again",
        "bad_record": "a record or row that cannot be parsed",
        "not_a_page": "an answer that is no HTML page: a picture, a script, a DNS answer; counted, without a row each",
        "other_record": "a record of an archive without an answer: request, warcinfo; counted, without a row each",
        "oversized_record": "a record larger than the limit",
        "truncated_file": "the file ends in the middle of a record; what came before is used",
        **_PAGE_SIGNALS,
        "opt_out": "of earlier versions: page_robots or tdm_reservation",
        "no_text": "the link has no alt text, nor another text that the config reads",
        "bad_url": "the URL cannot be parsed or has no host",
        "no_picture": "the row of an img2dataset directory says that its picture is not stored",
        "not_http": "data:, blob:, file: and other schemes that are not http or https",
    },
    "dedup": {
        "duplicate": "the same (canonical URL, caption) stands before it in the order that decides what stays",
        "other_caption": "another caption of the same picture was kept",
    },
    "captions": {
        "boilerplate_caption": "the caption stands on more different pictures than the limit",
        "rare_token": "a word or bigram of the caption is not among the set's most frequent; the detail is the first",
        "too_many_captions": "the picture has more different captions than the limit; the detail is how many",
        "other_caption": "another caption of the same picture was kept",
    },
    "robots_archives": {
        "unreadable_source": "the archive of robots.txt captures cannot be fetched or read",
        "bad_record": "a record that cannot be parsed",
        "oversized_record": "a record larger than the limit",
        "truncated_file": "the file ends in the middle of a record; what came before is used",
    },
    "robots": {
        "robots_txt": "the host's captured robots.txt forbids the path to our user agent",
        "robots_txt_ccbot": "the URL comes from Common Crawl, and the captured robots.txt forbids the path to CCBot",
        "content_usage": "Content-Usage in the captured robots.txt says train-ai=n of the path",
        "content_signal": "Content-Signal in the captured robots.txt says ai-train=no",
        "robots_txt_ai": "the captured robots.txt forbids the path to a robot known to gather training data",
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
        **_ANSWER_SIGNALS,
        "opt_out": "of earlier versions: x_robots_tag or tdm_reservation",
        "robots_txt": "the host's robots.txt forbids the path to our user agent, or could not be had",
        "robots_txt_ccbot": "the URL comes from Common Crawl, and robots.txt forbids the path to CCBot",
        "robots_txt_ai": "robots.txt forbids the path to a robot known to gather training data",
        "block_list": "the user's block list names the host, the URL or the body's SHA-256",
        "removed": "a removal names the URL, its host, the body's SHA-256, or a pair of the picture (docs/takedown.md)",
        "hash_list": "a list of pictures that may not be kept names it; the detail is the list, and when",
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
    "image_dedup": {
        "same_file": "another URL serves the very same file; the detail is the uid of a pair that stays",
        "same_picture": "another picture looks the same; the detail is the uid of a pair that stays",
    },
    "final_balance": {"reserve_not_needed": "its queries reached their limits without it; it was fetched as a reserve"},
    "takedown": {"removed": "it was removed after it was published; the next run enters it under fetch"},
    "subset": {
        "condition": "the condition does not hold for it; the detail is the first part that does not, with its values",
        "not_listed": "the list of uids does not name it",
        "query_limit": "no query selects it any more, within the limit per query",
        "no_caption": "neither its own text nor a caption that a model wrote fits the picture well enough; the detail "
        "has the scores",
    },
}
"""stage -> reason -> what it means; a `Stage` that judges rows has its own with it (`pages.reasons_of`)."""
