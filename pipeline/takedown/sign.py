"""Ed25519 signatures of deltas (RFC 8032), by the extra `sign`: keys are PEM files, as OpenSSL writes them.

openssl genpkey -algorithm ed25519 -out key.pem
openssl pkey -in key.pem -pubout -out key.pub
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from configs.load import ConfigError
from pipeline.errors import InputError
from pipeline.storage.place import Place
from pipeline.takedown.delta import Delta

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["check_signature", "private_key", "public_key", "signed"]

_ALGORITHM = "Ed25519"


def private_key(file: Place) -> Ed25519PrivateKey:
    """The key in `file`. Raises ConfigError where it is none, or the extra is not there."""
    _need("--sign")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(file.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"--sign {file}: no private key in PEM without a password ({error})") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"--sign {file}: is no Ed25519 key; `openssl genpkey -algorithm ed25519` makes one")
    return key


def public_key(file: Place) -> Ed25519PublicKey:
    """As `private_key`, of the key that others have."""
    _need("--key")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(file.read_bytes())
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"--key {file}: no public key in PEM ({error})") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"--key {file}: is no Ed25519 key")
    return key


def signed(delta: Delta, key: Ed25519PrivateKey) -> Delta:
    """The delta with its signature."""
    public = key.public_key().public_bytes_raw().hex()
    signature = key.sign(delta.covered()).hex()
    return dataclasses.replace(delta, signature={"algorithm": _ALGORITHM, "public_key": public, "signature": signature})


def check_signature(delta: Delta, key: Ed25519PublicKey, file: Place) -> None:
    """Raise InputError unless `key`'s owner has signed the delta in `file`."""
    from cryptography.exceptions import InvalidSignature

    if delta.signature is None:
        raise InputError(f"{file}: is not signed, and --key asks for it")
    try:
        key.verify(bytes.fromhex(delta.signature["signature"]), delta.covered())
    except (InvalidSignature, KeyError, ValueError, TypeError):
        raise InputError(f"{file}: is not signed by the owner of --key; do not apply it") from None


def _need(option: str) -> None:
    try:
        import cryptography  # noqa: F401 - only whether it is there
    except ModuleNotFoundError as error:
        raise ConfigError(f"{option} needs the extra `sign`: pip install 'openwit[sign]'") from error
