"""The folder of Dask's processes is nobody else's."""

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest

from console.errors import InputError
from files.writing import PlantedLinkError
from pipeline.executors.certificate import write_certificate
from pipeline.executors.private_folder import FOLDER, OTHERS_READ, OTHERS_WRITE, private_folder


def test_the_private_folder_is_made_anew_and_removed(tmp_path: Path) -> None:
    left = tmp_path / FOLDER / "key.pem"
    left.parent.mkdir()
    left.write_text("of a run that was killed")
    before = os.umask(0)
    try:
        with private_folder(tmp_path, forbidden=OTHERS_READ) as folder:
            assert list(folder.iterdir()) == []
            assert folder.stat().st_mode & 0o777 == 0o700
            write_certificate(folder)
            assert [path.stat().st_mode & 0o777 for path in folder.iterdir()] == [0o600, 0o600]
    finally:
        os.umask(before)
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_place_of_the_private_folder_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("by its owner")
    (tmp_path / FOLDER).symlink_to(elsewhere)
    with (
        pytest.raises(PlantedLinkError, match=r"\.dask"),
        private_folder(tmp_path, forbidden=OTHERS_READ),
    ):
        pass
    assert [path.name for path in elsewhere.iterdir()] == ["kept"]


@pytest.mark.parametrize(("rights", "reading", "writing"), [(0o777, True, True), (0o755, True, False)])
def test_a_file_system_that_gives_others_rights_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rights: int, reading: bool, writing: bool
) -> None:
    make = Path.mkdir

    def generous(path: Path, *given: Any, **options: Any) -> None:
        make(path, *given, **options)
        path.chmod(rights)

    monkeypatch.setattr(Path, "mkdir", generous)
    pattern = f"gives it rights {rights:o}: .* --executor local"
    for forbidden, refused in ((OTHERS_READ, reading), (OTHERS_WRITE, writing)):
        with (
            pytest.raises(InputError, match=pattern) if refused else contextlib.nullcontext(),
            private_folder(tmp_path, forbidden=forbidden),
        ):
            pass
        assert list(tmp_path.iterdir()) == []
