"""`Link: <URL>; rel="license"` in an answer's head (RFC 8288; RSL 1.0 names its terms so, too)."""

from __future__ import annotations

import re

__all__ = ["license_links"]

_NAME, _VALUE = r"""[^\s;,="<>]+""", r"""(?:"(?:[^"\\]|\\.)*"|[^\s;,"]*)"""
_LINK = re.compile(rf"<([^<>]*)>((?:\s*;(?:\s*{_NAME}(?:\s*=\s*{_VALUE})?)?)*)")
_PARAMETER = re.compile(rf";\s*({_NAME})(?:\s*=\s*({_VALUE}))?")


def license_links(value: str) -> list[str]:
    """Those of a `Link` header's URLs whose relations hold `license`, as they stand there."""
    found = []
    for url, parameters in _LINK.findall(value):
        relations = [said.strip('"') for name, said in _PARAMETER.findall(parameters) if name.lower() == "rel"]
        if url.strip() and relations and "license" in relations[0].lower().split():  # the first counts (section 3.3)
            found.append(url.strip())
    return found
