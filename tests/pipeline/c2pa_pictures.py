"""Pictures with a C2PA manifest, signed by a certificate that nobody trusts and that is made on the spot."""

from __future__ import annotations

import datetime
import functools
import io
from typing import Any

__all__ = ["signed"]


def signed(body: bytes, assertion: dict[str, Any], media_type: str = "image/jpeg") -> bytes:
    """`body` with a manifest that holds `assertion`. Needs c2pa-python and cryptography."""
    from c2pa import Builder, C2paSignerInfo, C2paSigningAlg, Context, Settings, Signer

    certificates, key = _identity()
    manifest = {"claim_generator_info": [{"name": "test", "version": "1"}], "assertions": [assertion]}
    offline = {"verify": {"verify_after_sign": False, "verify_trust": False, "remote_manifest_fetch": False}}
    info = C2paSignerInfo(alg=C2paSigningAlg.ES256, sign_cert=certificates, private_key=key, ta_url=None)
    target = io.BytesIO()
    with (
        Builder(manifest, context=Context(Settings.from_dict(offline))) as builder,
        Signer.from_info(info) as signer,
    ):
        builder.sign(signer, media_type, io.BytesIO(body), target)
    return target.getvalue()


@functools.cache
def _identity() -> tuple[bytes, bytes]:
    """A chain of two certificates and the key of the first, in PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    authority, own = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    begins = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)

    def certificate(name: str, key: ec.EllipticCurvePrivateKey, *extensions: tuple[x509.ExtensionType, bool]) -> bytes:
        names = [
            x509.Name(
                [
                    x509.NameAttribute(NameOID.COMMON_NAME, each),
                    x509.NameAttribute(NameOID.ORGANIZATION_NAME, "test"),
                ]
            )
            for each in (name, "authority")
        ]
        builder = x509.CertificateBuilder(issuer_name=names[1], subject_name=names[0], public_key=key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(begins).not_valid_after(begins + datetime.timedelta(days=30))
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    leaf = certificate(
        "owner",
        own,
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (usage, True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), False),
    )
    root = certificate("authority", authority, (x509.BasicConstraints(ca=True, path_length=None), True))
    private = own.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return leaf + root, private
