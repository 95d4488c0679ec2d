"""Signatures of exported models: a lab signs with its secret key, users check with the public key.

python -m pipeline.deployment.signing new KEYFILE      makes KEYFILE, for its owner alone, and KEYFILE.pub for others
python -m pipeline.deployment.signing show KEY.pub     prints a key's fingerprint, to be compared over the telephone

Ed25519 (RFC 8032); keys are PEM files as OpenSSL writes them, without a passphrase. checksums.json.sig holds two lines
in base64, the signature of checksums.json and the signer's public key. That key only says who claims to have
signed; a signature is trusted only if the same key, received in another way, is given with --trusted.
"""

import argparse
import base64
import os
import stat
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from console.errors import InputError
from files.key_pairs import MOST_KEY, fingerprint, write_key_pair
from files.reading import UnusableFileError, open_regular, read_bytes

PROGRAM = "python -m pipeline.deployment.signing"


class SignatureError(InputError):
    """A key cannot be used, or a signature is missing, wrong or of a key that is not trusted."""


def new_key(path: Path) -> str:
    """Make a key for signing, with mode 0600, and its public half beside it, `.pub`; return the fingerprint.

    Raises:
        SignatureError: one of the files exists already, or cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    try:
        write_key_pair(path, key)
    except OSError as error:
        raise SignatureError(
            f"the key {error.filename} cannot be made: {error.strerror}; no key is overwritten"
        ) from error
    return fingerprint(key.public_key())


def key_fingerprint(path: Path) -> str:
    """Return the fingerprint of a key for signing.

    Raises:
        SignatureError: the file holds no key, or others may read it.
    """
    return fingerprint(_private_key(path).public_key())


def signature(content: bytes, key_file: Path) -> str:
    """Return the content of checksums.json.sig.

    Raises:
        SignatureError: as `key_fingerprint`.
    """
    key = _private_key(key_file)
    lines = (key.sign(content), key.public_key().public_bytes_raw())
    return "".join(f"{base64.b64encode(line).decode('ascii')}\n" for line in lines)


def signer(content: bytes, signed: bytes) -> str:
    """Return the fingerprint of the key that a content was signed with, trusted or not.

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


def trusted_fingerprints(paths: Iterable[Path]) -> set[str]:
    """Read the fingerprints of public keys.

    Args:
        paths: files, or folders with files `*.pub`.

    Raises:
        SignatureError: a file holds no such key, or a folder no such file.
    """
    fingerprints: set[str] = set()
    for path in paths:
        files = sorted(path.glob("*.pub")) if path.is_dir() else [path]
        if not files:
            raise SignatureError(f"the folder {path} holds no public key, KEY.pub")
        fingerprints |= {fingerprint(_public_key(file)) for file in files}
    return fingerprints


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


def main(argv: Sequence[str]) -> int:
    """Run the command line; the exit code is 0, or 2 for an error of the user."""
    options = argparse.ArgumentParser(prog=PROGRAM, description="Keys that sign exported models.")
    commands = options.add_subparsers(dest="command", required=True, metavar="new|show")
    command = commands.add_parser("new", help="make KEYFILE, to be kept, and KEYFILE.pub, to be handed out")
    command.add_argument("key", type=Path, metavar="KEYFILE")
    command = commands.add_parser("show", help="print the fingerprint of a public key")
    command.add_argument("key", type=Path, metavar="KEY.pub")
    chosen = options.parse_args(argv)
    try:
        if chosen.command == "show":
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
