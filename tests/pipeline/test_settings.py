"""A config file is read once, within limits, and loses nothing on the way."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from console.errors import InputError
from pipeline import settings
from pipeline.core.provenance import REPOSITORY, settings_yaml
from pipeline.deployment.bundle_settings import settings_of_model
from pipeline.settings import load_settings


def test_the_config_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second reading could find something else, or a bomb."""
    content = (REPOSITORY / "configs" / "demo.yaml").read_bytes()
    read = []

    def once(path: Path, *, most: int) -> bytes:
        read.append((path, most))
        return content

    monkeypatch.setattr(settings, "read_bytes", once)
    found = load_settings(Path("nowhere.yaml"), {})
    assert read == [(Path("nowhere.yaml"), 1_000_000)]
    monkeypatch.undo()
    assert found.model_dump() == load_settings(REPOSITORY / "configs" / "demo.yaml", {}).model_dump()


@pytest.mark.parametrize("config", sorted((REPOSITORY / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_settings_are_those_of_the_file(config: Path) -> None:
    def within(part: object, whole: object) -> bool:
        if isinstance(part, dict):
            return isinstance(whole, dict) and all(within(value, whole[key]) for key, value in part.items())
        return part == whole or float(part) == whole  # type: ignore[arg-type]

    assert within(yaml.safe_load(config.read_text()), yaml.safe_load(settings_yaml(load_settings(config, {}))))


def test_sections_of_all_sources_are_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERMM_PRETRAIN__EPOCHS", "7")
    found = load_settings(REPOSITORY / "configs" / "demo.yaml", {"pretrain.learning_rate": "1e-4"})
    plain = load_settings(REPOSITORY / "configs" / "demo.yaml", {})
    assert (found.pretrain.epochs, found.pretrain.learning_rate) == (7, 1e-4)
    changed = {"epochs": 7, "learning_rate": 1e-4}
    assert found.model_dump() == {
        **plain.model_dump(), "pretrain": {**plain.pretrain.model_dump(), **changed}
    }  # fmt: skip


@pytest.mark.parametrize("key", ["memory_gb", "largest_extent_mm"])
def test_a_model_does_not_set_limits(tmp_path: Path, small_model: Callable[..., Path], key: str) -> None:
    loose = {"preprocess": {"spacing_mm": 1.5, key: 10_000}, "features": {"backbone": "vgg16"}}
    assert settings_of_model(small_model(tmp_path / "plain")).exists()
    with pytest.raises(InputError, match=f"preprocess.'{key}', which is not a model's to set"):
        settings_of_model(small_model(tmp_path / "loose", settings=loose))
