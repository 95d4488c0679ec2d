"""Synthetic patients in a manifest: trained on, and nothing else."""

from pathlib import Path

import pandas as pd
import pytest

from cohort.manifest import CohortConfig, check_manifest, observations
from cohort.origin import outside_training, real_only, synthetic_subjects
from cohort.tables import ManifestError

CONFIG = CohortConfig(label="dx", modalities={"MRI": {"kind": "volume"}}, covariates=("age", "origin"))


def table(folder: Path, made: dict[str, str], *, real: int = 6) -> pd.DataFrame:
    """Write `real` real patients and two synthetic ones of each class."""
    rows = []
    for number in range(real + 4):
        synthetic = number >= real
        row = {"subject": f"s{number}", "modality": "MRI", "path": f"{number}.nii", "dx": "AD" if number % 2 else "CN"}
        row |= {"age": str(60 + number), "origin": "", "judged": "", "split": ""} | (made if synthetic else {})
        (folder / row["path"]).write_text(str(number))
        rows.append(row)
    return pd.DataFrame(rows)


def checked(rows: pd.DataFrame, folder: Path, config: CohortConfig = CONFIG) -> pd.DataFrame:
    return check_manifest(rows, folder=folder, config=config, smallest_class=3)


@pytest.mark.parametrize("judged", ["passed", "copies accepted", "Passed"])
def test_judged_synthetic_patients_are_taken_and_known(tmp_path: Path, judged: str) -> None:
    scans = checked(table(tmp_path, {"origin": "Synthetic", "judged": judged}), tmp_path)
    assert synthetic_subjects(scans) == {"s6", "s7", "s8", "s9"}
    assert set(real_only(scans)["subject"]) == {f"s{n}" for n in range(6)}
    assert list(observations(scans).columns[4:]) == ["age", "split"]  # the origin is no covariate


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"judged": "no"}, r"was not judged \(judged: no\); run --stages judge where it was made"),
        ({"judged": ""}, r"was not judged \(judged: empty\)"),
        ({"judged": "copies"}, "are copies of training patients .* --stages judge --accept-copies"),
        ({"judged": "passed", "split": "test"}, "a synthetic patient is in the test split; it may be in train alone"),
        ({"judged": "passed", "split": "validation"}, "a synthetic patient is in the validation split"),
        ({"judged": "passed", "subject": "s0"}, "subject 's0' has synthetic and real scans"),
    ],
)
def test_synthetic_patients_that_may_not_take_part_are_refused(
    tmp_path: Path, made: dict[str, str], words: str
) -> None:
    with pytest.raises(ManifestError, match=words):
        checked(table(tmp_path, {"origin": "synthetic"} | made), tmp_path)


def test_another_word_beside_synthetic_ones_is_refused(tmp_path: Path) -> None:
    rows = table(tmp_path, {"origin": "synthetic", "judged": "passed"})
    rows.loc[0, "origin"] = "syntetic"
    with pytest.raises(ManifestError, match="row 2.*'syntetic' is neither real nor synthetic"):
        checked(rows, tmp_path)


def test_a_column_origin_of_another_meaning_is_a_covariate_as_before(tmp_path: Path) -> None:
    rows = table(tmp_path, {}).assign(origin="Paris")
    scans = checked(rows, tmp_path)
    assert list(observations(scans).columns[4:]) == ["age", "origin", "split"]
    assert not synthetic_subjects(scans)


def test_classes_need_real_patients(tmp_path: Path) -> None:
    rows = table(tmp_path, {"origin": "synthetic", "judged": "passed"}, real=4)
    with pytest.raises(ManifestError, match="3"):
        checked(rows, tmp_path)


def test_nobody_predicts_for_synthetic_patients(tmp_path: Path) -> None:
    rows = table(tmp_path, {"origin": "synthetic", "judged": "passed"})
    with pytest.raises(ManifestError, match="there are predictions for patients alone"):
        checked(rows, tmp_path, CONFIG.model_copy(update={"label": None}))


def test_synthetic_subjects_outside_of_training_are_named() -> None:
    splits = pd.DataFrame({"repeat": 1, "subject": ["a", "b", "c"], "split": ["train", "test", "validation"]})
    assert outside_training(splits, {"a", "b", "c"}) == ["b", "c"]
    assert outside_training(splits, {"a"}) == []
