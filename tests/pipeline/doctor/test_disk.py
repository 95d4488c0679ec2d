"""How much room a run needs: the estimate against files that were really written, and what is said."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from console.errors import InputError
from demo.biopsies import BiopsiesConfig, picture_table
from pipeline.cli.main import main
from pipeline.doctor import disk
from pipeline.settings import Settings, load_settings
from pipeline.store.features import FeatureStore
from pipeline.store.volumes import VolumeSet

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


def _settings(config: str, **settings: str) -> Settings:
    return load_settings(CONFIGS / f"{config}.yaml", {key.replace("__", "."): value for key, value in settings.items()})


def _files(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def _needed(config: Settings, stage: str, *, volumes: int = 1, pictures: int = 0, picture_bytes: float = 0) -> float:
    return disk.bytes_needed(config, disk.Scans(volumes, pictures, picture_bytes, ""), Path("/nowhere"), [stage])


@pytest.mark.parametrize("spacing_mm", [1.0, 1.5, 3.0])
def test_a_brain_takes_less_than_estimated(tmp_path: Path, spacing_mm: float) -> None:
    """A ball of 1,700 ml full of noise, which does not compress, and a QC picture as large as those measured."""
    side = 2 * round(74.0 / spacing_mm) + 4
    grid = (np.indices((side,) * 3) - (side - 1) / 2) * spacing_mm
    mask = (grid**2).sum(0) < 74.0**2
    volume = np.where(mask, np.random.default_rng(0).random(mask.shape), 0).astype(np.float32)
    out = VolumeSet(tmp_path / "preprocess")
    out.save_volume("s", volume, mask, np.diag([spacing_mm] * 3 + [1.0]), bytes(round(260_000 / spacing_mm**2)))
    estimated = _needed(_settings("adni", preprocess__spacing_mm=str(spacing_mm)), "preprocess")
    assert _files(out.folder) < estimated < 2 * _files(out.folder)


def test_feature_maps_take_less_than_estimated(tmp_path: Path) -> None:
    out = FeatureStore(tmp_path / "features")
    out.save("s", torch.rand(512, 7, 7), torch.rand(110, 512, 7, 7))  # 165 mm of brain, a slice each 1.5 mm
    out.finish("s", "key", {})
    written, kept = _files(out.folder), _settings("adni", features__keep_slices="true")
    assert written < _needed(kept, "features") < 2 * written
    assert _needed(_settings("adni"), "features") < _needed(kept, "features") / 100
    assert _needed(kept, "features", volumes=0, pictures=1) == 2 * _needed(_settings("adni"), "features")


def test_networks_take_less_than_estimated() -> None:
    from models.extractor import UniversalExtractor
    from models.set_classifier import SetClassifier

    def bytes_of(network: torch.nn.Module) -> int:
        return sum(4 * value.numel() for value in network.state_dict().values())

    for channels, backbone in ((512, "vgg11"), (2048, "timm:resnet50")):
        config = _settings("adni", features__backbone=backbone, classify__hidden="[512, 128]")  # 3 repeats
        extractor = UniversalExtractor(2, (channels, 7, 7), hidden=config.pretrain.hidden)
        classifier = SetClassifier(channels * 49, 2, hidden=config.classify.hidden)
        for stage, network in (("pretrain", extractor), ("classify", classifier)):
            assert 3 * bytes_of(network) < _needed(config, stage) < 6 * bytes_of(network)


def test_scans_are_counted_by_kind(tmp_path: Path, picture_cohort: Callable[..., Path]) -> None:
    assert disk.count_scans(_settings("demo")).volumes == 60
    assert disk.count_scans(_settings("adni")) == disk.Scans(100, 0, 0.0, "no --cohort is given: for each 100 scans")
    config = load_settings(picture_cohort(tmp_path, subjects=12), {})
    scans = disk.count_scans(config)
    sizes = [path.stat().st_size for path in tmp_path.glob("*.png")]
    assert scans == disk.Scans(0, len(sizes), sum(sizes), f"{len(sizes)} scans in cohort.csv")
    limited = disk.count_scans(load_settings(tmp_path / "config.yaml", {"cohort.limit": "6"}))
    assert 6 <= limited.pictures < scans.pictures
    Image.new("RGB", (9, 9)).save(tmp_path / "p00_low.jpg")
    (tmp_path / "cohort.csv").write_text(
        "subject,modality,path,class\np00,low,p00_low.jpg,well\np01,low,gone.png,sick\np02,CT,p02.nii,sick\n"
    )
    jpeg = (tmp_path / "p00_low.jpg").stat().st_size
    assert disk.count_scans(config)[:3] == (0, 2, 10 * jpeg + disk.PICTURE_BYTES)


def test_a_demo_cohort_is_counted_as_it_is_made() -> None:
    config = _settings("biopsies", demo__subjects="10")
    scans = disk.count_scans(config)
    assert (scans.volumes, scans.pictures) == (0, len(picture_table(BiopsiesConfig(subjects=10))))


def test_breakhis_is_a_folder(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "a" / str(number)).mkdir(parents=True)
        (tmp_path / "a" / str(number) / "SOB.png").write_bytes(bytes(1000))
    config = _settings("breakhis", cohort__manifest=str(tmp_path))
    assert disk.count_scans(config)[:3] == (0, 3, 3000)


def test_what_is_finished_need_not_be_written(tmp_path: Path) -> None:
    config = _settings("adni")  # 100 scans
    stages = ["preprocess", "features", "pretrain"]

    def needed(stages: list[str]) -> float:
        return disk.bytes_needed(config, disk.count_scans(config), tmp_path, stages)

    whole = needed(stages)
    assert whole == sum(needed([stage]) for stage in stages)
    features = needed(["features"])
    for number in range(50):
        (tmp_path / "features" / f"s{number}").mkdir(parents=True)
    assert needed(["features"]) == pytest.approx(features / 2)
    for number in range(50, 400):  # more than needed is no credit for other stages
        (tmp_path / "features" / f"s{number}").mkdir(parents=True)
    assert needed(stages) == pytest.approx(whole - features)


def test_a_short_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, stages = _settings("adni"), ["preprocess", "features"]
    needed = disk.readable_size(disk.bytes_needed(config, disk.count_scans(config), tmp_path, stages))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=5_000_000))
    assert disk.check_room(config, tmp_path / "new" / "run", stages) == (
        False,
        f"about {needed} are still to be written (no --cohort is given: for each 100 scans), 5 MB are free in "
        f"{tmp_path}",
    )
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=5e12))
    fits, message = disk.check_room(config, tmp_path, stages)
    assert fits
    assert "5,000.0 GB are free" in message
    missing = _settings("adni", cohort__manifest=str(tmp_path / "missing.csv"))
    fits, message = disk.check_room(missing, tmp_path, stages)
    assert fits is None
    assert "5,000.0 GB are free" in message
    assert "is unknown" in message


def test_a_run_warns_first_and_says_how_much_in_the_end(
    picture_cohort: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = picture_cohort(tmp_path / "data", subjects=12)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    from pipeline.store.volumes import VolumeSet

    def full(self: VolumeSet, scan: str, png: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(VolumeSet, "save_picture", full)
    argv = ["--config", str(config), "--workspace", str(tmp_path / "run"), "--quiet"]
    assert main(argv) == 2
    error_text = capsys.readouterr().err
    assert "the disk may become full: about" in error_text.split("error:")[0]
    assert "error: the disk is full" in error_text
    assert f" scans in cohort.csv), 1 MB are free in {tmp_path / 'run'}" in error_text.split("error:")[1]
    monkeypatch.undo()
    assert main([*argv, "--stages", "split"]) == 0  # what it left behind is taken up again
    assert "the disk" not in capsys.readouterr().err


@pytest.mark.parametrize(("size", "expected"), [(1, "1 MB"), (94e6, "94 MB"), (949e6, "949 MB"), (1.24e9, "1.2 GB")])
def test_bytes_in_words(size: float, expected: str) -> None:
    assert disk.readable_size(size) == expected


# --- places that are hard to write to ---


def test_names_that_no_disk_can_hold(
    picture_cohort: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(picture_cohort(tmp_path / "data", subjects=6))
    long_name, fits = "ü" * 128, "ü" * 127
    for more in ([], ["--dry-run"]):
        assert main(["--config", config, "--workspace", str(tmp_path / long_name / "run"), *more]) == 2
        assert f"has 256 bytes, and {tmp_path} takes names of at most 255" in capsys.readouterr().err
    assert main(["--config", config, "--workspace", str(tmp_path / fits), "--stages", "split", "--quiet"]) == 0
    for option in ("--cohort", "--weights-from", "--fetch-weights"):
        argv = ["--config", config, "--workspace", str(tmp_path / "run"), "--stages", "split", "--quiet"]
        assert main([*argv, option, str(tmp_path / long_name)]) == 2, option
        assert long_name in capsys.readouterr().err


def test_a_path_that_is_too_long_as_a_whole(tmp_path: Path) -> None:
    most = os.pathconf(tmp_path, "PC_PATH_MAX")
    base_folder = tmp_path
    while len(str(base_folder)) + 201 < most - disk.LONGEST_INSIDE:
        base_folder /= "x" * 200
    disk.check_path(base_folder)
    with pytest.raises(InputError, match=rf"its path has \d+ bytes; at most {most - disk.LONGEST_INSIDE} are possible"):
        disk.check_path(base_folder / ("x" * 200))


def test_a_deep_place_with_spaces_and_accents(picture_cohort: Callable[..., Path], tmp_path: Path) -> None:
    """A path of more than a thousand bytes, for what comes in and what goes out."""
    base_folder = tmp_path.joinpath(*["Ärzte & Søn, 'Raum 3' " + "ü" * 100] * 5)
    config = picture_cohort(base_folder / "in put", subjects=6)
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in (base_folder / "in put").rglob("*")}
    argv = [
        "--config",
        str(config),
        "--workspace",
        str(base_folder / "out put"),
        "--quiet",
        "--features.weights",
        "random",
    ]
    assert main([*argv, "--stages", "split,features"]) == 0
    assert len(list((base_folder / "out put" / "features").rglob("features.safetensors"))) > 6
    after = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in (base_folder / "in put").rglob("*")}
    assert after == before  # nothing was written to the input


def test_volumes_are_read_without_a_trace(
    head: Callable[..., np.ndarray], save_nifti: Callable[..., Path], tmp_path: Path
) -> None:
    """No cache, index or sidecar beside the scans, and their times untouched."""
    import yaml

    data = tmp_path / "scans of the lab"
    data.mkdir()
    rows = ["subject,modality,path,diagnosis"]
    for number in range(6):
        save_nifti(data / f"p{number}.nii.gz", head(seed=number))
        rows.append(f"p{number},MRI,p{number}.nii.gz,{'AD' if number % 2 else 'CN'}")
    (data / "cohort.csv").write_text("\n".join(rows))
    settings = {
        "name": "volumes",
        "cohort": {"manifest": str(data / "cohort.csv"), "modalities": {"MRI": {"skull_strip": False}}},
        "preprocess": {"spacing_mm": 6.0},
        "features": {"weights": "random", "slice_spacing_mm": 40.0},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    before = sorted((p, p.stat().st_mtime_ns, p.stat().st_size) for p in [data, *data.rglob("*")])
    argv = ["--config", str(tmp_path / "config.yaml"), "--workspace", str(tmp_path / "run"), "--quiet"]
    assert main([*argv, "--stages", "split,features"]) == 0
    assert main([*argv, "--doctor"]) == 0
    assert sorted((p, p.stat().st_mtime_ns, p.stat().st_size) for p in [data, *data.rglob("*")]) == before
