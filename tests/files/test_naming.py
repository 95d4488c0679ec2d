"""Files are found in whatever Unicode form their names are written."""

import unicodedata
from pathlib import Path

import pytest

from files.naming import as_on_disk

NFC, NFD = (unicodedata.normalize(form, "Größe é") for form in ("NFC", "NFD"))


@pytest.mark.parametrize("folder", [NFC, NFD])
@pytest.mark.parametrize("file", [NFC, NFD])
@pytest.mark.parametrize("written", [NFC, NFD])
def test_every_form_is_found(tmp_path: Path, folder: str, file: str, written: str) -> None:
    (tmp_path / folder).mkdir()
    (tmp_path / folder / file).touch()
    assert as_on_disk(tmp_path / written / written) == tmp_path / folder / file


def test_what_is_there_as_it_is_written_comes_first(tmp_path: Path) -> None:
    for name in (NFC, NFD):
        (tmp_path / name).touch()
        assert as_on_disk(tmp_path / name).name == name


@pytest.mark.parametrize("path", ["é/x", "x/é", "é\0", "é" * 200, "../é"])
def test_what_is_nowhere_stays_as_it_is_written(tmp_path: Path, path: str) -> None:
    assert as_on_disk(tmp_path / path) == tmp_path / path
    (tmp_path / "x").touch()  # no folder
    assert as_on_disk(tmp_path / path) == tmp_path / path
