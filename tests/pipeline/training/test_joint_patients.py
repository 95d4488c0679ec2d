"""Which observations a joint model learns from, and what is said of the others."""

import numpy as np
import pandas as pd
import pytest

from pipeline.training.joint_patients import CovariateBlocks, learnt_from, notes_on_sessions, observation_table
from pipeline.training.repeat_data import RepeatData


@pytest.fixture
def data() -> RepeatData:
    """a has a whole session and later ones, b two alike, c one, and d, who is tested, two."""
    rows = [
        ("a", "ses-2", "MRI", "train"), ("a", "ses-2", "PET", "train"), ("a", "ses-10", "MRI", "train"),
        ("a", "ses-10", "MRI", "train"), ("b", "ses-10", "MRI", "train"), ("b", "ses-2", "PET", "train"),
        ("c", "", "MRI", "train"), ("d", "1", "MRI", "test"), ("d", "2", "MRI", "test"),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["subject", "session", "modality", "split"])
    table = table.assign(
        observation=(table["subject"] + "_" + table["session"]).str.rstrip("_"), label="CN", scan=table.index.map(str)
    )
    return RepeatData(table, ("MRI", "PET"), ("CN", "AD"))


def test_one_session_of_each_training_patient_is_learnt_from(data: RepeatData) -> None:
    """Modalities count, not scans; the tenth session is later than the second."""
    assert learnt_from(data) == ["a_ses-2", "b_ses-10", "c"]
    assert len(observation_table(data)) == 7


def test_patients_with_several_sessions_are_counted_and_it_is_said_which_counts(data: RepeatData) -> None:
    assert notes_on_sessions(data) == [
        "2 training patients have several sessions; the joint model learnt from one of each, that with the most "
        "modalities, of those the latest"
    ]
    once = RepeatData(data.scans[data.scans["observation"].isin(learnt_from(data))], data.modalities, data.classes)
    assert notes_on_sessions(once) == []


def test_without_training_patients_nothing_is_learnt_from(data: RepeatData) -> None:
    tested = RepeatData(data.scans[data.scans["split"] == "test"], data.modalities, data.classes)
    assert learnt_from(tested) == []
    assert notes_on_sessions(tested) == []


def test_drawn_covariates_have_the_decimals_and_the_range_of_training() -> None:
    train = pd.DataFrame(
        {
            "fa": ["0.0032", "0.0041", "0.0029", ""], "parity": ["0", "1", "2", "1.0"],
            "volume": ["1500000", "1620000", "1390000", "1,5"], "fine": ["0.12345678", "0.2", "0.3", "0.25"],
        }
    )  # fmt: skip
    blocks = CovariateBlocks.fit(train, train)
    drawn = np.array([[-9.0], [-0.3], [0.2], [9.0]])
    cells = {name: blocks.cells(name, drawn, train[name]) for name in train}
    assert (cells["fa"][0], cells["fa"][-1]) == ("0.0029", "0.0041")
    assert all(len(cell) == len("0.0031") for cell in cells["fa"])
    assert len(set(cells["fa"])) == 4
    assert (cells["parity"][0], cells["parity"][-1]) == ("0", "2")
    assert set(cells["parity"]) <= {"0", "1", "2"}
    assert (cells["volume"][0], cells["volume"][-1]) == ("1.5", "1620000.0")
    assert (cells["fine"][0], cells["fine"][-1]) == ("0.123457", "0.300000")
