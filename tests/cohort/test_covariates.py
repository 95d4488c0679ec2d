import numpy as np
import pandas as pd

from cohort.covariates import availability_of, covariates_of, fit_encoder, folds_of, kinds_of


def table(**columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame(columns, index=[f"o{i}" for i in range(len(next(iter(columns.values()))))])


def test_covariates_are_taken_from_the_first_scan_that_has_them() -> None:
    scans = pd.DataFrame(
        [("b", "b_1", "MRI", "", "F"), ("b", "b_1", "PET", "70", "F"), ("a", "a_1", "MRI", "61", "")],
        columns=["subject", "observation", "modality", "age", "sex"],
    ).assign(scan=["1", "2", "3"], session="", label="x", split="", kind="volume", path="p", sha256="h")
    found = covariates_of(scans)
    assert found.to_dict("index") == {"a_1": {"age": "61", "sex": ""}, "b_1": {"age": "70", "sex": "F"}}


def test_numbers_are_standardised_and_gaps_are_the_training_mean() -> None:
    train = table(age=["60", "70", "", "80"])
    encode = fit_encoder(train, {"age": "number"})
    sd = np.std([60, 70, 80])
    found = encode(table(age=["80", "", "90"]))
    np.testing.assert_allclose(found, [[10 / sd, 0], [0, 1], [20 / sd, 0]])


def test_categories_are_those_of_training() -> None:
    encode = fit_encoder(table(site=["A", "B", ""]), {"site": "category"})
    np.testing.assert_array_equal(encode(table(site=["A", "B", "", "C"])), [[0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 0]])


def test_what_tells_nobody_apart_is_left_out() -> None:
    train = table(age=["70", "70"], sex=["F", "F"], educ=["", ""])
    encode = fit_encoder(train, kinds_of(train))
    assert encode(train).shape == (2, 0)


def test_codes_of_sites_are_no_numbers() -> None:
    assert kinds_of(table(Site=["1", "2"], age=["61,5", ""], word=["x", "1"], empty=["", ""])) == {
        "Site": "category", "age": "number", "word": "category", "empty": "category",
    }  # fmt: skip


def test_availability_says_what_is_there() -> None:
    scans = pd.DataFrame({"observation": ["b", "a", "b", "b"], "modality": ["MRI", "MRI", "PET", "PET"]})
    assert availability_of(scans).to_dict("index") == {
        "a": {"pattern": "MRI", "has MRI": "yes", "has PET": "no", "number of PET": "0"},
        "b": {"pattern": "MRI+PET", "has MRI": "yes", "has PET": "yes", "number of PET": "2"},
    }


def test_folds_keep_subjects_whole_and_share_out_classes() -> None:
    subjects = pd.Series([f"s{i}" for i in range(40) for _ in range(2)])
    classes = pd.Series([i % 4 == 0 for i in range(40) for _ in range(2)])
    folds = folds_of(subjects, classes, 5, "x")
    assert pd.DataFrame({"s": subjects, "f": folds}).groupby("s")["f"].nunique().eq(1).all()
    assert pd.Series(folds[classes]).value_counts().tolist() == [4] * 5  # of 10 subjects with two rows each
    assert (folds != folds_of(subjects, classes, 5, "y")).any()
