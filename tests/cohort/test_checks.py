"""What a manifest may not hold, and the words in which it is said."""

import os
import re
import unicodedata
from pathlib import Path

import pandas as pd
import pytest
from helpers.manifests import check, on_disk, problems, rows_of

from cohort.tables import ManifestError

AGED = "subject,modality,path,diagnosis,age"


def test_missing_columns_are_named_with_what_was_meant(cohort: pd.DataFrame, tmp_path: Path) -> None:
    renamed = cohort.rename(columns={"subject": "Subject", "path": "paths", "diagnosis": "dx"})
    assert problems(renamed, tmp_path) == (
        "column 'subject' is missing (did you mean 'Subject'?)",
        "column 'path' is missing (did you mean 'paths'?)",
        "column 'diagnosis' is missing (there is: Subject, dx, modality, paths)",
    )


def test_no_scans(tmp_path: Path) -> None:
    assert problems(rows_of(header="subject,modality,path,diagnosis"), tmp_path) == (
        "there are no scans below the header",
    )


@pytest.mark.parametrize(
    ("row", "column", "value", "message"),
    [
        (0, "subject", " ", "row 2: subject is empty"),
        (1, "path", "", "row 3: path is empty"),
        (2, "modality", "", "row 4: modality is empty"),
        (3, "diagnosis", "", "row 5: diagnosis is empty"),
        (4, "modality", "mri", r"row 6: modality 'mri' is unknown \(did you mean 'MRI'\?\)"),
        (4, "modality", "PTE", r"row 6: modality 'PTE' is unknown \(did you mean 'PET'\?\)"),
        (4, "modality", "CT", r"row 6: modality 'CT' is unknown \(there is: H&E 40×, MRI, PET\)"),
        (5, "path", "no{w}here.nii", r"row 7: there is no file /.*/no\{w\}here.nii"),
        (5, "path", ".", "row 7: /.* is a folder, not a file"),
        (5, "path", "x" * 300, "row 7: there is no file"),
        (6, "path", "s0_MRI.nii.gz", "row 8: /.*s0_MRI.nii.gz is used in row 2 already"),
        (6, "diagnosis", "AD", r"s3: label is 'AD' \(row 8\) and 'CN' \(row 9\)"),
    ],
)
def test_one_wrong_cell_is_one_problem(
    cohort: pd.DataFrame, tmp_path: Path, row: int, column: str, value: str, message: str
) -> None:
    cohort.loc[row, column] = value
    (listed,) = problems(cohort, tmp_path)
    assert re.fullmatch(message, listed) or listed.startswith(message)


def test_everything_wrong_is_reported_at_once(cohort: pd.DataFrame, tmp_path: Path) -> None:
    cohort.loc[0, "subject"] = ""
    cohort.loc[1, "modality"] = "pet"
    cohort.loc[2, "path"] = "gone.nii"
    with pytest.raises(
        ManifestError, match="(?s)row 2: subject.*row 3: modality.*row 4: there is no file.*positive: no lab"
    ):
        check(cohort, tmp_path, positive="ad")


def test_a_long_list_is_cut_and_counted(cohort: pd.DataFrame, tmp_path: Path) -> None:
    many = pd.concat([cohort] * 4, ignore_index=True)
    many["path"] = [f"gone{i}" for i in range(len(many))]
    listed = problems(many, tmp_path)
    assert len(listed) == 21
    assert listed[20] == "… and 28 more like this"


def test_a_repeated_row_and_a_link_to_a_used_file(cohort: pd.DataFrame, tmp_path: Path) -> None:
    os.symlink(tmp_path / "s1_PET.nii.gz", tmp_path / "link.nii.gz")
    more = rows_of("s0,MRI,./s0_MRI.nii.gz,AD", "s0,MRI,link.nii.gz,AD")
    listed = problems(pd.concat([cohort, more], ignore_index=True), tmp_path)
    assert listed == ("row 14: repeats row 2", f"row 15: {tmp_path}/link.nii.gz is used in row 5 already")


