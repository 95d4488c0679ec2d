"""`--paper-protocol` against what is published, and that a typed option goes before it."""

from pathlib import Path

import pytest
import yaml

from baselines.methods import ABLATIONS
from pipeline.cli.options import parse
from pipeline.settings import Settings, load_settings

TRAINING = {"batch_size": 1, "learning_rate": 1e-4, "weight_decay": 5e-4, "patience": 10, "balance_classes": False}
PUBLISHED = {
    "pretrain": TRAINING
    | {
        "losses": "both",
        "initialisation": "default",
        "feature_scale": "none",
        "stop_on": "loss",
        "embedding": 5,
        "hidden": 20,
    },
    "classify": TRAINING
    | {"fit": "epochs"}
    | {"hidden": (512, 128), "aggregate": "mean", "dropout": 0, "modality_dropout": 0},
}
NOT_PUBLISHED = {"epochs", "seed", "memory_mb"}  # epochs: 100 for ADNI, 50 for BreakHis
OTHERWISE = {
    "pretrain": {
        "batch_size": 16, "learning_rate": 1e-3, "weight_decay": 0, "patience": 3, "balance_classes": True,
        "losses": "classification", "initialisation": "principled", "feature_scale": "scale",
        "stop_on": "classification",
        "embedding": 2,
        "hidden": 10,
    },
    "classify": {
        "batch_size": 16, "learning_rate": 1e-3, "weight_decay": 0, "patience": 3, "balance_classes": True,
        "hidden": [], "aggregate": "max", "dropout": 0.5, "modality_dropout": 0.3,
    },
}  # fmt: skip
COHORT = {"name": "paper", "cohort": {"manifest": "phantoms", "modalities": {"MRI": {}, "PET": {}}}}


def settings_of(config: Path, *words: str) -> Settings:
    return load_settings(config, parse([*words, "--config", str(config)])[1])


@pytest.fixture
def otherwise(tmp_path: Path) -> Path:
    """A config that says something else in every place."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(COHORT | OTHERWISE), "utf-8")
    return tmp_path / "config.yaml"


@pytest.mark.parametrize("config", ["adni", "breakhis", "demo", "otherwise"])
def test_every_value_is_the_published_one(otherwise: Path, config: str) -> None:
    path = otherwise if config == "otherwise" else Path("configs") / f"{config}.yaml"
    settings = settings_of(path, "--paper-protocol")
    for name, published in PUBLISHED.items():
        found = getattr(settings, name).model_dump()
        assert {key: value for key, value in found.items() if key not in NOT_PUBLISHED} == published
        assert found["epochs"] == (50 if config == "breakhis" else 100)


@pytest.mark.parametrize(("section", "key"), [(s, k) for s, values in OTHERWISE.items() for k in values])
@pytest.mark.parametrize("first", [True, False])
def test_a_typed_option_goes_before_it(section: str, key: str, first: bool) -> None:
    value = OTHERWISE[section][key]
    option = [f"--{section}.{key}", yaml.safe_dump(value, default_flow_style=True).split("\n")[0]]
    words = ["--paper-protocol", *option] if first else [*option, "--paper-protocol"]
    found = settings_of(Path("configs/demo.yaml"), *words)
    expected = PUBLISHED[section] | {key: tuple(value) if isinstance(value, list) else value}
    assert {k: v for k, v in getattr(found, section).model_dump().items() if k not in NOT_PUBLISHED} == expected


def test_the_environment_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERMM_PRETRAIN__LEARNING_RATE", "0.1")
    assert settings_of(Path("configs/demo.yaml"), "--paper-protocol").pretrain.learning_rate == 1e-4
    assert settings_of(Path("configs/demo.yaml")).pretrain.learning_rate == 0.1


def test_it_is_the_last_row_of_the_ablations() -> None:
    """Which is told of its own settings, not of the run's."""
    settings, row = settings_of(Path("configs/adni.yaml"), "--paper-protocol"), ABLATIONS[-1]
    assert row.name == "HyperMM, paper protocol"
    assert row.fit.__closure__ is not None
    variant = next(cell.cell_contents for cell in row.fit.__closure__)
    assert (variant.one, variant.two.hidden, variant.two.how) == (settings.pretrain.step, (512, 128), "mean")
    assert variant.two.fit == "epochs"
    assert (variant.batch_size, variant.two.modality_dropout, variant.two_steps, variant.fine_tune) == (
        1,
        0,
        True,
        False,
    )
    assert row.training(settings_of(Path("configs/demo.yaml")).baselines.training(1)) == settings.pretrain.training(1)
