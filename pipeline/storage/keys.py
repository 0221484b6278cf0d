"""Ed25519 keys (RFC 8032) in PEM files, as OpenSSL writes them; `cryptography` is the extra `sign`.

openssl genpkey -algorithm ed25519 -out key.pem
openssl pkey -in key.pem -pubout -out key.pub
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from configs.load import ConfigError
from pipeline.storage.place import Place

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["is_signed_by", "private_key", "public_hex", "public_key"]


def private_key(file: Place, option: str = "--sign") -> Ed25519PrivateKey:
    """The key in `file`. Raises ConfigError where it is none, or the extra is not there."""
    _need(option)
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(file.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{option} {file}: no private key in PEM without a password ({error})") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{option} {file}: is no Ed25519 key; `openssl genpkey -algorithm ed25519` makes one")
    return key


def public_key(file: Place, option: str = "--key") -> Ed25519PublicKey:
    """As `private_key`, of the half that others have."""
    _need(option)
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(file.read_bytes())
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{option} {file}: no public key in PEM ({error})") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{option} {file}: is no Ed25519 key")
    return key


def public_hex(key: Ed25519PrivateKey) -> str:
    """64 hex digits: the public half of a key."""
    return key.public_key().public_bytes_raw().hex()


def is_signed_by(key: Ed25519PublicKey, signature: bytes, data: bytes) -> bool:
    """Whether `signature` is of `data`, by the owner of `key`."""
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, data)
    except InvalidSignature:
        return False
    return True


def _need(option: str) -> None:
    try:
        import cryptography  # noqa: F401 - only whether it is there
    except ModuleNotFoundError as error:
        raise ConfigError(f"{option} needs the extra `sign`: pip install 'openwit[sign]'") from error
