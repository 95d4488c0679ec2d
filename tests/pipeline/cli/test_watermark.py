"""The command that makes keys and looks for marks: what it reads, says and returns."""

import re
from pathlib import Path

import numpy as np
import pytest
from helpers.dicom_series import write_series
from helpers.marked import AFFINE, KEY, OTHER_KEY, head, picture

from pipeline.cli.watermark import main
from preprocessing.encoding import png_bytes
from preprocessing.volumes import write_volume
from synthesis.watermark import mark_picture, mark_volume


@pytest.fixture(scope="module")
def brain():
    return head()


@pytest.fixture(scope="module")
def marked(brain):
    return mark_volume(*brain, AFFINE, key=KEY, batch="1")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "mark.key"
    path.write_text(KEY.hex() + "\n")
    path.chmod(0o600)
    return path


def run(*words: object) -> int:
    return main([str(word) for word in ("verify", *words, "--fast")])


def test_marked_files_end_in_0_and_the_others_in_3(tmp_path, key, brain, marked, capsys):
    write_volume(tmp_path / "made.nii.gz", np.round(4095 * marked).astype(np.int16), AFFINE)
    write_volume(tmp_path / "real.nii.gz", brain[0], AFFINE)
    (tmp_path / "made.png").write_bytes(png_bytes(mark_picture(picture(), key=KEY, batch="1")))
    assert run(tmp_path / "made.nii.gz", tmp_path / "made.png", "--key", key) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"{tmp_path / 'made.nii.gz'}: z = ")
    assert "p = " in said[0]
    assert said[0].endswith(": marked")
    assert said[2] == "2 marked, 0 without a mark of this key"
    assert run(tmp_path / "made.nii.gz", tmp_path / "real.nii.gz", "--key", key) == 3
    said = capsys.readouterr().out.splitlines()
    assert said[1].endswith("p = 1: no mark of this key")
    assert said[2] == "1 marked, 1 without a mark of this key"


def test_batch_has_to_be_the_one_of_the_mark(tmp_path, key, brain, capsys):
    marked = mark_volume(*brain, AFFINE, key=KEY, batch="spring")
    write_volume(tmp_path / "made.nii.gz", marked, AFFINE)
    assert run(tmp_path / "made.nii.gz", "--key", key) == 3
    assert run(tmp_path / "made.nii.gz", "--key", key, "--batch", "autumn", "--batch", "spring") == 0


def test_other_key_finds_nothing_and_no_key_is_printed(tmp_path, key, marked, capsys):
    write_volume(tmp_path / "made.nii.gz", marked, AFFINE)
    key.write_text(OTHER_KEY.hex())
    assert run(tmp_path / "made.nii.gz", "--key", key) == 3
    said = capsys.readouterr()
    assert OTHER_KEY.hex()[:16] not in said.out + said.err


def test_dicom_folder_is_read_slice_by_slice(tmp_path, key, marked, capsys):
    stored = np.round(4095 * marked).astype("<u2")[:, ::-1]  # rows of DICOM run to the back

    def pixels(image, number, frame):
        plane = stored[:, :, number].T
        image.Rows, image.Columns = plane.shape
        image.PixelSpacing, image.PixelData = [2.0, 2.0], np.ascontiguousarray(plane).tobytes()

    write_series(tmp_path / "export", slices=marked.shape[2], each=pixels)
    assert run(tmp_path / "export", "--key", key) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{tmp_path / 'export'}, series 3: z = ")
    assert "PLANT" not in said.upper().replace(str(tmp_path).upper(), "")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.nii.gz", None, "No such file or directory"),
        ("missing", None, "No such file or directory"),
        ("broken.nii.gz", b"not packed", "the file is truncated or damaged"),
        ("broken.png", b"no picture", "not a readable picture"),
        ("notes.txt", b"hello", "no image read here; expected NIfTI, .* or DICOM"),
        ("scan.hdr", b"x", "header and voxels lie in two files"),
    ],
)
def test_what_cannot_be_read_is_said_and_others_are_looked_at(tmp_path, key, marked, capsys, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    write_volume(tmp_path / "made.nii.gz", marked, AFFINE)
    assert run(tmp_path / name, tmp_path / "made.nii.gz", "--key", key) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"{tmp_path / name}: cannot be read: ")
    assert re.search(message, said.err), said.err
    assert said.out.endswith("1 marked, 0 without a mark of this key, 1 not read\n")


def test_empty_folder_has_no_series(tmp_path, key, capsys):
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty", "--key", key) == 2
    assert "no series of DICOM images in this folder" in capsys.readouterr().err


def test_key_has_to_be_there_and_secret(tmp_path, key, marked, capsys):
    write_volume(tmp_path / "made.nii.gz", marked, AFFINE)
    assert run(tmp_path / "made.nii.gz", "--key", tmp_path / "none") == 2
    assert f"python -m pipeline.cli.watermark new {tmp_path / 'none'} makes one" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    key.chmod(0o644)
    assert run(tmp_path / "made.nii.gz", "--key", key) == 2
    assert "others may read the key file" in capsys.readouterr().err


def test_whole_search_is_the_default(tmp_path, key, marked, capsys, monkeypatch):
    monkeypatch.setattr("synthesis.mark_views.TURNS_3D", (0.0, 3.0))
    mirrored = AFFINE.copy()
    mirrored[0] *= -1
    write_volume(tmp_path / "mirrored.nii.gz", marked, mirrored)
    assert run(tmp_path / "mirrored.nii.gz", "--key", key) == 3
    assert main(["verify", str(tmp_path / "mirrored.nii.gz"), "--key", str(key)]) == 0
    assert capsys.readouterr().out.splitlines()[-2].endswith("marked (mirrored left-right)")


def test_new_key_is_for_its_owner_and_never_overwritten(tmp_path, capsys):
    path = tmp_path / "new.key"
    assert main(["new", str(path)]) == 0
    content = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    said = capsys.readouterr()
    assert content.strip()[:12] not in said.out + said.err
    assert main(["new", str(path)]) == 2
    assert "exists already; no key is overwritten" in capsys.readouterr().err
    assert path.read_text() == content
