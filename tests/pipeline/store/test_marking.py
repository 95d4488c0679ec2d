"""Stages mark what they make up: the key stays outside, the JSON says it, what is weak is said."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.marked import AFFINE, head, picture

from console.errors import InputError
from intake.pseudonyms import KeyFileError, read_or_make_key
from pipeline.store.marking import Marker, mark_fingerprint
from synthesis.mark_detection import detect
from synthesis.mark_views import image_of_picture, image_of_volume


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    read_or_make_key(tmp_path / "mark.key", outside=[])
    return tmp_path / "mark.key"


def ready(tmp_path: Path, key_file: Path | None, batch: str = "1") -> Marker:
    return Marker.ready(key_file, batch, setting="synthesise.mark_key", workspace=tmp_path / "workspace")


def test_volumes_and_pictures_are_marked_with_a_key_from_outside(tmp_path, key_file):
    marker = ready(tmp_path, tmp_path / "mark.key")
    key = bytes.fromhex((tmp_path / "mark.key").read_text().strip())
    volume, mask = head()
    marked = marker.volume(volume, mask, AFFINE, name="sub-1")
    pixels = marker.picture(picture(), name="sub-2")
    assert detect(image_of_volume(marked, AFFINE), key, ["1"], thorough=False).p < 1e-6
    assert detect(image_of_picture(pixels), key, ["1"], thorough=False).p < 1e-6
    (note,) = marker.notes()
    assert note.startswith("2 images carry an invisible watermark")
    assert note.endswith("verify FILE --key KEYFILE --batch '1'")
    assert marker.facts("sub-1") == {"mark": {"batch": "1", "weak": False}}
    for said in (
        repr(marker),
        json.dumps(marker.facts("sub-1")),
        json.dumps(mark_fingerprint(key_file)),
    ):
        assert key.hex()[:12] not in said
        assert repr(key)[2:18] not in said


def test_without_a_key_images_stay_as_they_are_and_it_is_said(tmp_path):
    marker = ready(tmp_path, None)
    volume, mask = head()
    assert marker.volume(volume, mask, AFFINE, name="a") is volume
    pixels = picture()
    assert marker.picture(pixels, name="b") is pixels
    assert marker.facts("a") == {"mark": None}
    assert marker.notes() == ["the images carry no watermark; name a file for its key: synthesise.mark_key"]


def test_what_cannot_be_marked_or_only_weakly_is_counted(tmp_path, key_file):
    marker = ready(tmp_path, tmp_path / "mark.key")
    volume, mask = head(shape=(14, 14, 14))
    marker.volume(volume, mask, AFFINE, name="tiny")
    marker.volume(volume, np.zeros_like(mask), AFFINE, name="empty")
    marker.picture(np.full((64, 64, 3), 7, np.uint8), name="flat")
    assert marker.facts("tiny")["mark"]["weak"]
    assert marker.facts("empty") == marker.facts("flat") == {"mark": None}
    _, failed, weak = marker.notes()
    assert failed.startswith("2 images carry no watermark, empty among them: the mask is empty")
    assert weak.startswith("1 images are too small or too rich in contrast for a clear watermark; that of tiny ")


def test_where_nothing_could_be_marked_no_mark_is_claimed(tmp_path, key_file):
    marker = ready(tmp_path, tmp_path / "mark.key")
    marker.picture(np.full((64, 64, 3), 7, np.uint8), name="flat")
    (note,) = marker.notes()
    assert note.startswith("1 images carry no watermark, flat among them")


def test_key_in_the_workspace_and_batch_without_a_name_are_refused(tmp_path, key_file):
    (tmp_path / "workspace").mkdir()
    inside = tmp_path / "workspace" / "mark.key"
    read_or_make_key(inside, outside=[])
    with pytest.raises(KeyFileError, match="lies inside of .*workspace, which may be handed on"):
        ready(tmp_path, inside)
    with pytest.raises(InputError, match="synthesise.mark_key: the batch has no name"):
        ready(tmp_path, tmp_path / "mark.key", " ")


def test_missing_key_is_neither_made_by_a_plan_nor_by_a_run(tmp_path):
    for asked in (lambda: ready(tmp_path, tmp_path / "none"), lambda: mark_fingerprint(tmp_path / "none")):
        with pytest.raises(InputError, match="there is no key file .*none; python -m pipeline.cli.watermark new"):
            asked()
    assert not (tmp_path / "none").exists()


def test_fingerprint_tells_keys_apart(tmp_path):
    for name in ("a", "b"):
        read_or_make_key(tmp_path / name, outside=[])
    first = mark_fingerprint(tmp_path / "a")
    assert first == mark_fingerprint(tmp_path / "a")
    assert first != mark_fingerprint(tmp_path / "b")
    assert mark_fingerprint(None) is None
