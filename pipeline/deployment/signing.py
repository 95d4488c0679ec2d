"""Signatures of exported models: a lab signs with a key that it keeps, who uses the model checks with the public half.

python -m pipeline.deployment.signing new KEYFILE      makes KEYFILE, for its owner alone, and KEYFILE.pub for others
python -m pipeline.deployment.signing show KEY.pub     prints a key's fingerprint, to be compared over the telephone

Ed25519 (RFC 8032); keys are PEM files as OpenSSL writes them, without a passphrase. checksums.json.sig holds two lines
in base64, the signature of checksums.json and the signer's public key. The key there only says who claims to have
signed; what makes a signature worth something is the same key from another way, given with --trusted.
"""

import argparse
import base64
import hashlib
import os
import stat
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from console.errors import InputError
from files.reading import UnusableFileError, open_regular, read_bytes

PROGRAM = "python -m pipeline.deployment.signing"
MOST_KEY = 65_536  # bytes of a key file


class SignatureError(InputError):
    """A key cannot be used, or a signature is missing, wrong or of a key that is not trusted."""


def new_key(path: Path) -> str:
    """Make a key for signing, with mode 0600, and its public half beside it, `.pub`; returns the fingerprint.

    Raises:
        SignatureError: one of the files is there already, or cannot be written.
    """
    key, public = Ed25519PrivateKey.generate(), path.with_name(f"{path.name}.pub")
    written = (
        (public, 0o644, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)),
        (path, 0o600, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())),
    )
    for file, mode, content in written:
        try:
            if os.path.lexists(path):  # before its public half is made
                raise FileExistsError(17, "File exists")
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
                stream.write(content)
        except OSError as error:
            raise SignatureError(f"the key {file} cannot be made: {error.strerror}; no key is overwritten") from error
    return fingerprint(key.public_key())


def fingerprint(key: Ed25519PublicKey) -> str:
    """SHA-256 of the 32 bytes of a public key, hex."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()


def key_fingerprint(path: Path) -> str:
    """The fingerprint of a key for signing.

    Raises:
        SignatureError: the file holds none, or others may read it.
    """
    return fingerprint(_private_key(path).public_key())


def signature(content: bytes, key_file: Path) -> str:
    """What checksums.json.sig holds.

    Raises:
        SignatureError: as `key_fingerprint`.
    """
    key = _private_key(key_file)
    lines = (key.sign(content), key.public_key().public_bytes_raw())
    return "".join(f"{base64.b64encode(line).decode('ascii')}\n" for line in lines)


def signer(content: bytes, signed: bytes) -> str:
    """The fingerprint of the key that a content was signed with, whoever's it is.

    Args:
        content: of checksums.json.
        signed: content of checksums.json.sig.

    Raises:
        SignatureError: it is no signature of this content.
    """
    try:
        proof, raw = (base64.b64decode(line, validate=True) for line in signed.split(b"\n", 2)[:2])
        key = Ed25519PublicKey.from_public_bytes(raw)
        key.verify(proof, content)
    except (ValueError, InvalidSignature) as error:
        raise SignatureError("the signature does not fit: files were changed after signing; do not trust it") from error
    return fingerprint(key)


def trusted_fingerprints(places: Iterable[Path]) -> set[str]:
    """Fingerprints of public keys.

    Args:
        places: files, or folders with files `*.pub`.

    Raises:
        SignatureError: a file holds no such key, or a folder no such file.
    """
    found: set[str] = set()
    for place in places:
        files = sorted(place.glob("*.pub")) if place.is_dir() else [place]
        if not files:
            raise SignatureError(f"the folder {place} holds no public key, KEY.pub")
        found |= {fingerprint(_public_key(file)) for file in files}
    return found


def _private_key(path: Path) -> Ed25519PrivateKey:
    try:
        with open_regular(path) as stream:
            mode, content = stat.S_IMODE(os.fstat(stream.fileno()).st_mode), stream.read(MOST_KEY)
        if mode & 0o077 and os.name == "posix":
            raise SignatureError(f"others may read the key {path} (mode {mode:04o}); run chmod 600 on it")
        key = load_pem_private_key(content, password=None)
    except OSError as error:
        raise SignatureError(f"the key {path} cannot be read: {error.strerror}") from error
    except TypeError as error:
        raise SignatureError(f"the key {path} has a passphrase; one without is needed") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise error if isinstance(error, SignatureError) else _no_key(path, "signing") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key(path, "signing")
    return key


def _public_key(path: Path) -> Ed25519PublicKey:
    try:
        content = read_bytes(path, most=MOST_KEY)
        if b"PRIVATE KEY" in content:
            raise SignatureError(f"{path} is the secret half of a key; hand out {path.name}.pub, and keep this one")
        key = load_pem_public_key(content)
    except OSError as error:
        raise SignatureError(f"the key {path} cannot be read: {error.strerror}") from error
    except (ValueError, UnsupportedAlgorithm, UnusableFileError) as error:
        raise error if isinstance(error, SignatureError) else _no_key(path, "checking signatures") from error
    if not isinstance(key, Ed25519PublicKey):
        raise _no_key(path, "checking signatures")
    return key


def _no_key(path: Path, use: str) -> SignatureError:
    return SignatureError(f"{path} holds no key for {use}; {PROGRAM} new KEYFILE makes a pair")


def main(words: Sequence[str]) -> int:
    """Run it; the exit code is 0, or 2 for what a person has to mend."""
    options = argparse.ArgumentParser(prog=PROGRAM, description="Keys that sign exported models.")
    ways = options.add_subparsers(dest="way", required=True, metavar="new|show")
    way = ways.add_parser("new", help="make KEYFILE, to be kept, and KEYFILE.pub, to be handed out")
    way.add_argument("key", type=Path, metavar="KEYFILE")
    way = ways.add_parser("show", help="print the fingerprint of a public key")
    way.add_argument("key", type=Path, metavar="KEY.pub")
    chosen = options.parse_args(words)
    try:
        if chosen.way == "show":
            print(*trusted_fingerprints([chosen.key]), sep="\n")
        else:
            print(f"fingerprint {new_key(chosen.key)}\nsign with --export.signing_key {chosen.key}; hand out "
                  f"{chosen.key}.pub")  # fmt: skip
    except SignatureError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
