"""The tables of moves and of stated reasons, on made scores of two modalities."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from models.joint.model import JointConfig, Patients, fit_model
from pipeline.training.tipping import RepeatScores, selection_table, tipping_table

pytestmark = pytest.mark.usefixtures("one_thread")
DELTAS = (-1.0, 0.0, 1.0)


def placed(count: int = 60, *, lacks: str = "some", split: str = "train", sessions: int = 1) -> RepeatScores:
    """Patients with MRI, of whom some lack PET, or all of the last class; each with as many alike sessions."""
    random = np.random.default_rng(0)
    labels = np.arange(count) % 2
    shared = random.standard_normal((count, 1)) + 1.5 * labels[:, None]
    features = {
        name: (shared @ random.standard_normal((1, 8)) + random.standard_normal((count, 8))).astype(np.float32)
        for name in ("MRI", "PET")
    }
    gone = labels == 1 if lacks == "class" else random.random(count) < 0.4
    features["PET"][gone] = np.nan
    model, scores = fit_model(Patients(features, {}), labels, 2, JointConfig(components=3, draws=2))
    names = [f"s{i}" for i in range(count)]
    about = pd.DataFrame({"subject": names, "observation": names, "split": split})
    table = pd.concat([about.assign(observation=about["observation"] + f"_{n}") for n in range(sessions)])
    rows, repeated = np.tile(scores, (sessions, 1)), np.tile(labels, sessions)
    return RepeatScores(1, model, rows, table.reset_index(drop=True), repeated, ("well", "sick"))


def test_a_slope_whose_fit_never_rests_gives_no_figure() -> None:
    """Nobody of the last class has the scan: any mean of theirs goes with the stated slope."""
    table, notes = selection_table(placed(lacks="class"), (2.0,), "principal")
    assert not table["converged"].any()
    assert table[["delta", "mean", "apart"]].isna().all(axis=None)
    assert len(notes) == 1
    assert "stated slope 2: not converged after 400 steps, so it gives no figures" in notes[0]
    table, notes = selection_table(placed(), (2.0,), "principal")
    assert table["converged"].all()
    assert (table["delta"] > 0).all()
    assert notes == []
