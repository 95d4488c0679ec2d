"""Records steer no terminal and pass for no other; the log is written through no link."""

import os
from pathlib import Path

import pytest

from files.reading import UnusableFileError
from files.writing import PlantedLinkError
from pipeline.cli import run_log

EVIL = "a\x1b]0;owned\x07\r\n2026-01-01 00:00:00,000 INFO all is well\u202e"


def test_a_record_cannot_forge_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with run_log.logging_to(tmp_path, quiet=False):
        run_log.log.info("scan %s: faulty", EVIL)
        try:
            raise ValueError(EVIL)
        except ValueError:
            run_log.log.exception("a bug")
    (file,) = (tmp_path / "logs").iterdir()
    for text in (file.read_text("utf-8"), capsys.readouterr().err):
        assert not [c for c in "\x1b\x07\r\u202e" if c in text]
        assert r"a\x1b]0;owned\x07\r" in text
        first = [line for line in text.splitlines() if not line.startswith("  | ")]
        assert len(first) == 2
        assert "  |     raise ValueError(EVIL)" in text  # a traceback is readable


def test_no_link_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "logs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PlantedLinkError), run_log.logging_to(tmp_path / "run", quiet=True):
        pass
    assert not list((tmp_path / "elsewhere").iterdir())

    class Noon(run_log.datetime.datetime):
        def strftime(self, form: str) -> str:
            return "noon"

    monkeypatch.setattr(run_log.datetime, "datetime", Noon)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "noon.log").symlink_to(tmp_path / "elsewhere" / "file")
    with pytest.raises(PlantedLinkError), run_log.logging_to(tmp_path, quiet=True):
        pass
    (tmp_path / "logs" / "noon.log").unlink()
    os.mkfifo(tmp_path / "logs" / "noon.log")
    with pytest.raises(UnusableFileError), run_log.logging_to(tmp_path, quiet=True):
        pass


def test_two_runs_in_one_second_share_a_file(tmp_path: Path) -> None:
    for argument in ("first", "second"):
        with run_log.logging_to(tmp_path, quiet=True):
            run_log.log.info(argument)
    text = "".join(file.read_text() for file in sorted((tmp_path / "logs").iterdir()))
    assert "first" in text
    assert "second" in text
