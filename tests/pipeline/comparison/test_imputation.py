"""Whole scans imputed by pix2pix and cycleGAN: what is written, from whom it was learnt, killed and taken up again."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from helpers.heads_to_impute import MODALITIES, NEVER_THERE, SPACING_MM, SPLITS, feature_map_of, fill, head
from helpers.marked import KEY, OTHER_KEY
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, map_coordinates

from baselines.sample import CannotFit, Sample
from baselines.translation.training import Trainer
from files.reading import file_sha256
from pipeline.comparison.imputation import Imputed, Kind, impute, imputed_path
from pipeline.comparison.scenarios import ScenarioSample
from pipeline.specs.baselines import GanConfig
from pipeline.store.marking import Marker
from pipeline.store.volumes import VolumeSet
from synthesis.mark_detection import detect
from synthesis.mark_views import image_of_volume

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
HIDDEN = {("b", "PET"): "b_PET", ("e", "PET"): "e_PET", ("f", "PET"): "f_PET", ("d", "MRI"): "d_MRI"}
SMALL = GanConfig(
    pixels=32, width=4, discriminator_layers=1, blocks=1, slice_spacing_mm=8, pix2pix_epochs=3, cyclegan_epochs=3,
    batch_size=4,
)  # fmt: skip
KINDS = pytest.mark.parametrize("kind", ["pix2pix", "cyclegan"])


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> VolumeSet:
    """The preprocessed scans of everybody."""
    found = VolumeSet(tmp_path_factory.mktemp("imputation") / "preprocess")
    fill(found)
    return found


def drawn_without(absent: tuple[str, ...]) -> ScenarioSample:
    """The scans of all subjects but these, as a scenario leaves them."""
    rows = [
        {"scan": f"{s}_{m}", "observation": s, "subject": s, "modality": m, "label": "sick", "split": split}
        for s, split in SPLITS.items()
        for m in MODALITIES
        if f"{s}_{m}" not in absent
    ]
    scans = pd.DataFrame(rows)
    names = tuple(SPLITS)
    numbers = {
        split: [i for i, s in enumerate(names) if SPLITS[s] == split] for split in ("train", "validation", "test")
    }
    sample = Sample(
        feature_maps=torch.zeros(len(scans), 3, 1, 1),
        modality=torch.tensor([MODALITIES.index(m) for m in scans["modality"]]),
        observation=torch.tensor([names.index(o) for o in scans["observation"]]),
        target=torch.arange(len(names)) % 2,
        modalities=2,
        classes=2,
        **{split: torch.tensor(those) for split, those in numbers.items()},
    )
    return ScenarioSample(sample, scans, names, names)


MISSING = (*HIDDEN.values(), *NEVER_THERE)


def run(
    kind: Kind,
    volumes: VolumeSet,
    folder: Path,
    *,
    absent: tuple[str, ...] = MISSING,
    hidden: Mapping[tuple[str, str], str] = HIDDEN,
    config: GanConfig = SMALL,
    seed: int = 1,
    key: bytes | None = None,
) -> Imputed:
    """Impute with small networks."""
    return impute(
        kind, drawn_without(absent), MODALITIES, hidden=hidden, volumes=volumes, folder=folder, config=config,
        feature_map_of=feature_map_of, spacing_mm=SPACING_MM, device=CPU, seed=seed,
        marker=Marker(key, "1", "baselines.mark_key"),
    )  # fmt: skip


@dataclass(frozen=True)
class Done:
    """What one undisturbed imputation gave, and where."""

    kind: Kind
    folder: Path
    result: Imputed


@pytest.fixture(scope="module", params=["pix2pix", "cyclegan"])
def done(request: pytest.FixtureRequest, volumes: VolumeSet, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Imputed once with each kind."""
    folder = tmp_path_factory.mktemp(request.param)
    return Done(request.param, folder, run(request.param, volumes, folder))


