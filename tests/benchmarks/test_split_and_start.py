"""Components of split and random start, against scipy's analysis of variance and made scores with known ones."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks.split_and_start import components, main, predictions_of
from pipeline.store.base import write_json
from pipeline.store.comparison import ComparisonSet


def test_components_are_those_of_the_analysis_of_variance() -> None:
    scores = np.random.default_rng(0).normal(size=(6, 4)) + np.arange(6)[:, None]
    found = components(scores)
    ratio = stats.f_oneway(*scores).statistic
    within = np.mean([np.var(row, ddof=1) for row in scores])
    assert found.start**2 == pytest.approx(within)
    assert found.split**2 == pytest.approx(within * (ratio - 1) / 4)
    assert found.share == pytest.approx(found.start**2 / (found.start**2 + found.split**2))
    assert found.low < found.share < found.high


def test_the_interval_of_the_share_covers_the_truth() -> None:
    random, truth, times = np.random.default_rng(1), 0.25, 800
    covered = 0
    for _ in range(times):
        found = components(3**0.5 * random.normal(size=(5, 1)) + random.normal(size=(5, 3)))
        covered += found.low <= truth <= found.high
    assert 0.93 < covered / times < 0.97


def test_a_score_that_no_start_changes_has_a_share_of_zero() -> None:
    found = components(np.repeat([[0.6], [0.7], [0.65]], 2, axis=1))
    assert (found.start, found.share, found.low, found.high) == (0, 0, 0, 0)


def _workspace(folder: Path, seed: int, patients: str = "abcdefgh") -> Path:
    store = ComparisonSet(folder / "baselines")
    store.folder.mkdir(parents=True)
    random, rows = np.random.default_rng(seed), []
    for repeat in (1, 2, 3):
        for number, name in enumerate(patients):
            moved = {"linear set function": 0.0, "HyperMM": random.uniform(-0.2, 0.2)}
            for method, move in moved.items():
                p = 0.3 + 0.2 * (number % 2) + 0.01 * number * repeat + move
                rows.append((repeat, name, name, number % 2, 1 - p, p, "as it is", method))
    names = ["repeat", "subject", "observation", "truth", "p_0", "p_1", "scenario", "method"]
    store.save_table("predictions.csv", pd.DataFrame(rows, columns=names))
    write_json(store.folder / "manifest.json", {"made_from": {"settings": {"seed": seed}}})
    return folder


def test_from_workspaces_to_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [_workspace(tmp_path / str(seed), seed) for seed in (0, 1, 2)]
    monkeypatch.setattr(sys, "argv", ["", *map(str, folders)])
    main()
    lines = capsys.readouterr().out.splitlines()
    steady = next(line for line in lines if line.startswith("| linear set function | log_loss"))
    moving = next(line for line in lines if line.startswith("| HyperMM | log_loss"))
    assert "| 0.000 | 0% [0%, 0%] | ± 0.000 |" in steady
    assert float(moving.split("|")[5]) > 0
    assert float(moving.split("±")[1].strip(" |")) > 0.05
    assert any(line.startswith("| linear set function minus HyperMM | auc") for line in lines)


def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    one, same = _workspace(tmp_path / "one", 0), _workspace(tmp_path / "same", 0)
    other = _workspace(tmp_path / "other", 1, patients="abcdefgx")
    with pytest.raises(ValueError, match="every run needs another one"):
        predictions_of([one, same], "as it is")
    with pytest.raises(ValueError, match="not tested on the same patients"):
        predictions_of([one, other], "as it is")
    with pytest.raises(ValueError, match="no predictions of the scenario 'complete'"):
        predictions_of([one], "complete")
    (one / "baselines" / "manifest.json").unlink()
    with pytest.raises(ValueError, match="has not finished"):
        predictions_of([one, other], "as it is")
