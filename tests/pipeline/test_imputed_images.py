"""Images of what is missing: what is written, that it says what it is, and that no hidden scan is in it."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from helpers import toy_run
from helpers.bright_heads import CENTRE, HEAD, SPACING, volume
from pydantic import ValidationError

from pipeline.runner.run import run_stage
from pipeline.specs.impute import STAGE as IMPUTE
from pipeline.specs.impute import ImputeConfig
from pipeline.specs.joint import STAGE as JOINT
from pipeline.store.base import DamagedError
from pipeline.store.features import FeatureStore
from pipeline.store.imputed import ImputedSet
from pipeline.store.tables import SplitTables
from pipeline.training.grid_images import GridImages
from synthesis.grid import LEVELS, box_affine

pytestmark = pytest.mark.usefixtures("one_thread")
WHAT = ("mean", "sd", "draw-1", "draw-2")


def impute(workspace: Path, tested_more: float = 0.0, **settings: object) -> ImputedSet:
    """Run joint and impute; images of test scans of repeat 1 can be made brighter."""
    store = FeatureStore(workspace / "features")
    splits = SplitTables(workspace / "split").splits().query("repeat == 1 and split == 'test'")
    tested = set(splits["subject"])

    def scan(self: GridImages, name: str, kind: str) -> np.ndarray:
        assert kind == "volume"
        return volume(store, name, tested_more * (name[:3] in tested))

    given = toy_run.settings(
        joint={"draws": 3, "spacing_mm": SPACING}, impute={"draws": 2, **settings}, split={"repeats": 1}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GridImages, "scan", scan)
        for stage in (JOINT, IMPUTE):
            run_stage(stage, given, workspace, device="cpu")
    return ImputedSet(workspace / "impute")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    folder = tmp_path_factory.mktemp("images")
    toy_run.fill(folder, toy_run.scans())
    split = SplitTables(folder / "split")
    one = split.splits()
    split.save_splits(one[one["repeat"] == 1], {})
    toy_run.finish(split, **split.contents())
    return folder


@pytest.fixture(scope="module")
def made(workspace: Path) -> ImputedSet:
    return impute(workspace)


def test_every_missing_scan_is_a_volume_that_says_what_it_is(made: ImputedSet) -> None:
    table = made.read()
    assert (table["images"] != "").all()
    for row in table.head(3).to_dict("records"):
        images = {}
        for what in WHAT:
            path = made.folder / f"{row['images']}_{what}.nii.gz"
            assert path.name.startswith("imputed_")
            image = nibabel.load(path)
            assert image.header["descrip"].item().decode().startswith("IMPUTED, never measured")
            np.testing.assert_allclose(image.affine, box_affine(SPACING))
            said = json.loads(path.with_name(path.name.split(".")[0] + ".json").read_text())
            assert (said["origin"], said["modality"], said["from"]) == ("imputed", row["modality"], row["from"])
            assert (said["levels"], said["mark"]) == (LEVELS, None)
            images[what] = np.asarray(image.dataobj, dtype=np.float64)
        inside = HEAD & (np.abs(CENTRE[..., 0]) > 0.3)
        assert images["mean"][HEAD].mean() == pytest.approx(0.5 * LEVELS, rel=0.1)
        assert (images["draw-1"][HEAD] != images["draw-2"][HEAD]).any()
        apart = (images["draw-1"] - images["mean"])[inside] / images["sd"][inside]
        assert 0.2 < np.sqrt((apart**2).mean()) < 4
        assert 0 < images["sd"][HEAD].min() < 20  # small ones are no background
    recorded = (made.manifest or {})["files"]
    assert sum(name.endswith(".nii.gz") for name in recorded) == len(WHAT) * len(table)
    assert "no watermark; name a file for its key: impute.mark_key" in "\n".join((made.manifest or {})["notes"])


def test_images_are_imputed_without_the_scan_that_they_are_shown_beside(workspace: Path, made: ImputedSet) -> None:
    """Other images of test patients: nothing that was imputed changes, only what is shown beside it."""
    before, quality = made.read("beside.csv"), made.read("quality.csv")
    assert list(before.groupby("modality").size()) == [2, 2, 2]
    shown = [made.load_beside(row["file"], row["sha256"]) for row in before.to_dict("records")]
    hashes = made.read()[["observation", "modality", "sha256"]]
    store = ImputedSet(workspace / "impute")
    (store.folder / "manifest.json").unlink()
    impute(workspace, tested_more=0.2)
    after = store.read("beside.csv")
    pd.testing.assert_frame_equal(store.read()[["observation", "modality", "sha256"]], hashes)
    assert list(after["observation"]) == list(before["observation"])
    for one, row in zip(shown, after.to_dict("records"), strict=True):
        other = store.load_beside(row["file"], row["sha256"])
        for name in ("mean", "sd", "draws"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert (other.real - one.real)[HEAD].mean() == pytest.approx(0.2, abs=0.01)
    assert quality["image_error"].mean() < 0.1 < store.read("quality.csv")["image_error"].mean()
    assert (quality["image_error_without"] > 0).all()
    assert 0.75 < quality["image_cover_90"].mean() < 0.99
    labels = toy_run.scans().drop_duplicates("observation").set_index("observation")["label"]
    for _, rows in before.groupby("modality"):
        assert set(rows["observation"].map(labels)) == set(toy_run.CLASSES)  # one of each class
    with pytest.raises(DamagedError, match="missing or damaged"):
        store.load_beside(after["file"][0], "other")


def test_no_images_where_none_are_wanted(workspace: Path, made: ImputedSet) -> None:
    out = impute(workspace, images=0)
    assert set(out.read()["images"]) == {""}
    assert not [*out.folder.glob("repeat-1/*.nii.gz"), *out.folder.glob("repeat-1/*.json")]
    assert out.read("beside.csv").empty
    assert out.read("quality.csv")["image_error"].isna().all()
    assert out.whole()
    (out.folder / "beside.csv").unlink()  # as an earlier version left it: the report does not show it
    assert not out.whole()


def test_more_images_than_draws_are_refused() -> None:
    with pytest.raises(ValidationError, match="images is 6; there are 5 draws"):
        ImputeConfig(images=6)