def test_labels_that_differ_only_in_case_or_spaces(cohort: pd.DataFrame, tmp_path: Path) -> None:
    cohort.loc[[0, 1], "diagnosis"] = "ad"
    cohort.loc[[10, 11], "diagnosis"] = "C N"
    assert problems(cohort, tmp_path) == (
        "labels 'AD' (row 4) and 'ad' (row 2) differ only in case or spaces; use one spelling",
        "labels 'C N' (row 12) and 'CN' (row 8) differ only in case or spaces; use one spelling",
    )


def test_classes_too_few_or_too_small(cohort: pd.DataFrame, tmp_path: Path) -> None:
    assert problems(cohort.assign(diagnosis="AD"), tmp_path) == (
        "there is only one class, 'AD'; a classifier needs two",
    )
    assert problems(cohort[:10], tmp_path, smallest_class=3) == (
        "class 'CN' has too few subjects: 2 found (by their last session), 3 needed",
    )


def test_a_class_of_former_sessions_only_has_no_subjects(cohort: pd.DataFrame, tmp_path: Path) -> None:
    later = on_disk(tmp_path, cohort[:2].assign(session="ses-10", path=["x", "y"]))
    first = cohort.assign(session="ses-2")
    first.loc[[0, 1], "diagnosis"] = "MCI"
    (listed,) = problems(pd.concat([later, first], ignore_index=True), tmp_path)
    assert listed == "class 'MCI' has too few subjects: 0 found (by their last session), 1 needed"


def test_positive_must_be_a_label(cohort: pd.DataFrame, tmp_path: Path) -> None:
    assert problems(cohort, tmp_path, positive="cn") == ("positive: no label is 'cn' (did you mean 'CN'?)",)


def test_no_scan_leaves_the_data_root(cohort: pd.DataFrame, tmp_path: Path) -> None:
    root = tmp_path / "root"
    inside = on_disk(root, cohort.copy())
    assert len(check(inside, root, data_root=root)) == 12
    inside.loc[0, "path"] = "../s0_MRI.nii.gz"
    on_disk(tmp_path, cohort)
    (root / "s0_PET.nii.gz").unlink()
    (root / "s0_PET.nii.gz").symlink_to(tmp_path / "s0_PET.nii.gz")
    listed = problems(inside, root, data_root=root)
    assert [line.split(":")[0] for line in listed] == ["row 2", "row 3"]
    assert all(line.endswith(f"lies outside of data_root {root}") for line in listed)


def test_split_column(cohort: pd.DataFrame, tmp_path: Path) -> None:
    splits = {"s0": "train", "s1": "validation", "s2": "test", "s3": "train", "s4": "validation", "s5": "test"}
    split = cohort.assign(split=cohort["subject"].map(splits))
    assert problems(split.assign(split=split["split"].replace("test", "tset")), tmp_path)[0] == (
        "row 6: split 'tset' is unknown (did you mean 'test'?)"
    )
    apart = split.copy()
    apart.loc[1, ["split", "session"]] = ["test", "m12"]
    assert problems(apart.fillna(""), tmp_path)[0] == "s0: split is 'train' (row 2) and 'test' (row 3)"
    partly = split.assign(split=split["split"].where(split["subject"] != "s5", ""))
    assert problems(partly, tmp_path) == ("split is given for 5 subjects, not for 's5'; give it for all or none",)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ("S0", "case or spaces"),
        ("s 0", "case or spaces"),
        ("s00", "zeros in front"),
        ("s0.0", "a trailing .0"),
        ("s-0", "dashes or underscores"),
        ("\N{FULLWIDTH LATIN SMALL LETTER S}0", "characters that look alike"),
        ("s\N{ZERO WIDTH SPACE}0", "characters that look alike"),
        ("\N{CYRILLIC SMALL LETTER DZE}0", "characters that look alike"),
        ("sub-s0", "how they are written"),
    ],
)
def test_a_subject_in_two_spellings_is_refused_with_both_rows(
    cohort: pd.DataFrame, tmp_path: Path, other: str, what: str
) -> None:
    cohort.loc[1, "subject"] = other
    first, second = sorted([("s0", 2), (other, 3)])
    assert problems(cohort, tmp_path) == (
        f"subjects {first[0]!r} (row {first[1]}) and {second[0]!r} (row {second[1]}) differ only in {what}; use one "
        "spelling, or, for two people, ids that differ in more",
    )


