"""Images of hypotheses: what is written, that it says what it is, and that nothing of test patients leaks into it."""

import json
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from helpers import toy_run
from helpers.bright_heads import CENTRE, HEAD, SPACING, volume

from intake.pseudonyms import read_or_make_key
from pipeline.runner.run import run_stage
from pipeline.specs.hypothesise import STAGE as HYPOTHESISE
from pipeline.store.base import DamagedError
from pipeline.store.features import FeatureStore
from pipeline.store.hypotheses import HypothesisTables
from pipeline.store.tables import CohortTables, SplitTables
from pipeline.training.grid_images import GridImages
from synthesis.grid import LEVELS, box_affine

pytestmark = pytest.mark.usefixtures("one_thread")
ASKED = ({"clamp": "MRI", "along": "component 1", "by": "1 sd"}, {"ablate": "PET"})
MOVED = "MRI along component 1 by 1 sd"


@pytest.fixture(scope="module", autouse=True)
def one_repeat() -> Iterator[None]:
    """One repeat is enough to see what is written, and takes half of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy_run, "REPEATS", 1)
        yield


def again(workspace: Path, joint: dict[str, object] | None = None, **settings: object) -> HypothesisTables:
    store, read = FeatureStore(workspace / "features"), set[str]()
    splits = SplitTables(workspace / "split").splits().query("split != 'train'")

    def scan(self: GridImages, name: str, kind: str) -> np.ndarray:
        assert name[:3] not in set(splits["subject"]), "only training scans may be read"
        read.add(name)
        return volume(store, name)

    given = toy_run.settings(
        hypothesise={"hypotheses": ASKED} | settings,
        joint={"draws": 4, "basis": "public", "spacing_mm": SPACING} | (joint or {}),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GridImages, "scan", scan)
        run_stage(HYPOTHESISE, given, workspace, device="cpu")
    assert bool(read) == (not joint)
    return HypothesisTables(workspace / "hypothesise")


def filled(workspace: Path) -> pd.DataFrame:
    table = toy_run.scans(70)
    toy_run.fill(workspace, table)
    toy_run.linked(workspace, table)
    return table


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, one_thread: None, one_repeat: None) -> Path:
    workspace = tmp_path_factory.mktemp("images")
    filled(workspace)
    again(workspace)
    return workspace


def test_every_target_of_a_move_has_images_that_say_what_they_are(done: Path) -> None:
    out = HypothesisTables(done / "hypothesise")
    table = out.read("images.csv")
    assert list(zip(table["hypothesis"], table["target"], strict=True)) == [(MOVED, "PET"), (MOVED, "US")]
    effects = out.read().query(f"hypothesis == '{MOVED}'").set_index("target")["patients"]
    assert dict(zip(table["target"], table["patients"], strict=True)) == effects[["PET", "US"]].to_dict()
    for row in table.to_dict("records"):
        arrays = out.load_arrays(row["file"], row["sha256"])
        np.testing.assert_allclose(arrays["after"] - arrays["before"], arrays["difference"], atol=6e-4)
        assert arrays["before"][HEAD].mean() == pytest.approx(0.5, rel=0.1)
        assert np.abs(arrays["difference"][HEAD]).max() > 1e-3
        for what, values in arrays.items():
            path = out.folder / f"{row['images']}_{what}.nii.gz"
            assert path.name.startswith("imputed_")
            image = nibabel.load(path)
            assert image.header["descrip"].item().decode().startswith("IMPUTED, never measured")
            np.testing.assert_allclose(image.affine, box_affine(SPACING))
            np.testing.assert_allclose(np.asarray(image.dataobj) / LEVELS, values, atol=8e-4)
            said = json.loads(path.with_name(path.name.split(".")[0] + ".json").read_text())
            assert (said["origin"], said["hypothesis"], said["mark"]) == ("imputed", MOVED, None)
            assert said["says"] == "association, not intervention"
        assert (arrays["sd"][HEAD & (np.abs(CENTRE[..., 0]) > 0.3)] > 0).all()
        assert not arrays["difference"][~HEAD].any()
    assert len([name for name in (out.manifest or {})["files"] if name.startswith("images/")]) == 2 * (1 + 2 * 4)
    assert "no watermark; name a file for its key: hypothesise.mark_key" in "\n".join((out.manifest or {})["notes"])
    with pytest.raises(DamagedError, match="run --stages hypothesise --force hypothesise"):
        out.load_arrays(table["file"][0], "other")


def test_classes_of_test_patients_are_not_in_the_images(done: Path, tmp_path: Path) -> None:
    table, splits = filled(tmp_path), SplitTables(done / "split").splits()
    learnt = set(splits.loc[splits["split"] == "train", "subject"])
    other = {"well": "sick", "sick": "well"}
    swapped = [c if s in learnt else other[c] for s, c in zip(table["subject"], table["label"], strict=True)]
    cohort = CohortTables(tmp_path / "cohort")
    cohort.save(table.assign(label=swapped), toy_run.CLASSES)
    toy_run.finish(cohort, **cohort.contents())
    now, before = again(tmp_path), HypothesisTables(done / "hypothesise")
    pd.testing.assert_frame_equal(now.read("images.csv"), before.read("images.csv"))  # with hashes of the arrays


def test_a_key_marks_what_looks_like_a_scan_and_no_numbers(done: Path, tmp_path: Path) -> None:
    filled(tmp_path / "run")
    read_or_make_key(tmp_path / "mark.key", outside=[])
    out = again(tmp_path / "run", mark_key=tmp_path / "mark.key")
    pd.testing.assert_frame_equal(out.read("images.csv"), HypothesisTables(done / "hypothesise").read("images.csv"))
    said = {path.stem: json.loads(path.read_text()) for path in (out.folder / "images").glob("*.json")}
    notes = "\n".join((out.manifest or {})["notes"])
    assert "name a file for its key" not in notes
    assert "4 images carry no watermark" in notes  # tried before and after of two targets; 10 mm are too coarse
    assert all(each["mark"] is None for each in said.values())


def test_without_a_decoder_there_are_no_images_and_earlier_ones_go(done: Path, tmp_path: Path) -> None:
    filled(tmp_path)
    assert len(again(tmp_path).read("images.csv")) == 2
    out = again(tmp_path, joint={"decoder": "none"})
    assert out.read("images.csv").empty
    assert not (out.folder / "images").exists()
    assert "no images of hypotheses" in "\n".join((out.manifest or {})["notes"])
    assert out.whole()
    (out.folder / "images.csv").unlink()  # as an earlier version left it: the report does not show it
    assert not out.whole()
