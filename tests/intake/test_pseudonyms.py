"""Pseudonyms are what RFC 2104 says they are; the key is where only its owner finds it."""

import base64
import hashlib
import os
import re
import stat
import unicodedata
from pathlib import Path

import pytest

from intake.pseudonyms import KeyFileError, pseudonym, read_or_make_key

KEY = bytes(range(32))


def hmac_by_hand(message: bytes) -> bytes:
    """Two nested hashes, RFC 2104 section 2."""
    padded = KEY.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded) + message).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in padded) + inner).digest()


def test_a_pseudonym_is_the_start_of_an_hmac() -> None:
    expected = base64.b32encode(hmac_by_hand(b"4711")).decode().lower()[:10]
    assert pseudonym("4711", KEY) == f"sub-{expected}"
    assert re.fullmatch("sub-[a-z2-7]{10}", expected := pseudonym("4711", KEY)), expected


def test_patients_and_keys_differ_and_spelling_does_not() -> None:
    names = {pseudonym(str(number), KEY) for number in range(2000)}
    assert len(names) == 2000
    assert pseudonym("1", KEY[::-1]) not in names
    assert pseudonym(" Größe-1 ", KEY) == pseudonym(unicodedata.normalize("NFD", "Größe-1"), KEY)
    assert pseudonym("01", KEY) != pseudonym("1", KEY)


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="the key has 8 bytes; at least 32 expected"):
        pseudonym("1", b"password")


def test_a_key_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        first = read_or_make_key(tmp_path / "key", outside=[tmp_path / "workspace"])
    finally:
        os.umask(previous)
    assert len(first) == 32
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert read_or_make_key(tmp_path / "key", outside=[]) == first
    assert read_or_make_key(tmp_path / "other", outside=[]) != first


@pytest.mark.parametrize("path", ["workspace/key", "workspace/deeper/key", "link/key", "workspace/../workspace/key"])
def test_a_key_inside_of_the_workspace_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "workspace" / "deeper").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "workspace")
    with pytest.raises(KeyFileError, match="lies inside of .*workspace, which may be handed on"):
        read_or_make_key(tmp_path / path, outside=[tmp_path / "elsewhere", tmp_path / "workspace"])
    assert not list((tmp_path / "workspace").rglob("key"))


def test_a_link_from_outside_into_the_workspace_is_refused(tmp_path: Path) -> None:
    (tmp_path / "workspace").mkdir()
    (tmp_path / "key").symlink_to(tmp_path / "workspace" / "key")
    with pytest.raises(KeyFileError, match="lies inside of"):
        read_or_make_key(tmp_path / "key", outside=[tmp_path / "workspace"])


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        ("00" * 32, 0o640, r"others may read the key file .* \(mode 0640\); run chmod 600 on it"),
        ("00" * 16, 0o600, "holds 16 bytes; a key has 32"),
        ("my secret word", 0o600, "holds no key; 64 hexadecimal digits expected"),
        ("Schlüssel", 0o600, "holds no key"),
    ],
)
def test_a_key_file_that_cannot_be_used(tmp_path: Path, content: str, mode: int, message: str) -> None:
    path = tmp_path / "key"
    path.write_text(content, "utf-8")
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=message):
        read_or_make_key(path, outside=[])
    assert path.read_text("utf-8") == content


def test_a_key_in_no_folder_or_that_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="cannot be made: No such file or directory"):
        read_or_make_key(tmp_path / "nowhere" / "key", outside=[])
    with pytest.raises(KeyFileError, match="cannot be read: Is a directory"):
        read_or_make_key(tmp_path, outside=[])


def test_a_key_file_that_is_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(KeyFileError, match="pipe is a pipe, a device or a socket"):
        read_or_make_key(tmp_path / "pipe", outside=[])
    with pytest.raises(KeyFileError, match="/dev/zero is a pipe, a device"):
        read_or_make_key(Path("/dev/zero"), outside=[])
    (tmp_path / "large").write_bytes(b"ab" * 10_000_000)
    (tmp_path / "large").chmod(0o600)
    with pytest.raises(KeyFileError, match="holds 500 bytes; a key has 32"):
        read_or_make_key(tmp_path / "large", outside=[])
    (tmp_path / "ring").symlink_to("ring")
    with pytest.raises(KeyFileError, match="cannot be"):
        read_or_make_key(tmp_path / "ring", outside=[])
