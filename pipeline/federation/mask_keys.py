"""Keys of the masks: each site has one, and every pair derives numbers from them that nobody else can know.

X25519 between the secret key of one and the public key of the other, HKDF-SHA256 with plan, round, and the names and
public keys of both, ChaCha20 as the source of numbers. Who replaces a public key on its way can undo the masks of that
pair; so fingerprints are compared another way, such as by telephone.

Source: RFC 7748 (X25519), RFC 5869 (HKDF), RFC 8439 (ChaCha20).
"""

import hashlib
import os
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from console.errors import InputError
from files.key_pairs import MOST_KEY, fingerprint, write_key_pair
from files.reading import UnusableFileError, open_regular, read_bytes
from files.writing import PRIVATE, readable_by, replacing

MOST_SITES = 1000
MOST_ROUNDS = 10_000_000  # bytes of a list of rounds


class MaskKeyError(InputError):
    """A key of the masks cannot be used; the message says which."""


def new_key(path: Path) -> str:
    """Make a key, with mode 0600, and its public half beside it, `.pub`; return the fingerprint.

    Raises:
        MaskKeyError: one of the files exists already, or cannot be written.
    """
    key = X25519PrivateKey.generate()
    try:
        write_key_pair(path, key)
    except OSError as error:
        raise MaskKeyError(
            f"the key {error.filename} cannot be made: {error.strerror}; no key is overwritten"
        ) from error
    return fingerprint(key.public_key())


def secret_key(path: Path) -> X25519PrivateKey:
    """Read a secret key.

    Raises:
        MaskKeyError: the file holds none, or others may read it.
    """
    try:
        with open_regular(path) as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            key = load_pem_private_key(stream.read(MOST_KEY), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm, UnusableFileError) as error:
        raise MaskKeyError(f"{path} holds no key of masks: {error}; federation key makes one") from error
    if not isinstance(key, X25519PrivateKey):
        raise MaskKeyError(f"{path} is a key for another purpose; python -m pipeline.cli.federation key makes one")
    if mode & 0o077 and os.name == "posix":
        raise MaskKeyError(f"others may read the key {path} (mode {mode:04o}); run chmod 600 on it")
    return key


def public_key(path: Path) -> X25519PublicKey:
    """Read a public key.

    Raises:
        MaskKeyError: the file holds none.
    """
    try:
        key = load_pem_public_key(read_bytes(path, most=MOST_KEY))
    except (OSError, ValueError, UnsupportedAlgorithm, UnusableFileError) as error:
        raise MaskKeyError(f"{path} holds no public key: {error}") from error
    if not isinstance(key, X25519PublicKey):
        raise MaskKeyError(f"{path} is a key for another purpose than masks")
    return key


def public_keys(folder: Path) -> dict[str, X25519PublicKey]:
    """Return site → public key, of all NAME.pub in a folder, by name.

    Raises:
        MaskKeyError: a file holds no key, or two sites have the same.
    """
    files = sorted(folder.glob("*.pub"))
    if len(files) > MOST_SITES:
        raise MaskKeyError(f"{folder} has {len(files)} public keys; masks are made for at most {MOST_SITES} sites")
    keys = {path.stem: public_key(path) for path in files}
    if len({fingerprint(key) for key in keys.values()}) < len(keys):
        raise MaskKeyError(f"{folder}: two sites have the same public key; each needs its own")
    return keys


def use_round(path: Path, context: str) -> None:
    """Note beside a key, in KEY.rounds, that masks were made with it for a context; the same masks are made once only.

    A workspace knows its own rounds; this knows those of all workspaces that share the key.

    Raises:
        MaskKeyError: they were made before, or this cannot be noted.
    """
    used, told = path.with_name(f"{path.name}.rounds"), hashlib.sha256(context.encode()).hexdigest()
    try:
        before = read_bytes(used, most=MOST_ROUNDS).decode().split() if used.exists() else []
        if told in before:
            raise MaskKeyError(
                f"the key {path} has made masks for this round before, perhaps from another workspace; the same masks "
                "on other sums would give their difference away. Agree on another contribute.round with all sites"
            )
        with readable_by(PRIVATE), replacing(used) as partial:
            partial.write_text("".join(f"{each}\n" for each in [*before, told]), "ascii")
    except (OSError, ValueError, UnusableFileError) as error:
        raise MaskKeyError(f"{used}, which lists the rounds of the key, cannot be used: {error}") from error


def streams(
    own: str, secret: X25519PrivateKey, keys: dict[str, X25519PublicKey], *, context: str, size: int
) -> dict[str, bytes]:
    """Return other site → `size` random bytes that only it and this site know.

    Args:
        own: name of this site.
        secret: its key.
        keys: site → public key, this one's too.
        context: what the masks are for; masks of another context are others.
        size: bytes.

    Raises:
        MaskKeyError: this site is not among the keys, or its public key belongs to another secret key.
    """
    if own not in keys:
        raise MaskKeyError(f"no {own}.pub among the public keys ({', '.join(keys) or 'none'})")
    if fingerprint(keys[own]) != fingerprint(secret.public_key()):
        raise MaskKeyError(f"{own}.pub is not the public half of this site's key; give the right one to all sites")
    found = {}
    for name, key in keys.items():
        if name == own:
            continue
        pair = sorted((own, name))
        told = "\n".join([context, *pair, *(fingerprint(keys[each]) for each in pair)])
        try:
            shared = secret.exchange(key)
        except ValueError as error:
            raise MaskKeyError(f"the public key of {name} is weak: {error}") from error
        seed = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=told.encode()).derive(shared)
        found[name] = Cipher(algorithms.ChaCha20(seed, bytes(16)), mode=None).encryptor().update(bytes(size))
    return found
