"""Nothing that is read can hang or flood."""

import gzip
import hashlib
import json
import os
import zlib
from pathlib import Path

import pytest

from files.reading import UnusableFileError, file_sha256, gunzip, parse_json, read_bytes


def test_content_and_hash(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("f")
    assert read_bytes(tmp_path / "link") == b"abc"
    assert file_sha256(tmp_path / "f") == hashlib.sha256(b"abc").hexdigest()
    assert read_bytes(tmp_path / "f", most=3) == b"abc"
    with pytest.raises(UnusableFileError, match="3 bytes; at most 2"):
        read_bytes(tmp_path / "f", most=2)


def test_a_pipe_does_not_hang_and_devices_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), Path("/dev/null")):
        with pytest.raises(UnusableFileError, match="pipe, a device or a socket"):
            read_bytes(path)
    with pytest.raises(IsADirectoryError):
        read_bytes(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "none")


def test_gunzip_as_gzip_does() -> None:
    content = os.urandom(3_000_000) + bytes(5_000_000)
    packed = gzip.compress(content[:100]) + gzip.compress(content[100:]) + bytes(512)
    assert gunzip(packed, most=len(content)) == gzip.decompress(packed) == content
    with pytest.raises(UnusableFileError, match="unpacks to more than"):
        gunzip(packed, most=len(content) - 1)
    with pytest.raises(EOFError):
        gunzip(packed[:-600], most=len(content))
    with pytest.raises(zlib.error):
        gunzip(packed[:400] + b"\0\1\2" + packed[403:], most=len(content))


def test_a_bomb_is_given_up_without_unpacking_it() -> None:
    import tracemalloc

    bomb = gzip.compress(bytes(50_000_000))
    tracemalloc.start()
    with pytest.raises(UnusableFileError):
        gunzip(bomb, most=1000)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_json_deep_or_broken() -> None:
    assert parse_json('{"a": [1, {"b": null}]}') == {"a": [1, {"b": None}]}
    assert parse_json(json.dumps("[" * 1000)) == "[" * 1000
    for text in ("[" * 200 + "]" * 200, "[" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000):
        with pytest.raises(UnusableFileError, match="deep|not JSON"):
            parse_json(text)
    with pytest.raises(UnusableFileError, match="not JSON"):
        parse_json("{")
    with pytest.raises(UnusableFileError, match="a key stands there twice"):
        parse_json('{"a": 1, "b": {"c": 1, "c": 1}}')


def test_no_room_is_taken_for_what_is_not_there(tmp_path: Path) -> None:
    import tracemalloc

    (tmp_path / "f").write_bytes(bytes(1000))
    tracemalloc.start()
    assert len(read_bytes(tmp_path / "f", most=10**12)) == 1000
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    assert read_bytes(Path("/proc/self/status")).startswith(b"Name:")  # a file that says it has no bytes
    with pytest.raises(UnusableFileError, match="at most 5 are read"):
        read_bytes(Path("/proc/self/status"), most=5)
