"""participants.tsv and sessions.tsv: whose class and age they give, and what of them is refused."""

from pathlib import Path
from typing import Any

import pytest
from helpers.bids_dataset import TABLE, dataset, left_out, paths

from cohort.tables import ManifestError
from intake.bids.read import read_bids


def test_a_session_may_have_its_own_class_and_age(tmp_path: Path) -> None:
    root = dataset(
        tmp_path / "d",
        *(f"sub-01/ses-{session}/anat/sub-01_ses-{session}_T1w.nii.gz" for session in ("m00", "m12", "m24")),
    )
    table = "session_id\tdiagnosis\tage\nses-m00\tCN\tn/a\nm12\tn/a\t72\n"
    (root / "sub-01" / "sub-01_sessions.tsv").write_text(table)
    result = read_bids(root).scans
    assert result[["session", "diagnosis", "age"]].values.tolist() == [
        ["ses-m00", "CN", ""],
    ]
    assert set(left_out(root).values()) == {
        "diagnosis is missing in sub-01_sessions.tsv",
        "ses-m24 has no row in sub-01_sessions.tsv",
        "in participants.tsv, but it has no folder",
    }


def test_the_class_may_stand_in_sessions_tsv_alone(tmp_path: Path) -> None:
    root = dataset(
        tmp_path / "d", "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz", participants="participant_id\tage\nsub-01\t70\n"
    )
    with pytest.raises(ManifestError, match=r"column 'diagnosis' is missing \(there is: age\)"):
        read_bids(root)
    (root / "sub-01" / "sub-01_sessions.tsv").write_text("session_id\tdiagnosis\nses-1\tAD\n")
    assert read_bids(root).scans["diagnosis"].tolist() == ["AD"]


def test_a_missing_class_leaves_the_scan_out(tmp_path: Path) -> None:
    root = dataset(
        tmp_path / "d",
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-02/anat/sub-02_T1w.nii.gz",
        participants="participant_id\tdiagnosis\nsub-01\tn/a\n02\tCN\n",
    )
    assert paths(root) == ["sub-02/anat/sub-02_T1w.nii.gz"]
    assert left_out(root) == {"sub-01/anat/sub-01_T1w.nii.gz": "diagnosis is missing"}


def test_all_problems_are_listed_at_once(tmp_path: Path) -> None:
    root = dataset(
        tmp_path / "d",
        "sub-01/anat/sub-02_T1w.nii.gz",
        "sub-01/ses-1/anat/sub-01_T1w.nii.gz",
        "sub-01/anat/sub-01_ses-1_T2w.nii.gz",
        "sub-01/anat/scan_T1w.nii.gz",
        "sub-03/anat/sub-03_T1w.nii.gz",
        participants="participant_id\tdiagnosis\nsub-01\tAD\nsub-01\tCN\nsub-02\tCN\n",
    )
    (root / "sub-03" / "anat" / "sub-03_T2w.nii.gz").symlink_to("../.git/annex/objects/x")
    with pytest.raises(ManifestError) as error:
        read_bids(root)
    assert tuple(map(str, error.value.problems)) == (
        "participants.tsv: row 3: sub-01 is duplicated",
        "sub-03 has a folder and no row in participants.tsv",
        "sub-01/anat/scan_T1w.nii.gz: not a BIDS name; expected one such as sub-01_ses-01_T1w.nii.gz",
        "sub-01/anat/sub-01_ses-1_T2w.nii.gz: the name says ses-1, but the folder is of no session",
        "sub-01/anat/sub-02_T1w.nii.gz: the name says sub-02, but the folder is sub-01",
        "sub-01/ses-1/anat/sub-01_T1w.nii.gz: the name says ses-(none), but the folder is ses-1",
        "sub-03/anat/sub-03_T2w.nii.gz is a link to a missing file; with DataLad or git-annex, get its content first",
    )


def test_many_problems_of_one_kind_are_counted(tmp_path: Path) -> None:
    root = dataset(tmp_path / "d", *(f"sub-{number}/anat/sub-{number}_T1w.nii.gz" for number in range(30)))
    with pytest.raises(ManifestError) as error:
        read_bids(root)
    assert len(error.value.problems) == 21
    assert str(error.value.problems[-1]) == "… and 10 more like this"


