"""Signatures of deltas, by keys of `storage/keys.py`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pipeline.errors import InputError
from pipeline.storage.keys import is_signed_by, public_hex
from pipeline.storage.place import Place
from pipeline.takedown.delta import Delta

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["check_signature", "signed"]

_ALGORITHM = "Ed25519"


def signed(delta: Delta, key: Ed25519PrivateKey) -> Delta:
    """The delta with its signature."""
    signature = key.sign(delta.covered()).hex()
    return dataclasses.replace(
        delta, signature={"algorithm": _ALGORITHM, "public_key": public_hex(key), "signature": signature}
    )


def check_signature(delta: Delta, key: Ed25519PublicKey, file: Place) -> None:
    """Raise InputError unless `key`'s owner has signed the delta in `file`."""
    if delta.signature is None:
        raise InputError(f"{file}: is not signed, and --key asks for it")
    try:
        signature = bytes.fromhex(delta.signature["signature"])
    except (KeyError, ValueError, TypeError):
        signature = b""
    if not is_signed_by(key, signature, delta.covered()):
        raise InputError(f"{file}: is not signed by the owner of --key; do not apply it")
