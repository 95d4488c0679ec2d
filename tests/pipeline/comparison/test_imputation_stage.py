"""The stage baselines with pix2pix and cycleGAN among the methods: tables, pictures, and what is left of them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.heads_to_impute import MODALITIES, SPACING_MM, feature_map_of, fill

from files.reading import file_sha256
from intake.pseudonyms import read_or_make_key
from pipeline.core.runtime import Runtime
from pipeline.specs.baselines import BaselinesConfig, GanConfig
from pipeline.specs.features import FeaturesConfig
from pipeline.specs.preprocess import PreprocessConfig
from pipeline.stages import baselines as module
from pipeline.stages.baselines import baselines
from pipeline.stages.features import feature_map_maker, features
from pipeline.store.base import read_json, write_record
from pipeline.store.comparison import ComparisonSet
from pipeline.store.features import FeatureStore
from pipeline.store.tables import CohortTables, SplitTables
from pipeline.store.volumes import VolumeSet

pytestmark = pytest.mark.usefixtures("thin_backbone")

NO_MARK = "the images carry no watermark; name a file for its key: baselines.mark_key"
MARKED = " images carry an invisible watermark"
SUBJECTS = "abcdehijkl"
SPLITS = ("train",) * 6 + ("validation",) * 2 + ("test",) * 2
TINY = GanConfig(
    pixels=32, width=4, discriminator_layers=1, blocks=1, slice_spacing_mm=16, pix2pix_epochs=1, cyclegan_epochs=1,
    batch_size=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of preprocessed scans, MRI and PET of everybody."""
    folder = tmp_path_factory.mktemp("stage") / "preprocess"
    fill(VolumeSet(folder), subjects=SUBJECTS)
    write_record(folder / "manifest.json", {"fingerprint": "volumes"})
    return folder


@pytest.fixture
def said() -> list[str]:
    """Notes of all runs."""
    return []


