"""Files that know subjects without naming them: salted hashes of their ids, slow to try."""

import hashlib
import secrets
from collections.abc import Iterable
from pathlib import Path

from cohort.names import canonical
from pipeline.store.base import read_record, write_record

ROUNDS = 20_000  # of PBKDF2; some 10 ms a subject


def add_hashes(path: Path, subjects: Iterable[str]) -> None:
    """Write hashes of subjects beside those that the file has."""
    record = read_record(path) or {"salt": secrets.token_hex(16), "subjects": []}
    salt = bytes.fromhex(record["salt"])
    hashes = {*record["subjects"], *(_hash(subject, salt) for subject in subjects)}
    write_record(path, {"salt": record["salt"], "subjects": sorted(hashes)})


def hashed_in(path: Path, subjects: Iterable[str]) -> list[str] | None:
    """Return those of some subjects whom the file knows; None if it is missing or damaged."""
    record = read_record(path)
    if record is None:
        return None
    salt = bytes.fromhex(record["salt"])
    return [subject for subject in subjects if _hash(subject, salt) in record["subjects"]]


def _hash(subject: str, salt: bytes) -> str:
    return hashlib.pbkdf2_hmac("sha256", canonical(subject).encode("utf-8", "surrogateescape"), salt, ROUNDS).hex()