@pytest.mark.parametrize(("one", "other"), [("S-1-1", "S-11"), ("P1", "P10"), ("1.1", "1.10")])
def test_subjects_that_differ_in_more_are_two(cohort: pd.DataFrame, tmp_path: Path, one: str, other: str) -> None:
    cohort.loc[0, "subject"], cohort.loc[1, "subject"] = one, other
    assert check(cohort, tmp_path)["subject"].tolist()[:2] == [one, other]


def test_sessions_are_compared_within_a_person(cohort: pd.DataFrame, tmp_path: Path) -> None:
    sessions = cohort.assign(session=["ses-1", "ses-1"] * 6)
    sessions.loc[3, "session"] = "ses-01"
    assert problems(sessions, tmp_path) == (
        "sessions 'ses-01' (row 5) and 'ses-1' (row 4) differ only in zeros in front; use one spelling",
    )
    sessions.loc[3, "session"] = "ses-1"
    sessions.loc[[4, 5], "session"] = "ses-01"  # another person, whose visits are all written so
    assert len(check(sessions, tmp_path)) == 12


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (("1", "1.0"), "a trailing .0"),
        (("1", "01"), "zeros in front"),
        (("0.5", "0,5"), "how they are written"),
        (("early AD", "early-AD"), "case or spaces, dashes or underscores"),
        (("AD", "\N{CYRILLIC CAPITAL LETTER A}D"), "characters that look alike"),
        (('"AD', "AD"), "characters that look alike"),
    ],
)
def test_a_class_in_two_spellings_is_refused_with_both_rows(
    cohort: pd.DataFrame, tmp_path: Path, labels: tuple[str, str], kind: str
) -> None:
    cohort["diagnosis"] = [labels[0]] * 2 + [labels[1]] * 4 + ["2"] * 6
    (listed,) = problems(cohort, tmp_path)
    rows = dict(zip(labels, (2, 4), strict=True))
    each = " and ".join(f"{name!r} (row {rows[name]})" for name in sorted(labels))
    assert listed.startswith(f"labels {each} differ only in {kind}")


def test_numbers_written_in_two_ways_are_no_four_classes(cohort: pd.DataFrame, tmp_path: Path) -> None:
    cohort["diagnosis"] = ["1", "1", "1.0", "1.0", "1", "1", "0", "0", "0.0", "0.0", "0", "0"]
    assert problems(cohort, tmp_path) == (
        "labels '1' (row 2) and '1.0' (row 4) differ only in a trailing .0; use one spelling",
        "labels '0' (row 8) and '0.0' (row 10) differ only in a trailing .0; use one spelling",
    )
    assert len(check(cohort.assign(diagnosis=["-1"] * 6 + ["1"] * 6), tmp_path)) == 12


def test_a_site_in_two_spellings_is_refused_and_in_two_forms_of_unicode_is_one(
    cohort: pd.DataFrame, tmp_path: Path
) -> None:
    assert problems(cohort.assign(site=["Nice"] * 6 + ["NICE"] * 6), tmp_path) == (
        "sites 'NICE' (row 8) and 'Nice' (row 2) differ only in case or spaces; use one spelling",
    )
    forms = [unicodedata.normalize(form, "Genève") for form in ("NFC", "NFD")]
    assert set(check(cohort.assign(site=forms * 6), tmp_path)["site"]) == {forms[0]}


def test_a_path_is_found_in_another_form_of_unicode(cohort: pd.DataFrame, tmp_path: Path) -> None:
    written, there = (unicodedata.normalize(form, "Schädel/tête.nii") for form in ("NFC", "NFD"))
    cohort.loc[0, "path"] = written
    (tmp_path / there).parent.mkdir()
    (tmp_path / there).touch()
    assert check(cohort, tmp_path)["path"][0] == str(tmp_path / there)
    cohort.loc[1, "path"] = there
    assert problems(cohort, tmp_path) == (f"row 3: {tmp_path / there} is used in row 2 already",)


def test_a_file_that_was_probably_meant_is_named(cohort: pd.DataFrame, tmp_path: Path) -> None:
    cohort.loc[0, "path"] = "s00_MRI.NII.gz"
    assert problems(cohort, tmp_path) == (
        f"row 2: there is no file {tmp_path}/s00_MRI.NII.gz (there is 's0_MRI.nii.gz')",
    )


