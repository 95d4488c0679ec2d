"""Values of tables in the manifest: who has which, what is refused, and what is noted."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pydantic import ValidationError

from cohort.manifest import CohortConfig, ManifestError, check_manifest, reading_notes, usable_rows
from cohort.table_members import value_notes

TABLES = {"scores": {"kind": "table", "columns": {"mmse": "number", "cluster": "category"}}}


def config(**changes: Any) -> CohortConfig:
    return CohortConfig(modalities={"MRI": {}, **TABLES}, **{"label": "dx", **changes})


def manifest(folder: Path, rows: list[dict[str, str]]) -> pd.DataFrame:
    """Six patients of two classes without scans, then the rows given."""
    base = [{"subject": f"s{n}", "mmse": str(20 + n % 3), "cluster": "", "dx": "ab"[n % 2]} for n in range(6)]
    for row in rows:
        if row.get("path"):
            (folder / row["path"]).write_text(row["path"])
    names = ["subject", "session", "modality", "path", "mmse", "cluster", "dx"]
    return pd.DataFrame([dict.fromkeys(names, "") | row for row in [*base, *rows]])


def checked(folder: Path, rows: list[dict[str, str]], **changes: Any) -> pd.DataFrame:
    return check_manifest(manifest(folder, rows), folder=folder, config=config(**changes), smallest_class=1)


def values(scans: pd.DataFrame) -> dict[str, dict[str, Any]]:
    members = scans[scans["modality"] == "scores"]
    return {scan: json.loads(text) for scan, text in zip(members["scan"], members["values"], strict=True)}


def test_a_patient_has_the_table_of_any_row_and_without_a_value_none(tmp_path: Path) -> None:
    rows = [
        {"subject": "x", "modality": "MRI", "path": "x.nii", "mmse": "", "cluster": "K1", "dx": "a"},
        {"subject": "x", "modality": "MRI", "path": "x2.nii", "mmse": "28,5", "dx": "a"},
        {"subject": "y", "modality": "MRI", "path": "y.nii", "mmse": "n/a", "cluster": "unknown", "dx": "b"},
        {"subject": "z", "modality": "scores", "mmse": "21", "dx": "b"},
    ]
    scans = checked(tmp_path, rows)
    found = values(scans)
    assert found["x_scores"] == {"mmse": 28.5, "cluster": "K1"}
    assert found["z_scores"] == {"mmse": 21.0, "cluster": None}
    assert "y_scores" not in found
    assert len(found) == 8
    assert scans.loc[scans["scan"] == "x_MRI_2", ["kind", "values"]].to_numpy().tolist() == [["volume", ""]]
    assert (scans.loc[scans["kind"] == "table", "path"] == "").all()


def test_each_session_has_its_own_values(tmp_path: Path) -> None:
    rows = [
        {"subject": "x", "session": session, "mmse": score, "dx": "a"}
        for session, score in (("m0", "28"), ("m12", "25"))
    ]
    found = values(checked(tmp_path, rows))
    assert (found["x_m0_scores"]["mmse"], found["x_m12_scores"]["mmse"]) == (28.0, 25.0)


def test_a_word_for_no_value_may_be_a_category(tmp_path: Path) -> None:
    rows = [{"subject": "x", "cluster": "none", "dx": "a"}, {"subject": "y", "mmse": "3", "dx": "a"}]
    assert values(checked(tmp_path, rows, not_missing=("none",)))["x_scores"] == {"mmse": None, "cluster": "none"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"subject": "x", "mmse": "28", "dx": "a"}, {"subject": "x", "mmse": "27", "dx": "a"}],
         r"x: mmse is '28.0' \(row 8\) and '27.0' \(row 9\)"),
        ([{"subject": "x", "mmse": "28", "cluster": "K1", "dx": "a"}, {"subject": "y", "cluster": "k1", "dx": "a"}],
         r"clusters 'K1' \(row 8\) and 'k1' \(row 9\) differ only in case or spaces"),
        ([{"subject": "x", "mmse": "high", "dx": "a"}], "row 8: mmse 'high' is no number; leave the cell empty"),
        ([{"subject": "x", "mmse": "1e999", "dx": "a"}], "row 8: mmse '1e999' is no number"),
        ([{"subject": "x", "mmse": "1,234", "dx": "a"}], "row 8: mmse '1,234' may be 1.234 or 1234"),
        ([{"subject": "x", "mmse": "NA", "dx": "a"}], "row 8: has neither a scan nor a value of scores"),
        ([{"subject": "x", "modality": "scores", "path": "x.csv", "mmse": "3", "dx": "a"}],
         "row 8: scores is a table and has no file; .* leave path empty"),
        ([{"subject": "x", "modality": "MRI", "mmse": "3", "dx": "a"}], "row 8: path is empty"),
        ([{"subject": "x", "path": "x.nii", "mmse": "3", "dx": "a"}], "row 8: modality is empty"),
    ],
)  # fmt: skip
def test_what_is_refused_has_its_row(tmp_path: Path, rows: list[dict[str, str]], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        checked(tmp_path, rows)


def test_the_same_number_written_twice_is_one(tmp_path: Path) -> None:
    rows = [{"subject": "x", "mmse": score, "dx": "a"} for score in ("28", "28.0", "28,0", "")]
    rows[-1]["cluster"] = "K1"
    assert values(checked(tmp_path, rows))["x_scores"] == {"mmse": 28.0, "cluster": "K1"}


def test_a_missing_column_is_refused_in_training_and_noted_of_new_patients(tmp_path: Path) -> None:
    table = manifest(tmp_path, []).rename(columns={"mmse": "MMSE"}).assign(cluster="K1")
    with pytest.raises(ManifestError, match=r"column 'mmse' \(cohort.modalities.scores.columns\) is missing .*'MMSE'"):
        check_manifest(table, folder=tmp_path, config=config(), smallest_class=1)
    usable, left_out = usable_rows(table, folder=tmp_path, config=config(label=None))
    assert len(usable) == 6
    assert not left_out
    assert "the manifest has no column 'mmse'; it counts as empty" in " ".join(reading_notes(table, config(label=None)))


def test_with_tables_only_neither_modality_nor_path_is_needed(tmp_path: Path) -> None:
    table = manifest(tmp_path, []).drop(columns=["modality", "path", "session"])
    only = CohortConfig(modalities=TABLES, label="dx")
    assert len(check_manifest(table, folder=tmp_path, config=only, smallest_class=1)) == 6
    with pytest.raises(ManifestError, match="column 'modality' is missing"):
        check_manifest(table, folder=tmp_path, config=config(), smallest_class=1)


def test_new_patients_lose_the_rows_that_contradict_each_other_and_no_others(tmp_path: Path) -> None:
    rows = [{"subject": "x", "mmse": "28"}, {"subject": "x", "mmse": "27"}, {"subject": "y", "mmse": "?!"}]
    table, left_out = usable_rows(manifest(tmp_path, rows), folder=tmp_path, config=config(label=None))
    assert len(table) == 6
    assert [(each["row"], each["subject"]) for each in left_out] == [("10", "y"), ("8", "x"), ("9", "x")]


def test_columns_that_say_nothing_or_the_class_are_noted(tmp_path: Path) -> None:
    def notes(mmse: list[str], cluster: list[str]) -> str:
        table = manifest(tmp_path, []).assign(mmse=mmse, cluster=cluster)
        scans = check_manifest(table, folder=tmp_path, config=config(), smallest_class=1)
        return "\n".join(value_notes(scans, config().tables()))

    assert notes(["1", "2", "3", "1", "2", "3"], ["K"] * 6) == (
        "scores: column 'cluster' is 'K' wherever it is given, and counts for nothing but that"
    )
    assert "'cluster' holds no value for anybody" in notes(["1", "2", "3", "1", "2", "3"], [""] * 6)
    telling = "tells the class of every one of 6 patients"
    assert f"'mmse' {telling}" in notes(["1", "7", "3", "8", "2", "9"], ["K", "L", "L", "K", "K", "L"])
    assert f"'cluster' {telling}" in notes(["1", "2", "3", "1", "2", "3"], ["K", "L", "K", "L", "K", "L"])
    assert notes(["1", "2", "3", "1", "2", "3"], list("KLMNOP")) == ""  # each patient's own: an id tells nothing
    assert "'cluster' is given in one class only" in notes(["1", "2", "3", "1", "2", "3"], ["K", "", "L", "", "K", ""])


@pytest.mark.parametrize(
    ("modality", "message"),
    [
        ({"kind": "table"}, "a table needs at least one"),
        ({"kind": "volume", "columns": {"a": "number"}}, "only a table has columns"),
        ({"kind": "table", "columns": {"path": "number"}}, "'path' cannot be a value"),
        (
            {"kind": "table", "columns": {"a": "number"}, "normalise": "minmax_robust"},
            "is for volumes; a table has none",
        ),
        ({"kind": "table", "columns": {"a": "number"}, "bits": 12}, "is for pictures"),
        ({"kind": "table", "columns": {"dx": "category"}}, "'dx' is the class"),
        ({"kind": "table", "columns": {"mmse": "number"}}, "'mmse' is in scores already"),
        ({"kind": "table", "columns": {"a": "text"}}, "'category' or 'number'"),
    ],
)
def test_settings_that_make_no_table_are_refused(modality: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CohortConfig(modalities={**TABLES, "t": modality}, label="dx")
