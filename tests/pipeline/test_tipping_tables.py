"""The tables of moves and of stated reasons, on made scores of two modalities."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from models.joint.model import JointConfig, Patients, fit_model
from pipeline.specs.impute import ImputeConfig
from pipeline.training.tipping import RepeatScores, directions, selection_table, tipping_table

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


def test_sessions_of_a_patient_count_as_one() -> None:
    """Four alike sessions of everybody who has both scans: no more is known than from one."""
    once, often = placed(), placed(sessions=4)
    tables = [
        tipping_table([each], DELTAS, "principal", 0)[0].query("conclusion == 'classes apart' and moved == 'all'")
        for each in (once, often)
    ]
    assert set(tables[0]["n"]) == set(tables[1]["n"]) == {60}
    assert set(tables[0]["lacking"]) == set(tables[1]["lacking"]) == {once.lacking("PET", np.arange(60))}
    width = [(table["high"] - table["low"]).to_numpy() for table in tables]
    assert (width[1] > 0.8 * width[0]).all()


def test_a_direction_points_the_same_way_in_every_repeat() -> None:
    """The same patients in two repeats; in the second the principal direction is across the classes, so its sign is
    anybody's, and here the other one."""
    one = placed(split="test")
    estimate, part = one.model.gaussian.estimate, one.model.blocks.slice_of("PET")
    mean = estimate.mean.copy()
    mean[:, part] = -mean[:, part]
    turned = dataclasses.replace(
        one.model,
        gaussian=dataclasses.replace(one.model.gaussian, estimate=dataclasses.replace(estimate, mean=mean)),
    )
    two = dataclasses.replace(one, repeat=2, model=turned)
    first, second = directions([one, two], "PET", "principal")
    np.testing.assert_allclose(first.unit, second.unit)
    assert first.unit @ (estimate.mean[1, part] - estimate.mean[0, part]) > 0
    first, second = directions([one, two], "PET", "class")
    np.testing.assert_allclose(first.unit, -second.unit)


def test_steeper_slopes_than_the_quadrature_can_take_are_refused() -> None:
    assert ImputeConfig(slopes=(-10, 10)).slopes == (-10, 10)
    with pytest.raises(ValueError, match="less than or equal to 10"):
        ImputeConfig(slopes=(10.5,))
