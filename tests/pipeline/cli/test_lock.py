"""A workspace has one holder at a time, whatever is deleted or planted in it."""

import errno
import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest

from console.errors import InputError
from files.reading import UnusableFileError
from files.writing import PlantedLinkError
from pipeline.cli import lock
from pipeline.cli.lock import locked


def test_who_holds_the_workspace_and_since_when(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with locked(tmp_path):
        holder = json.loads((tmp_path / ".lock").read_text())
        pattern = rf"in use by process {holder['process']} on {holder['host']} since {holder['since'][:10]}.*; wait for"
        with pytest.raises(InputError, match=pattern), locked(tmp_path):
            pass
        assert json.loads((tmp_path / ".lock").read_text()) == holder
    assert (tmp_path / ".lock").read_text() == ""  # a run on another machine is not told of one that ended well
    with locked(tmp_path):
        pass
    assert not caplog.messages


def test_a_run_on_another_machine_that_did_not_end_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its lock may not reach this machine, so a person has to know."""
    left = {"process": 17, "host": "another-machine", "since": "2026-01-31T22:00:00+01:00"}
    (tmp_path / ".lock").write_text(json.dumps(left))
    with locked(tmp_path):
        pass
    (message,) = caplog.messages
    assert "process 17 on another-machine since 2026-01-31T22:00:00+01:00" in message
    assert "stop this one" in message


def test_deleting_the_file_lets_nobody_in(tmp_path: Path) -> None:
    with locked(tmp_path):
        (tmp_path / ".lock").unlink()
        with pytest.raises(InputError, match=r"in use by another run \(.lock does not say which: it was deleted"), \
                locked(tmp_path):  # fmt: skip
            pass
        (tmp_path / ".lock").write_text("")  # nor does another file in its place
        with pytest.raises(InputError, match="in use by"), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("content", ["[1, 2]", "{" * 5000, "\xff", "{}", '{"host": 3}', "x" * 100_000])
def test_a_damaged_file_is_no_obstacle(tmp_path: Path, content: str) -> None:
    (tmp_path / ".lock").write_text(content, "latin-1")
    with locked(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["process"] == os.getpid()


def test_nothing_is_written_through_a_link_or_into_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "victim")
    with pytest.raises(PlantedLinkError, match="a link to elsewhere"), locked(tmp_path / "run"):
        pass
    assert (tmp_path / "victim").read_text() == "precious"
    (tmp_path / "run" / ".lock").unlink()
    os.mkfifo(tmp_path / "run" / ".lock")
    with pytest.raises(UnusableFileError, match="pipe"), locked(tmp_path / "run"):
        pass


@pytest.mark.parametrize("occupied", [False, True])
def test_a_workspace_that_was_moved_is_told(tmp_path: Path, occupied: bool) -> None:
    def move() -> None:
        (tmp_path / "run").rename(tmp_path / "moved")
        if occupied:
            (tmp_path / "run").mkdir()

    with pytest.raises(InputError, match="was moved or replaced while the run was at work"), locked(tmp_path / "run"):
        move()


@pytest.mark.parametrize("number", [errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_folders_cannot_be_locked_the_file_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """NFS locks only what is open for writing, which no folder can be."""

    def flock(handle: Any, how: int) -> None:
        if isinstance(handle, int):
            raise OSError(number, os.strerror(number))
        fcntl_flock(handle, how)

    fcntl_flock = fcntl.flock
    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with locked(tmp_path):
        with pytest.raises(InputError, match=f"in use by process {os.getpid()}"), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass


def test_where_nothing_can_be_locked_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(handle: Any, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with pytest.raises(InputError, match="file system without file locks"), locked(tmp_path):
        pass