NO_VALUE = "stands for no value; write the id, or leave the row out (if it is a name here: cohort.not_missing)"


@pytest.mark.parametrize("word", ["NA", "n/a", "nan", "NULL", "None", "-", ".", "#N/A", "#DIV/0!", "<NA>"])
def test_words_for_no_value_are_no_class_and_no_subject(cohort: pd.DataFrame, tmp_path: Path, word: str) -> None:
    label, subject = cohort.copy(), cohort.copy()
    label.loc[[0, 1], "diagnosis"] = word
    assert problems(label, tmp_path) == tuple(
        f"row {row}: diagnosis {word!r} stands for no value; fill it in, or leave the row out (if it is a name here: "
        "cohort.not_missing)"
        for row in (2, 3)
    )
    subject.loc[0, "subject"] = word
    assert problems(subject, tmp_path) == (f"row 2: subject {word!r} {NO_VALUE}",)


def test_words_for_no_value_as_session_modality_and_path(cohort: pd.DataFrame, tmp_path: Path) -> None:
    cohort["session"] = ["NA", *[""] * 11]
    cohort.loc[1, "modality"] = "N/A"
    cohort.loc[2, "path"] = "nan"
    assert problems(cohort, tmp_path) == (
        "row 3: modality 'N/A' stands for no value; fill it in, or leave the row out (if it is a name here: "
        "cohort.not_missing)",
        "row 4: path 'nan' stands for no value; fill it in, or leave the row out",
        f"row 2: session 'NA' {NO_VALUE}",
        "row 3: modality 'N/A' is unknown (there is: H&E 40×, MRI, PET)",
    )


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("1.23E+05", "is a number that a spreadsheet has shortened; restore the id in a column formatted as text"),
        ("1,2e+17", "is a number that a spreadsheet has shortened"),
        ("01-Mar", "is a date, and other ids are not; a spreadsheet makes dates of ids such as 3-1 or MAR1"),
        ("Sep-01", "is a date, and other ids are not"),
        ("#REF!", "stands for no value"),
    ],
)
def test_ids_that_a_spreadsheet_has_broken(cohort: pd.DataFrame, tmp_path: Path, broken: str, message: str) -> None:
    cohort.loc[0, "subject"] = broken
    (listed,) = problems(cohort, tmp_path)
    assert listed.startswith(f"row 2: subject {broken!r} {message}")


def test_a_cell_that_is_no_number_among_many_is_named(tmp_path: Path) -> None:
    """With one age of >89 every age would be a category of its own."""
    lines = [f"s{i},MRI,s{i}.nii,{'AD' if i % 2 else 'CN'},{50 + i}" for i in range(12)]
    rows = on_disk(tmp_path, rows_of(*lines, header=AGED))
    check(rows, tmp_path)
    rows.loc[3, "age"] = ">89"
    (listed,) = problems(rows, tmp_path)
    assert listed.startswith("row 5: age '>89' is no number")
    rows["age"] = ["1", "2", "3a"] * 4  # codes of a few stages are categories
    check(rows, tmp_path)


def test_codes_in_two_spellings_are_one(tmp_path: Path) -> None:
    lines = [f"s{i},MRI,s{i}.nii,{'AD' if i % 2 else 'CN'},1" for i in range(6)]
    rows = on_disk(tmp_path, rows_of(*lines, header=AGED)).rename(columns={"age": "site"})
    rows.loc[2, "site"] = "1.0"
    (listed,) = problems(rows, tmp_path)
    assert "sites '1' (row 2) and '1.0' (row 4) differ only in a trailing .0" in listed


def test_a_session_has_one_sex(tmp_path: Path) -> None:
    lines = [f"s{i},{m},s{i}_{m}.nii,{'AD' if i % 2 else 'CN'},F" for i in range(6) for m in ("MRI", "PET")]
    rows = on_disk(tmp_path, rows_of(*lines, header=AGED)).rename(columns={"age": "sex"})
    check(rows, tmp_path)
    rows.loc[1, "sex"] = "M"
    (listed,) = problems(rows, tmp_path)
    assert listed == "s0: sex is 'F' (row 2) and 'M' (row 3)"