@pytest.mark.parametrize(
    ("participants", "message"),
    [
        (None, "participants.tsv is missing"),
        ("", "is empty"),
        ("subject\tdiagnosis\nsub-01\tAD\n", r"column 'participant_id' is missing \(there is: diagnosis, subject\)"),
        ("participant_id\tdiagnoses\nsub-01\tAD\n", r"column 'diagnosis' is missing \(did you mean 'diagnoses'\?\)"),
    ],
)
def test_participants_that_cannot_be_read(tmp_path: Path, participants: str | None, message: str) -> None:
    root = dataset(tmp_path / "d", "sub-01/anat/sub-01_T1w.nii.gz", participants=participants)
    with pytest.raises(ManifestError, match=message):
        read_bids(root)


def visits(root: Path, table: str | None, *sessions: str, participants: str = TABLE) -> Path:
    """A T1w in each session of sub-01, and its table of sessions."""
    dataset(
        root,
        *(f"sub-01/ses-{name}/anat/sub-01_ses-{name}_T1w.nii.gz" for name in sessions),
        "sub-02/anat/sub-02_T1w.nii.gz",
        participants=participants,
    )
    if table is not None:
        (root / "sub-01" / "sub-01_sessions.tsv").write_text(table)
    return root


def labels(root: Path, **arguments: Any) -> list[list[str]]:
    table = read_bids(root, **arguments).scans
    return table.loc[table["subject"] == "sub-01", ["session", "diagnosis", "age"]].to_numpy().tolist()


