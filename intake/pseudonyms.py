"""Pseudonyms of patients, which only the owner of a secret key can link to them."""

import base64
import hashlib
import hmac
import os
import secrets
import stat
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from files.reading import UnusableFileError, open_regular

KEY_BYTES = 32
LONGEST_FILE = 1000  # bytes that are read
LETTERS = 10  # of 5 bits; among 10,000 patients two share a pseudonym with a chance of 4 in 100 million


class KeyFileError(ValueError):
    """The file with the secret key cannot be used."""


def pseudonym(patient: str, key: bytes) -> str:
    """Derive a pseudonym from patient and key; without the key nobody can test patient ids.

    The first letters of HMAC-SHA256(key, patient id) in base 32.

    Args:
        patient: PatientID; spaces around it are dropped, letters with accents brought to one form (NFC).
        key: at least 32 bytes, secret.

    Returns:
        "sub-" and ten of a-z and 2-7.

    Raises:
        ValueError: the key is too short.

    Source: RFC 2104 (HMAC), RFC 4648 section 6 (base 32).
    """
    if len(key) < KEY_BYTES:
        raise ValueError(f"the key has {len(key)} bytes; at least {KEY_BYTES} expected")
    identity = unicodedata.normalize("NFC", patient.strip())
    code = hmac.new(key, identity.encode("utf-8", "surrogateescape"), hashlib.sha256).digest()
    return "sub-" + base64.b32encode(code).decode("ascii")[:LETTERS].lower()


def read_or_make_key(path: Path, *, outside: Sequence[Path]) -> bytes:
    """Read the secret key, or make one and write it where only its owner can read it (mode 0600).

    Keep the file: without it, later scans of a patient get another name. Whoever has it and a list of patient ids can
    undo the pseudonyms.

    Args:
        path: of the key file; its folder must exist.
        outside: folders that it must not lie in, links followed: the workspace, the converted scans, the export.

    Returns:
        32 bytes.

    Raises:
        KeyFileError: the file lies inside of one of the folders, others can read it, or it holds no key.
    """
    real = Path(os.path.realpath(path))
    for folder in outside:
        if real.is_relative_to(os.path.realpath(folder)):
            raise KeyFileError(
                f"the key file {path} lies inside of {folder}, which may be handed on; keep it elsewhere, such as in "
                "your home folder"
            )
    try:
        handle = os.open(real, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _read_key(real)
    except OSError as error:
        hint = "" if real.parent.is_dir() else f"; make the folder {real.parent} first"
        raise KeyFileError(f"the key file {path} cannot be made: {error.strerror}{hint}") from error
    key = secrets.token_bytes(KEY_BYTES)
    with os.fdopen(handle, "w", encoding="ascii") as stream:
        stream.write(key.hex() + "\n")
    return key


def _read_key(path: Path) -> bytes:
    try:
        with open_regular(path) as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            key = bytes.fromhex(stream.read(LONGEST_FILE).decode("ascii").strip())
    except OSError as error:
        raise KeyFileError(f"the key file {path} cannot be read: {error.strerror}") from error
    except UnusableFileError as error:
        raise KeyFileError(f"the key file cannot be read: {error}") from error
    except ValueError as error:
        raise KeyFileError(f"{path} holds no key; {2 * KEY_BYTES} hexadecimal digits expected") from error
    if mode & 0o077 and os.name == "posix":
        raise KeyFileError(f"others may read the key file {path} (mode {mode:04o}); run chmod 600 on it")
    if len(key) != KEY_BYTES:
        raise KeyFileError(f"{path} holds {len(key)} bytes; a key has {KEY_BYTES}")
    return key