def after_epochs(monkeypatch: pytest.MonkeyPatch, call: Callable[[], None]) -> None:
    """Let this be called after every epoch, its checkpoint written."""
    real = Trainer.epochs

    def epochs(self: Trainer) -> Iterator[Any]:
        for epoch in real(self):
            yield epoch
            call()

    monkeypatch.setattr(Trainer, "epochs", epochs)


def contents(folder: Path) -> dict[str, str]:
    """Path → hash of all files."""
    return {str(p.relative_to(folder)): file_sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def test_every_missing_scan_and_no_other_is_imputed(done: Done) -> None:
    names = tuple(SPLITS)
    expected = {(names.index(scan[0]), MODALITIES.index(scan[2:])) for scan in MISSING}
    assert set(done.result.feature_maps) == expected
    files = {path.name for path in (done.folder / "imputed").iterdir()}
    assert files == {f"imputed_{scan}.{ending}" for scan in MISSING for ending in ("nii.gz", "json")}
    assert {p.name for p in done.folder.iterdir() if p.is_dir()} == {"MRI-to-PET", "PET-to-MRI", "imputed"}
    assert done.result.parameters > 0
    assert done.result.seconds > 0
    assert done.result.notes == []


def test_an_imputed_scan_says_what_it_is_and_keeps_to_the_brain_it_was_made_from(done: Done) -> None:
    for scan in MISSING:
        subject, modality = scan.split("_")
        source = next(m for m in MODALITIES if m != modality)
        image = nibabel.load(imputed_path(done.folder, subject, modality))
        text = bytes(image.header["descrip"]).decode().rstrip("\0")
        assert text == f"IMPUTED by {done.kind} from {source}, not a scan"
        path = done.folder / "imputed" / f"imputed_{scan}.json"
        said = json.loads(path.read_text("utf-8"))
        assert (said["origin"], said["network"], said["mark"]) == ("imputed", done.kind, None)
        assert (said["observation"], said["modality"], said["from"]) == (subject, modality, source)
        np.testing.assert_allclose(image.header.get_zooms(), SPACING_MM, rtol=1e-5)
        voxels = image.get_fdata(dtype=np.float32)
        assert voxels.min() == 0
        assert 0.1 < voxels.max() <= 1
        _, mask, affine = head(subject, source)
        near = mask_at(binary_dilation(mask, iterations=2), affine, image)  # pixels are 6 mm, voxels 4
        assert not voxels[~near].any()
        middle = mask_at(~binary_dilation(~mask, iterations=2), affine, image)
        assert (voxels[middle] > 0).mean() > 0.95


def mask_at(mask: NDArray[np.bool_], affine: NDArray[np.float64], image: nibabel.Nifti1Image) -> NDArray[np.bool_]:
    """A mask at the voxels of an image that lies in the same world."""
    points = np.indices(image.shape).reshape(3, -1)
    to_mask = np.linalg.inv(affine) @ image.affine
    places = to_mask[:3, :3] @ points + to_mask[:3, 3:]
    return map_coordinates(mask.astype(float), places, order=0).reshape(image.shape) > 0.5


def test_the_feature_map_is_that_of_the_volume_that_was_written(done: Done) -> None:
    for (observation, modality), feature_map in done.result.feature_maps.items():
        path = imputed_path(done.folder, tuple(SPLITS)[observation], MODALITIES[modality])
        voxels = torch.from_numpy(nibabel.load(path).get_fdata(dtype=np.float32))
        expected = torch.stack([voxels.mean(), voxels.std(), voxels.amax()])
        torch.testing.assert_close(feature_map.flatten(), expected)


def test_with_a_key_imputed_scans_carry_its_mark_and_figures_stay_as_they_are(
    done: Done, volumes: VolumeSet, tmp_path: Path
) -> None:
    folder = tmp_path / "marked"
    shutil.copytree(done.folder, folder)  # with the networks
    result = run(done.kind, volumes, folder, key=KEY)
    assert result.quality == done.result.quality
    assert all(torch.equal(found, done.result.feature_maps[key]) for key, found in result.feature_maps.items())
    for scan in MISSING:
        path = imputed_path(folder, *scan.split("_"))
        image, plain = nibabel.load(path), nibabel.load(imputed_path(done.folder, *scan.split("_")))
        marked = image_of_volume(image.get_fdata(dtype=np.float32), image.affine)
        assert detect(marked, KEY, ["1"], thorough=False).p < 1e-3 < detect(marked, OTHER_KEY, ["1"], thorough=False).p
        assert not image.get_fdata()[plain.get_fdata() == 0].any()
        assert json.loads(path.with_name(f"imputed_{scan}.json").read_text("utf-8"))["mark"]["batch"] == "1"
    differing = {path for path, content in contents(folder).items() if contents(done.folder)[path] != content}
    assert {path.split("/")[0] for path in differing} == {"imputed"}


def test_volumes_of_an_earlier_version_do_not_stay(done: Done, volumes: VolumeSet, tmp_path: Path) -> None:
    folder = tmp_path / "earlier"
    shutil.copytree(done.folder, folder)
    (folder / "imputed" / "f_PET.nii.gz").touch()
    run(done.kind, volumes, folder)
    assert contents(folder) == contents(done.folder)


def test_quality_is_measured_where_a_real_scan_was_hidden_and_only_there(done: Done) -> None:
    table = pd.DataFrame(done.result.quality)
    assert {(r.observation, r.to): r.real for r in table.itertuples()} == HIDDEN
    assert {r.observation: r.split for r in table.itertuples()} == {s: SPLITS[s] for s in table["observation"]}
    assert all(r.source == f"{r.observation}_{dict(zip(table.columns, r[1:], strict=True))['from']}"
               for r in table.itertuples())  # fmt: skip
    assert np.isfinite(table[["ssim", "psnr", "mae"]]).all(axis=None)
    assert table["ssim"].between(-1, 1).all()
    assert table["psnr"].between(0, 60).all()


def test_hidden_scans_change_nothing_but_their_own_quality(done: Done, volumes: VolumeSet, tmp_path: Path) -> None:
    result = run(done.kind, volumes, tmp_path, hidden={})
    assert result.quality == []
    assert contents(tmp_path) == contents(done.folder)


@pytest.mark.parametrize("epochs", [2, 4])
def test_interrupted_and_taken_up_again_gives_the_same_bytes(
    done: Done, volumes: VolumeSet, tmp_path: Path, epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are two networks of three epochs each, so that the fourth epoch is the first of the second."""
    calls = 0

    def stop() -> None:
        nonlocal calls
        calls += 1
        if calls == epochs:
            raise KeyboardInterrupt

    after_epochs(monkeypatch, stop)
    with pytest.raises(KeyboardInterrupt):
        run(done.kind, volumes, tmp_path)
    result = run(done.kind, volumes, tmp_path)
    assert calls == 6
    assert contents(tmp_path) == contents(done.folder)
    assert result.quality == done.result.quality
    assert all(
        torch.equal(feature_map, done.result.feature_maps[key]) for key, feature_map in result.feature_maps.items()
    )


def test_what_is_finished_is_not_trained_again(done: Done, volumes: VolumeSet, monkeypatch: pytest.MonkeyPatch) -> None:
    before, trained = contents(done.folder), []
    after_epochs(monkeypatch, lambda: trained.append(1))
    run(done.kind, volumes, done.folder)
    assert trained == []
    assert contents(done.folder) == before


def test_a_killed_write_leaves_a_history_longer_than_the_checkpoint(
    done: Done, volumes: VolumeSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The history is written first; killed between the two, the row of the lost epoch must not stand there twice."""

    def stop() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        after_epochs(patch, stop)
        with pytest.raises(KeyboardInterrupt):
            run(done.kind, volumes, tmp_path)
    folder = next(tmp_path.glob("*-to-*"))
    history = pd.read_csv(folder / "history.csv")
    pd.concat([history, history.assign(epoch=2)]).to_csv(folder / "history.csv", index=False)
    run(done.kind, volumes, tmp_path)
    assert contents(tmp_path) == contents(done.folder)


@KINDS
def test_test_subjects_have_no_influence_on_what_is_trained(kind: Kind, tmp_path: Path) -> None:
    """And training subjects have, or the test would show nothing."""
    once = SMALL.model_copy(update={"pix2pix_epochs": 1, "cyclegan_epochs": 1})
    changes = {
        "nothing": (),
        "test": ("f_MRI", "h_MRI", "h_PET"),
        "validation": ("e_MRI",),
        "hidden": HIDDEN.values(),
        "train": ("a_PET",),
    }
    found: dict[str, dict[str, str]] = {}
    for name, changed in changes.items():
        cohort = VolumeSet(tmp_path / name / "preprocess")
        fill(cohort, changed)
        run(kind, cohort, tmp_path / name / "out", config=once)
        found[name] = contents(tmp_path / name / "out")
    differing = {
        name: {path for path, content in found["nothing"].items() if files[path] != content}
        for name, files in found.items()
    }
    assert differing["test"] == {"imputed/imputed_f_PET.nii.gz"}
    assert differing["validation"] == {"imputed/imputed_e_PET.nii.gz"}
    assert differing["hidden"] == set()
    assert {"MRI-to-PET/checkpoint.safetensors", "PET-to-MRI/checkpoint.safetensors"} <= differing["train"]


def test_another_seed_gives_other_networks(done: Done, volumes: VolumeSet, tmp_path: Path) -> None:
    run(done.kind, volumes, tmp_path, seed=2)
    name = "MRI-to-PET/checkpoint.safetensors"
    assert contents(tmp_path)[name] != contents(done.folder)[name]


def test_pix2pix_without_a_pair_says_so(volumes: VolumeSet, tmp_path: Path) -> None:
    """Every training subject has one of the two; cycleGAN needs no more."""
    absent = ("a_PET", "b_PET", "c_MRI", "d_MRI")
    with pytest.raises(CannotFit, match=r"no training subject has both .* and .*; pix2pix learns from pairs"):
        run("pix2pix", volumes, tmp_path / "pix2pix", absent=absent, hidden={})
    once = SMALL.model_copy(update={"cyclegan_epochs": 1})
    result = run("cyclegan", volumes, tmp_path / "cyclegan", absent=absent, hidden={}, config=once)
    assert len(result.feature_maps) == 4


@KINDS
def test_a_modality_that_no_training_subject_has_cannot_be_made(kind: Kind, volumes: VolumeSet, tmp_path: Path) -> None:
    absent = tuple(f"{s}_PET" for s, split in SPLITS.items() if split == "train")
    text = {"pix2pix": "both MRI and PET", "cyclegan": "no training subject has a PET"}[kind]
    with pytest.raises(CannotFit, match=text):
        run(kind, volumes, tmp_path, absent=absent, hidden={})


def test_nothing_is_trained_for_a_direction_that_nobody_needs(volumes: VolumeSet, tmp_path: Path) -> None:
    once = SMALL.model_copy(update={"pix2pix_epochs": 1})
    result = run("pix2pix", volumes, tmp_path, absent=("f_MRI",), hidden={}, config=once)
    assert [path.name for path in tmp_path.glob("*-to-*")] == ["PET-to-MRI"]
    assert list(result.feature_maps) == [(tuple(SPLITS).index("f"), 0)]


def test_pix2pix_comes_nearer_to_the_hidden_scan_than_the_source_is(volumes: VolumeSet, tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"pix2pix_epochs": 12, "width": 8, "batch_size": 1})
    hidden = {("f", "PET"): "f_PET"}
    result = run("pix2pix", volumes, tmp_path, absent=("f_PET",), hidden=hidden, config=config)
    mri, pet = (head("f", modality)[0] for modality in MODALITIES)
    inside = (mri > 0) & (pet > 0)
    assert result.quality[0]["mae"] < 0.5 * np.abs(mri - pet)[inside].mean()
