"""Which observations a joint model learns from, and what is said of the others."""

import pandas as pd
import pytest

from pipeline.training.joint_patients import learnt_from, notes_on_sessions, observation_table
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
