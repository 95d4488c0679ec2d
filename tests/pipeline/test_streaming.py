"""Feature maps that do not fit in memory train the same model to the last bit."""

from collections.abc import Callable
from pathlib import Path

import pytest

from files.reading import file_sha256
from pipeline.cli.main import main
from pipeline.store.feature_buffer import FeatureBuffer

pytestmark = pytest.mark.usefixtures("thin_backbone")


def test_streamed_and_held_feature_maps_give_the_same_bytes(
    tmp_path: Path, picture_cohort: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = picture_cohort(tmp_path / "cohort", subjects=24)
    held = tmp_path / "held"
    assert main(["--config", str(config), "--workspace", str(held), "--stages", "classify", "--quiet"]) == 0
    names = ["pretrain/repeat-1/weights.safetensors", "classify/repeat-1/weights.safetensors"]
    names += ["classify/predictions.csv", "classify/subsets.csv"]
    before = {name: file_sha256(held / name) for name in names}
    files, limits = [], set()
    filled = FeatureBuffer.__init__

    def watched(self: FeatureBuffer, *arguments: object, most_bytes: int, **more: object) -> None:
        filled(self, *arguments, most_bytes=most_bytes // 10, **more)  # type: ignore[arg-type] # of 0.5 MB
        files.append(self.file)
        limits.add(most_bytes)

    monkeypatch.setattr(FeatureBuffer, "__init__", watched)
    words = ["--pretrain.memory_mb", "1", "--classify.memory_mb", "1", "--force", "pretrain,classify", "--quiet"]
    assert main(["--config", str(config), "--workspace", str(held), "--stages", "classify", *words]) == 0
    assert limits == {1_000_000}
    assert all(file is not None for file in files)
    assert {name: file_sha256(held / name) for name in names} == before