def test_a_session_that_its_table_spells_otherwise_gets_nobodys_class(tmp_path: Path) -> None:
    root = visits(tmp_path / "d", "session_id\tdiagnosis\nses-M000\tCN\nses-M12\tMCI\nses-M24\tMCI\n", "M000", "M012")
    assert labels(root) == [["ses-M000", "CN", "71"]]
    table = read_bids(root).left_out
    assert table[["subject", "session", "reason"]].to_numpy().tolist() == [
        ["sub-01", "ses-M012", "ses-M012 has no row in sub-01_sessions.tsv (there is 'ses-M12'; write it the same)"],
        [
            "sub-01", "ses-M12",
            "in sub-01_sessions.tsv, but it has no scan of a kind that is read here (there is 'ses-M012'; write it the "
            "same)",
        ],
        ["sub-01", "ses-M24", "in sub-01_sessions.tsv, but it has no scan of a kind that is read here"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("table", "found", "reason"),
    [
        ("session_id\tage\nses-a\t72\nses-b\tn/a\n", [["ses-a", "AD", "72"], ["ses-b", "AD", ""]], None),
        ("session_id\tacq_time\nses-a\t9\nses-b\t9\n", [["ses-a", "AD", "71"], ["ses-b", "AD", "71"]], None),
        ("session_id\tacq_time\nses-a\t9\n", [["ses-a", "AD", "71"]], "ses-b has no row in sub-01_sessions.tsv"),
        (
            "session_id\tdiagnosis\nses-a\tCN\nses-b\tNA\n",
            [["ses-a", "CN", "71"]],
            "diagnosis is missing in sub-01_sessions.tsv ('NA')",
        ),
        (
            "session\tdiagnosis\nses-a\tCN\n",
            [],
            "sub-01_sessions.tsv cannot be used: sub-01_sessions.tsv: column 'session_id' is missing (did you mean "
            "'session'?)",
        ),
        (
            "session_id\tdiagnosis\nses-a\tCN\na\tAD\n",
            [],
            "sub-01_sessions.tsv cannot be used: sub-01_sessions.tsv: row 3: ses-a is duplicated",
        ),
        (
            "session_id\tdiagnosis\nses-1\tCN\nses-01\tAD\n",
            [],
            "sub-01_sessions.tsv cannot be used: sub-01_sessions.tsv: 'ses-1' (row 2) and 'ses-01' (row 3) differ only "
            "in zeros in front; use one spelling",
        ),
    ],
)
def test_a_table_of_sessions_decides(tmp_path: Path, table: str, found: list[list[str]], reason: str | None) -> None:
    root = visits(tmp_path / "d", table, "a", "b")
    assert labels(root) == found
    assert left_out(root).get("sub-01/ses-b/anat/sub-01_ses-b_T1w.nii.gz") == reason


def test_what_others_have_by_session_does_not_come_from_participants(tmp_path: Path) -> None:
    root = visits(tmp_path / "d", None, "a", "b")
    (root / "sub-02" / "sub-02_sessions.tsv").write_text("session_id\tdiagnosis\nses-a\tCN\n")
    assert labels(root) == []
    assert left_out(root)["sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz"] == (
        "diagnosis is missing: others have it by session, sub-01 has several sessions and no sub-01_sessions.tsv"
    )
    assert left_out(root)["sub-02/anat/sub-02_T1w.nii.gz"] == "its session has no row in sub-02_sessions.tsv"


def test_words_for_no_value_are_no_class_and_no_age(tmp_path: Path) -> None:
    table = "participant_id\tage\tdiagnosis\nsub-01\tNA\tnone\nsub-02\t70\t#N/A\n"
    root = visits(tmp_path / "d", None, "a", participants=table)
    assert labels(root) == []
    assert labels(root, not_missing=["none"]) == [["ses-a", "none", ""]]
    assert left_out(root)["sub-02/anat/sub-02_T1w.nii.gz"] == "diagnosis is missing ('#N/A')"


def test_folders_and_rows_without_one_another_are_named_with_what_is_near(tmp_path: Path) -> None:
    root = dataset(
        tmp_path / "d",
        *(f"sub-{name}/anat/sub-{name}_T1w.nii.gz" for name in ("01", "001A", "x7")),
        participants="participant_id\tdiagnosis\nsub-01\tAD\nsub-1a\tCN\nX7.0\tCN\nsub-9\tCN\n",
    )
    assert paths(root) == ["sub-01/anat/sub-01_T1w.nii.gz"]
    assert left_out(root) == {
        "sub-001A/anat/sub-001A_T1w.nii.gz": "sub-001A has a folder and no row in participants.tsv (there is 'sub-1a'; "
        "write it the same)",
        "sub-x7/anat/sub-x7_T1w.nii.gz": "sub-x7 has a folder and no row in participants.tsv (there is 'sub-X7.0'; "
        "write it the same)",
        "sub-1a": "in participants.tsv, but it has no folder (there is 'sub-001A'; write it the same)",
        "sub-X7.0": "in participants.tsv, but it has no folder (there is 'sub-x7'; write it the same)",
        "sub-9": "in participants.tsv, but it has no folder",
    }


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("sub-01\tAD\n01\tCN\n", "participants.tsv: row 3: sub-01 is duplicated"),
        (
            "sub-01\tAD\nSUB-1\tCN\n",
            r"participants.tsv: 'sub-01' \(row 2\) and 'SUB-1' \(row 3\) differ only in case or spaces, zeros in front",
        ),
        ("sub-01\tAD\nn/a\tCN\n", "participants.tsv: row 3: participant_id 'n/a' stands for no value"),
        ("sub-01\tAD\n1.2E+05\tCN\n", r"row 3: participant_id '1.2E\+05' is a number that a spreadsheet has shortened"),
        ("sub-1\tAD\n", r"sub-01 has a folder and no row in participants.tsv \(there is 'sub-1'; write it the same\)"),
    ],
)
def test_ids_that_cannot_be_trusted_are_refused(tmp_path: Path, rows: str, message: str) -> None:
    root = dataset(tmp_path / "d", "sub-01/anat/sub-01_T1w.nii.gz", participants="participant_id\tdiagnosis\n" + rows)
    with pytest.raises(ManifestError, match=message):
        read_bids(root)


def test_a_label_that_no_table_has_is_refused(tmp_path: Path) -> None:
    root = visits(tmp_path / "d", "session_id\tage\nses-a\t70\n", "a")
    with pytest.raises(ManifestError, match=r"column 'group' is missing \(there is: age, diagnosis, sex\)"):
        read_bids(root, label="group")