@pytest.fixture
def compare(
    volumes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> Callable[..., ComparisonSet]:
    """Runs the stage with some methods on everybody's scans but those in `absent`, in one workspace."""
    monkeypatch.setattr(module, "feature_map_maker", lambda config, runtime: feature_map_of)

    def run(*only: str, absent: tuple[str, ...] = (), gan: GanConfig = TINY, **settings: object) -> ComparisonSet:
        cohort, split, feature_maps, out = (
            kind(tmp_path / kind.__name__) for kind in (CohortTables, SplitTables, FeatureStore, ComparisonSet)
        )
        rows = [
            {"scan": f"{s}_{m}", "subject": s, "session": "", "observation": s, "modality": m, "kind": "volume"}
            | {
                "skull_strip": "True",
                "normalise": "minmax",
                "trust": "",
                "bits": "",
                "path": "/x",
                "sha256": "0",
                "label": ("well", "sick")[n % 2],
            }
            for n, s in enumerate(SUBJECTS)
            for m in MODALITIES
            if f"{s}_{m}" not in absent
        ]
        scans = pd.DataFrame(rows)
        cohort.save(scans, ("well", "sick"))
        split.save_splits(pd.DataFrame({"repeat": 1, "subject": list(SUBJECTS), "split": SPLITS}), {})
        split.save_table("availability.csv", scans.assign(available=True), SplitTables.AVAILABILITY_COLUMNS)
        random = torch.Generator().manual_seed(0)
        for scan in scans["scan"]:
            feature_maps.save(scan, torch.randn(3, 1, 1, generator=random))
            feature_maps.finish(scan, "key", {})
        write_record(feature_maps.folder / "manifest.json", {"scans": dict.fromkeys(scans["scan"], "content")})
        config = BaselinesConfig(only=only, epochs=1, gan=gan, workers=1, **settings)
        runtime = Runtime(stage="baselines", key="", device_name="cpu", workspace=tmp_path / "workspace")
        baselines(
            cohort, split, VolumeSet(volumes), feature_maps, PreprocessConfig(spacing_mm=SPACING_MM), FeaturesConfig(),
            out, config, runtime,
        )  # fmt: skip
        said.extend(runtime.notes)
        assert all(note == NO_MARK or MARKED in note for note in runtime.notes)
        return out

    return run


def test_imputing_methods_stand_in_the_tables_where_something_is_hidden(compare: Callable[..., ComparisonSet]) -> None:
    out = compare("mean", "pix2pix", "cyclegan")
    table = out.comparison().set_index(["scenario", "method"])
    hidden = ["100% MRI + 50% PET", "100% PET + 50% MRI"]
    assert list(table.index) == [("complete", "mean imputation")] + [
        (scenario, method) for scenario in hidden for method in ("mean imputation", "pix2pix", "cycleGAN")
    ]
    assert (table["note"] == "").all()
    assert (table["n"] == len(SPLITS[8:])).all()
    imputing = table.index.get_level_values("method") != "mean imputation"
    assert (table["imputation_seconds"].notna() == imputing).all()
    assert (table.loc[imputing, "trained_parameters"] > table.loc["complete", "trained_parameters"].iloc[0]).all()
    quality = pd.read_csv(out.folder / "imputation_quality.csv")
    assert (quality.groupby(["scenario", "method"]).size() == 5).all()  # half of ten, hidden in all parts
    assert len(quality) == 20
    assert quality[["ssim", "psnr"]].notna().all(axis=None)
    ((caption, picture),) = out.pictures()
    assert picture.startswith(b"\x89PNG")
    assert "32×32 pixels" in caption
    assert "the patient’s right is on the left of the picture (radiological convention)" in caption
    ((neurological, mirrored),) = out.pictures("neurological")
    assert "(neurological convention)" in neurological
    assert mirrored != picture
    page = (out.folder / "comparison.md").read_text("utf-8")
    assert "32×32 pixels" in page
    for text in ("PET by pix2pix from MRI: SSIM", "MRI by cycleGAN from PET: SSIM"):
        assert text in caption
        assert text in page


def test_what_was_imputed_is_shown_until_it_would_be_imputed_otherwise(compare: Callable[..., ComparisonSet]) -> None:
    """Else the report would show scans of other networks than the words beside them speak of."""
    wider = TINY.model_copy(update={"width": 8})
    out = compare("mean", "pix2pix", scenarios=("missing",))
    before, records = contents(out), times(out)
    assert len(out.pictures()) == 1
    compare("mean", scenarios=("missing",))  # not asked for now, and still what it would be
    assert contents(out) == before
    compare("mean", scenarios=("missing",), gan=wider)
    assert set(out.comparison()["method"]) == {"mean imputation"}
    assert out.pictures() == ()
    assert not (out.folder / "imputation_quality.csv").exists()
    assert "Imputed" not in (out.folder / "comparison.md").read_text("utf-8")
    compare("mean", "pix2pix", scenarios=("missing",))
    assert times(out) == records
    assert contents(out) == before


def contents(out: ComparisonSet) -> dict[str, str]:
    """File → hash of what stands over all baselines."""
    return {path.name: file_sha256(path) for path in out.folder.iterdir() if path.is_file()}


def times(out: ComparisonSet) -> dict[Path, int]:
    """When each baseline was finished."""
    return {path: path.stat().st_mtime_ns for path in out.folder.rglob("record.json")}


def test_stopped_after_training_it_goes_on_from_the_checkpoints(
    compare: Callable[..., ComparisonSet], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def stop(*_: object) -> torch.Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "feature_map_maker", lambda config, runtime: stop)
    with pytest.raises(KeyboardInterrupt):
        compare("mean", "cyclegan", scenarios=("missing",))
    (checkpoint,) = tmp_path.rglob("checkpoint.safetensors")
    trained = checkpoint.stat().st_mtime_ns
    monkeypatch.setattr(module, "feature_map_maker", lambda config, runtime: feature_map_of)
    compare("mean", "cyclegan", scenarios=("missing",))
    assert checkpoint.stat().st_mtime_ns == trained
    out = compare("mean", "cyclegan", scenarios=("missing",), gan=TINY.model_copy(update={"width": 8}))
    assert checkpoint.stat().st_mtime_ns > trained  # other networks begin anew
    assert (out.comparison()["n"] == 2).all()


def test_scans_that_never_were_are_imputed_and_cannot_be_measured(compare: Callable[..., ComparisonSet]) -> None:
    absent = ("b_PET", "i_PET", "l_PET", "c_MRI")
    out = compare("mean", "pix2pix", absent=absent, scenarios=("as_it_is",))
    table = out.comparison()
    assert list(table["method"]) == ["mean imputation", "pix2pix"]
    assert list(table["n"]) == [2, 2]
    imputed = out.folder_of("as it is", "pix2pix", 1) / "imputed"
    endings = ("nii.gz", "json")
    assert {path.name for path in imputed.iterdir()} == {f"imputed_{s}.{end}" for s in absent for end in endings}
    assert out.pictures() == ()


def test_another_watermark_writes_the_scans_anew_and_trains_no_network(
    compare: Callable[..., ComparisonSet], tmp_path: Path
) -> None:
    def run(**settings: object) -> tuple[dict[str, str], dict[Path, int], dict[Path, int]]:
        out = compare("mean", "pix2pix", scenarios=("missing",), **settings)
        volumes = {str(path): file_sha256(path) for path in out.folder.rglob("imputed_*.nii.gz")}
        networks = {path: path.stat().st_mtime_ns for path in out.folder.rglob("checkpoint.safetensors")}
        rest = {path: time for path, time in times(out).items() if "pix2pix" not in path.parts}
        return volumes, networks, rest

    keys = {"first": tmp_path / "first.key", "second": tmp_path / "second.key"}
    for path in keys.values():
        read_or_make_key(path, outside=[])
    plain = run()
    first = run(mark_key=keys["first"])
    batch = run(mark_key=keys["first"], mark_batch="2")
    second = run(mark_key=keys["second"], mark_batch="2")
    for before, after in ((plain, first), (first, batch), (batch, second)):
        assert before[0].keys() == after[0].keys()
        assert all(after[0][path] != content for path, content in before[0].items())
        assert before[1:] == after[1:]
    assert run() == plain


def test_the_summary_says_that_imputed_scans_carry_no_mark(
    compare: Callable[..., ComparisonSet], said: list[str], tmp_path: Path
) -> None:
    compare("mean", scenarios=("missing",))
    assert said == []
    compare("mean", "pix2pix", scenarios=("missing",))
    assert said == [NO_MARK]


def test_nothing_is_left_to_impute_once_the_scans_have_come(compare: Callable[..., ComparisonSet]) -> None:
    """The predictions on what was imputed before must not stand beside those on real scans."""
    compare("mean", "pix2pix", absent=("b_PET", "l_PET"), scenarios=("as_it_is",))
    assert list(compare("mean", "pix2pix", scenarios=("as_it_is",)).comparison()["method"]) == ["mean imputation"]


def test_why_nothing_could_be_learnt_stands_in_the_table(compare: Callable[..., ComparisonSet]) -> None:
    absent = tuple(f"{s}_{MODALITIES[n % 2]}" for n, s in enumerate(SUBJECTS[:6]))
    out = compare("mean", "pix2pix", absent=absent, scenarios=("as_it_is",))
    row = out.comparison().set_index("method").loc["pix2pix"]
    assert row["n"] == 0
    assert "no training subject has both" in row["note"]
    record = read_json(out.folder_of("as it is", "pix2pix", 1) / "record.json")
    assert not record["key"].startswith("failed")  # the same again would end the same


def test_feature_maps_of_imputed_volumes_are_made_like_those_of_scans(tmp_path: Path) -> None:
    config = FeaturesConfig(backbone="vgg11", weights="random", slice_spacing_mm=45.0, field_of_view_mm=150.0)
    preprocessed, feature_maps = VolumeSet(tmp_path / "preprocess"), FeatureStore(tmp_path / "features")
    fill(preprocessed, subjects="a")
    write_record(preprocessed.folder / "manifest.json", {"scans": {"a_MRI": "content"}})
    runtime = Runtime(stage="features", key="", device_name="cpu", workspace=tmp_path)
    features(preprocessed, feature_maps, config, runtime)
    made = feature_map_maker(config, runtime)(*preprocessed.load_volume("a_MRI"))
    np.testing.assert_array_equal(made, feature_maps.load(["a_MRI"])[0])
