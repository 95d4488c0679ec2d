"""A GPU that others have filled does not cost a night; torch's own error, raised on the CPU."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models.backbone import Backbone
from pipeline.cli.main import main
from pipeline.core.runtime import Runtime
from pipeline.stages import features

pytestmark = pytest.mark.usefixtures("thin_backbone")


def _feature_maps(run: Path) -> dict[str, bytes]:
    return {p.parent.name: p.read_bytes() for p in (run / "features").rglob("features.safetensors")}


@pytest.fixture(scope="module")
def undisturbed(picture_cohort: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple:
    """What was typed, and the feature maps that came of it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    words = ["--config", str(picture_cohort(folder / "data", subjects=6)), "--features.backbone", "vgg11"]
    words += ["--features.weights", "random", "--features.precision", "fp32", "--stages", "features", "--quiet"]
    assert main([*words, "--workspace", str(folder / "run")]) == 0
    return words, _feature_maps(folder / "run")


def test_no_room_for_the_network_itself(
    undisturbed: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first three times it is asked for; after that the other process has gone."""
    words, expected = undisturbed
    real, asked = features.loaded_backbone, []

    def ready(config: features.FeaturesConfig, runtime: Runtime) -> Backbone:
        asked.append(runtime.device_name)
        if runtime.device_name != "cpu" and asked.count(runtime.device_name) <= 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return real(config, runtime)

    monkeypatch.setattr(features, "loaded_backbone", ready)
    assert main([*words, "--workspace", str(tmp_path / "crowded")]) == 0
    assert asked == ["auto", "cpu", "auto", "auto", "auto"]  # the CPU's was kept; the fourth scan had its own again
    told = capsys.readouterr().err
    assert told.count("out of memory with the backbone on cpu; this scan goes on with the CPU") == 3
    assert "feature maps of p00_low: " in told
    with (tmp_path / "crowded" / "failures.csv").open() as stream:
        assert list(csv.DictReader(stream)) == []
    assert _feature_maps(tmp_path / "crowded") == expected


def test_no_room_for_the_slices(undisturbed: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One slice is too much for the network on the GPU in one scan of two; its copy on the CPU does those."""
    words, expected = undisturbed
    real, home, count = Backbone.forward, [], [0]

    def forward(self: Backbone, slices: torch.Tensor) -> torch.Tensor:
        home.append(self)
        if self is home[0]:
            count[0] += 1
            if count[0] % 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return real(self, slices)

    monkeypatch.setattr(Backbone, "forward", forward)
    assert main([*words, "--workspace", str(tmp_path / "crowded")]) == 0
    assert count[0] == len(_feature_maps(tmp_path / "crowded")) > 6  # every scan was tried at home first
    assert _feature_maps(tmp_path / "crowded") == expected
