"""Key pairs in PEM files, as OpenSSL writes them, without a passphrase: the secret half for its owner alone."""

import errno
import hashlib
import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

MOST_KEY = 65_536  # bytes of a key file


def write_key_pair(path: Path, key: Ed25519PrivateKey | X25519PrivateKey) -> None:
    """Write a key with mode 0600, and its public half beside it, `.pub`; nothing is overwritten.

    Raises:
        OSError: one of the files exists already, or cannot be written; `filename` says which.
    """
    public = path.with_name(f"{path.name}.pub")
    shown = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for file, mode, content in ((public, 0o644, shown), (path, 0o600, secret)):
        try:
            if os.path.lexists(path):  # before its public half is made
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
                stream.write(content)
        except OSError as error:
            error.filename = str(file)
            raise


def fingerprint(key: Ed25519PublicKey | X25519PublicKey) -> str:
    """Return the SHA-256 of the 32 bytes of a public key, hex."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()
