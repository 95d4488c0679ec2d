"""Files of a workspace that are no longer as they were written: told, and made again where that can be."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from files.reading import file_sha256
from pipeline.cli.main import main
from pipeline.store.features import FeatureStore
from pipeline.store.tables import SplitTables

pytestmark = pytest.mark.usefixtures("thin_backbone")

RESULTS = (
    "classify/predictions.csv",
    "classify/metrics.json",
    "classify/subsets.csv",
    "classify/repeat-1/weights.safetensors",
)
FILES = (
    "cohort/scans.csv", "cohort/classes.json", "cohort/files.json", "split/availability.csv",
    "preprocess/p00_low/picture.png", "preprocess/p03_high/record.json", "features/p01_low/features.safetensors",
    "features/p05_low/record.json", "pretrain/repeat-1/weights.safetensors", "pretrain/repeat-2/record.json",
    "classify/repeat-1/weights.safetensors", "classify/predictions.csv", "classify/subsets.csv",
    "classify/metrics.json", "classify/validation_predictions.csv", "preprocess/manifest.json",
    "features/manifest.json", "pretrain/manifest.json", "split/manifest.json", "cohort/manifest.json",
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(picture_cohort: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> list[str]:
    """A finished run; the words that made it."""
    folder = tmp_path_factory.mktemp("whole")
    config = picture_cohort(folder / "data", second=1.0)
    words = ["--config", str(config), "--stages", "classify", "--quiet", "--workspace"]
    assert main([*words, str(folder / "run")]) == 0
    return [*words, str(folder / "run")]


@pytest.fixture
def run(whole: list[str], tmp_path: Path) -> tuple[list[str], Path]:
    """A copy of it, to be damaged."""
    shutil.copytree(whole[-1], tmp_path / "run")
    return [*whole[:-1], str(tmp_path / "run")], tmp_path / "run"


def results(workspace: Path) -> list[str]:
    return [file_sha256(workspace / name) for name in RESULTS]


def damage(path: Path, dice: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if dice.random() < 0.5:
        content = content[: len(content) // 2]
    else:
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    path.write_bytes(content)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("number", range(len(FILES)))
def test_what_is_damaged_is_made_again(run: tuple[list[str], Path], whole: list[str], number: int) -> None:
    words, workspace = run
    damage(workspace / FILES[number], random.Random(number))
    again = ["--force", "features"] if FILES[number].startswith("preprocess/p") else []
    again = ["--force", "classify"] if FILES[number].startswith("features/p") else again
    assert main([*words, *again]) == 0
    assert results(workspace) == results(Path(whole[-1]))
    assert not (workspace / "failures.csv").read_text().splitlines()[1:]


@pytest.mark.parametrize("how", ["half", "edited", "settings"])
def test_frozen_splits_that_were_changed_are_refused(
    run: tuple[list[str], Path], how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words, workspace = run
    path = workspace / "split" / ("frozen.json" if how == "settings" else "splits.csv")
    text = path.read_text()
    path.write_text({"half": text[: len(text) // 2], "edited": text.replace("test", "train", 1), "settings": "{}"}[how])
    before = path.read_bytes()
    assert main(words) == 2
    assert "the frozen splits are damaged or were edited" in capsys.readouterr().err
    assert path.read_bytes() == before
    path.write_text(text)
    assert main(words) == 0
    (workspace / "split" / "splits.csv").write_text("")
    assert main([*words, "--new-splits"]) == 0


def test_a_run_broken_off_between_both_files_of_the_splits_leaves_them_whole(run: tuple[list[str], Path]) -> None:
    _, workspace = run
    tables = SplitTables(workspace / "split")
    found = tables.frozen()
    assert found is not None
    before = (workspace / "split" / "splits.csv").read_bytes()
    tables.save_splits(found[0].iloc[::-1], found[1])
    (workspace / "split" / "splits.csv").write_bytes(before)  # as if the new ones had not come to their place
    assert tables.frozen() is not None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_that_is_none_in_a_feature_map_is_made_again(
    run: tuple[list[str], Path], whole: list[str], value: float
) -> None:
    """Even where the record was made anew, so that the hash agrees."""
    words, workspace = run
    path = workspace / "features" / "p04_low" / "features.safetensors"
    feature_map = safetensors.numpy.load_file(path)["feature_map"]
    feature_map[3, 2, 1] = value
    safetensors.numpy.save_file({"feature_map": feature_map}, path)
    feature_maps = FeatureStore(workspace / "features")
    record = feature_maps.record("p04_low") or {}
    feature_maps.finish("p04_low", record["key"], {"shape": record["shape"]})
    assert main([*words, "--force", "classify"]) == 0
    assert results(workspace) == results(Path(whole[-1]))


def test_many_damaged_scans_of_two_stages_are_found_at_once(run: tuple[list[str], Path], whole: list[str]) -> None:
    words, workspace = run
    for number in range(20):
        damage(workspace / "features" / f"p{number:02d}_low" / "features.safetensors", random.Random(number))
        damage(workspace / "preprocess" / f"p{number:02d}_low" / "picture.png", random.Random(number))
    assert main([*words, "--force", "pretrain"]) == 0
    assert results(workspace) == results(Path(whole[-1]))
