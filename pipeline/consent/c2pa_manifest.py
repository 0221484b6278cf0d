"""Training and data mining assertions in a picture's C2PA manifest; needs the extra `c2pa`.

    c2pa.training-mining    C2PA specification 1.x; of 2.x only in manifests of its time
    cawg.training-mining    CAWG Training and Data Mining Assertion 1.1, where it went

Each names uses (`data_mining`, `ai_training`, `ai_generative_training`, `ai_inference`), and says `allowed`,
`notAllowed` or `constrained`. What is not allowed, or only on terms that people read, forbids. A restriction is
honoured whether or not its signature is trusted: who takes a picture away from us gains nothing by it. Nothing is asked
over the network.
"""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Iterator
from typing import Any

from configs.load import ConfigError
from pipeline.pictures.identify import identify

__all__ = ["check_c2pa", "training_uses"]

_LABELS = ("c2pa.training-mining", "cawg.training-mining")
_USES = ("data_mining", "ai_training", "ai_generative_training")
"""Those that training is; `ai_inference` is running a trained model on the picture."""
_TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "AVIF": "image/avif",
    "GIF": "image/gif",
    "TIFF": "image/tiff",
}
_MARK = b"c2pa"
"""Of the manifest store's box, in every format that can hold one."""
_OFFLINE = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": False}}


def check_c2pa() -> None:
    """Raises ConfigError where the library is not there."""
    if importlib.util.find_spec("c2pa") is None:
        raise ConfigError(
            'consent.c2pa: needs the extra c2pa (pip install "openwit[c2pa]"); or say consent.c2pa: false'
        )


def training_uses(body: bytes) -> list[str]:
    """`LABEL: USE=WORD` of each use that the active manifest of a picture speaks of, in order; empty where there is
    none, or it cannot be read. Never raises."""
    media_type = _TYPES.get(identify(body).format or "")
    if media_type is None or _MARK not in body:
        return []
    from c2pa import C2paError, Context, Reader, Settings

    try:
        with Reader(media_type, io.BytesIO(body), context=Context(Settings.from_dict(_OFFLINE))) as reader:
            store = json.loads(reader.json())
    except (C2paError, ValueError):
        return []
    return list(_uses(store))


def _uses(store: Any) -> Iterator[str]:
    manifests = store.get("manifests") if isinstance(store, dict) else None
    manifest = manifests.get(store.get("active_manifest")) if isinstance(manifests, dict) else None
    assertions = manifest.get("assertions") if isinstance(manifest, dict) else None
    for assertion in assertions if isinstance(assertions, list) else []:
        label = str(assertion.get("label", "")).partition("__")[0]  # a second one is called LABEL__1
        if not label.startswith(_LABELS):
            continue
        data = assertion.get("data")
        entries = data.get("entries") if isinstance(data, dict) else None
        for name, entry in entries.items() if isinstance(entries, dict) else ():
            use = str(name).partition(".")[2]
            said = entry.get("use") if isinstance(entry, dict) else entry
            if use in _USES:
                yield f"{label}: {use}={said}"
