"""The calibration error that chance alone gives."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks.calibration_by_chance import errors_by_chance, main
from evaluation.calibration import calibration_error
from pipeline.store.base import write_json
from pipeline.store.comparison import ComparisonSet


def test_one_bin_has_the_mean_deviation_of_a_binomial_share() -> None:
    patients, p = 50, 0.35
    drawn = errors_by_chance(np.tile([1 - p, p], (patients, 1)), np.arange(patients).astype(object), draws=1000)
    expected = stats.binom(patients, p).expect(lambda k: abs(k / patients - p))
    assert drawn.mean() == pytest.approx(expected, rel=0.08)


def test_a_patient_tested_five_times_counts_once() -> None:
    subjects = np.repeat(np.arange(50), 5).astype(object)
    drawn = errors_by_chance(np.tile([0.65, 0.35], (250, 1)), subjects, draws=300)
    assert drawn.mean() == pytest.approx(
        errors_by_chance(np.tile([0.65, 0.35], (50, 1)), np.arange(50).astype(object), draws=300).mean()
    )


def test_the_table_tells_chance_from_overconfidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, size=120)
    p_of = {"honest": np.where(truth, 0.55, 0.45) + random.uniform(-0.1, 0.1, 120), "sure": np.full(120, 0.99)}
    parts = [
        pd.DataFrame({"repeat": 1, "subject": np.arange(120).astype(str), "truth": truth, "p_0": 1 - p, "p_1": p,
                      "scenario": "as it is", "method": name}) for name, p in p_of.items()
    ]  # fmt: skip
    table = pd.concat(parts).assign(observation=lambda t: t["subject"])
    store = ComparisonSet(tmp_path / "baselines")
    store.folder.mkdir()
    store.save_table("predictions.csv", table)
    write_json(store.folder / "manifest.json", {"made_from": {"settings": {"seed": 0}}})
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path)])
    main()
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| sure"))
    own = calibration_error(np.column_stack([1 - p_of["sure"], p_of["sure"]]), truth)
    assert line.startswith(f"| sure | {own:.3f} |")
    assert line.endswith("| 0% | 0% |")
