"""BIDS data sets become manifests, with all problems at once; preprocessed scans get the names that BIDS asks for."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cohort.manifest import CohortConfig, ModalityConfig, check_manifest
from cohort.tables import ManifestError
from intake.bids.derivatives import bids_derivatives, dataset_description
from intake.bids.read import read_bids, tracer_modality

TABLE = "participant_id\tage\tsex\tdiagnosis\nsub-01\t71\tF\tAD\nsub-02\t68\tM\tCN\n"


def dataset(root: Path, *paths: str, participants: str | None = TABLE) -> Path:
    """Empty files under their names."""
    root.mkdir(exist_ok=True)
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)
    if participants is not None:
        (root / "participants.tsv").write_text(participants, "utf-8")
    return root


def paths(root: Path, **arguments: Any) -> list[str]:
    return list(read_bids(root, **arguments).scans["path"])


def left_out(root: Path, **arguments: Any) -> dict[str, str]:
    table = read_bids(root, **arguments).left_out
    return dict(zip(table["path"].where(table["path"] != "", table["subject"]), table["reason"], strict=True))


# --- reading ---


def test_sessions_tracers_and_covariates(tmp_path: Path) -> None:
    root = dataset(
        tmp_path / "Schädel",
        "sub-01/ses-b/anat/sub-01_ses-b_T1w.nii.gz",
        "sub-01/ses-b/anat/sub-01_ses-b_FLAIR.nii",
        "sub-01/ses-b/pet/sub-01_ses-b_trc-18FFDG_pet.nii.gz",
        "sub-01/ses-c/anat/sub-01_ses-c_T2w.nii.gz",
        "sub-02/anat/sub-02_T1w.nii.gz",
        "sub-02/pet/sub-02_pet.nii.gz",
        "sub-02/anat/sub-02_T2star.nii.gz",
        "sub-02/func/sub-02_task-rest_bold.nii.gz",
        "derivatives/x/sub-02/anat/sub-02_desc-preproc_T1w.nii.gz",
        "sourcedata/sub-09/anat/sub-09_T1w.nii.gz",
    )
    result = read_bids(root)
    assert result.scans.drop(columns="path").values.tolist() == [
        ["sub-01", "ses-b", "FDG-PET", "AD", "71", "F"],
        ["sub-01", "ses-b", "FLAIR", "AD", "71", "F"],
        ["sub-01", "ses-b", "T1w", "AD", "71", "F"],
        ["sub-01", "ses-c", "T2w", "AD", "71", "F"],
        ["sub-02", "", "PET", "CN", "68", "M"],
        ["sub-02", "", "T1w", "CN", "68", "M"],
    ]
    assert list(result.scans) == ["subject", "session", "modality", "path", "diagnosis", "age", "sex"]
    assert result.left_out.empty


def test_the_manifest_passes_the_check_of_manifests(tmp_path: Path) -> None:
    subjects = [f"sub-{number:02d}" for number in range(8)]
    root = dataset(
        tmp_path / "d",
        *(f"{subject}/anat/{subject}_T1w.nii.gz" for subject in subjects),
        *(f"{subject}/pet/{subject}_trc-FDG_pet.nii.gz" for subject in subjects[::2]),
        participants="participant_id\tgroup\n"
        + "".join(f"{subject}\t{'AD' if number < 4 else 'CN'}\n" for number, subject in enumerate(subjects)),
    )
    config = CohortConfig(label="group", modalities={"MRI": ModalityConfig(), "PET": ModalityConfig()})
    manifest = read_bids(root, label="group", names={"T1w": "MRI", "FDG-PET": "PET"}).scans
    scans = check_manifest(manifest, folder=root, config=config, smallest_class=3)
    assert len(scans) == 12
    assert scans["scan"][:3].tolist() == ["sub-00_MRI", "sub-00_PET", "sub-01_MRI"]
    assert all(Path(path).is_file() for path in scans["path"])


@pytest.mark.parametrize(
    ("label", "modality"),
    [
        ("FDG", "FDG-PET"), ("18FFDG", "FDG-PET"), ("fdg", "FDG-PET"), ("F18FDG", "FDG-PET"), ("11CPIB", "PIB-PET"),
        ("18FAV45", "AV45-PET"), ("AV1451", "AV1451-PET"), ("", "PET"), ("18F", "18F-PET"),
    ],
)  # fmt: skip
def test_tracers(label: str, modality: str) -> None:
    assert tracer_modality(label) == modality


def test_runs(tmp_path: Path) -> None:
    start = "sub-01/anat/sub-01_"
    root = dataset(tmp_path / "d", *(f"{start}run-{run}_T1w.nii.gz" for run in ("10", "2", "03")), "sub-02/x")
    assert paths(root) == [f"{start}run-2_T1w.nii.gz"]
    assert paths(root, runs="last") == [f"{start}run-10_T1w.nii.gz"]
    assert paths(root, runs="all") == [f"{start}run-{run}_T1w.nii.gz" for run in ("2", "03", "10")]
    assert left_out(root) == {
        f"{start}run-03_T1w.nii.gz": f"another T1w of this session; {start}run-2_T1w.nii.gz is used",
        f"{start}run-10_T1w.nii.gz": f"another T1w of this session; {start}run-2_T1w.nii.gz is used",
        "sub-02": "no scan of a kind that is read here",
    }


def test_of_several_variants_the_plainest_is_taken(tmp_path: Path) -> None:
    start = "sub-01/anat/sub-01_"
    root = dataset(
        tmp_path / "d",
        *(f"{start}{name}.nii.gz" for name in ("acq-b_T1w", "acq-a_T1w", "acq-a_rec-x_T1w", "T2w", "acq-a_T2w")),
        f"{start}T2w.nii",
    )
    assert paths(root) == [f"{start}acq-a_T1w.nii.gz", f"{start}T2w.nii.gz"]
    assert paths(root, runs="all") == paths(root, runs="last") == paths(root)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ce-gadolinium_T1w", "taken with a contrast agent (ce)"),
        ("part-phase_T1w", "phase, real or imaginary part"),
        ("echo-1_T1w", "one echo of several"),
        ("space-MNI_T1w", "processed already (space)"),
    ],
)
def test_scans_of_another_kind_are_left_out(tmp_path: Path, name: str, reason: str) -> None:
    other = f"sub-01/anat/sub-01_{name}.nii.gz"
    root = dataset(tmp_path / "d", other, "sub-01/anat/sub-01_part-mag_T1w.nii.gz")
    assert left_out(root)[other] == reason
    assert paths(root) == ["sub-01/anat/sub-01_part-mag_T1w.nii.gz"]


def test_names_choose_and_rename(tmp_path: Path) -> None:
    root = dataset(tmp_path / "d", "sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_T2w.nii.gz")
    assert list(read_bids(root, names={"T1w": "MRI"}).scans["modality"]) == ["MRI"]
    assert left_out(root, names={"T1w": "MRI"})["sub-01/anat/sub-01_T2w.nii.gz"] == "T2w is not asked for"


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


def test_folders_that_are_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="has no sub-\\* folders; give the top folder"):
        read_bids(tmp_path)
    with pytest.raises(ManifestError, match="there is no folder"):
        read_bids(tmp_path / "nowhere")


# --- what is silent, odd or written otherwise ---


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


def test_one_odd_item_does_not_cost_the_others(tmp_path: Path) -> None:
    """A lone quotation mark, a row that is too long, a name that contradicts its folder."""
    root = dataset(
        tmp_path / "d",
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/anat/sub-02_T2w.nii.gz",
        "sub-02/anat/sub-02_T1w.nii.gz",
        "sub-03/anat/sub-03_T1w.nii.gz",
        participants="participant_id\tnote\tdiagnosis\n"
        'sub-01\t"left-handed\tAD\nsub-02\tone\tCN\tmore\nsub-03\t5"\tCN\n',
    )
    assert paths(root) == ["sub-01/anat/sub-01_T1w.nii.gz", "sub-03/anat/sub-03_T1w.nii.gz"]
    table = read_bids(root).left_out
    assert table[["path", "reason"]].to_numpy().tolist() == [
        ["", "participants.tsv: row 3: has 4 cells under 3 columns; put quotes around a cell with a '\\t'"],
        ["sub-01/anat/sub-02_T2w.nii.gz", "the name says sub-02, but the folder is sub-01"],
        ["sub-02/anat/sub-02_T1w.nii.gz", "sub-02 has a folder and no row in participants.tsv"],
    ]


# --- derivatives ---

# The rules anat_nonparametric_volumetric and anat_nonparametric_mask of the BIDS schema, with the entities used here.
ANAT = re.compile(
    r"sub-([A-Za-z0-9]+)/(?:ses-([A-Za-z0-9]+)/)?anat/sub-\1(?(2)_ses-\2)(_run-\d+)?"
    r"((_desc-[A-Za-z0-9]+)?_(T1w|T2w|FLAIR)|(_space-[A-Za-z0-9]+)?(_desc-[A-Za-z0-9]+)?_mask)\.(nii\.gz|json)"
)


def table(*rows: tuple[str, str, str]) -> pd.DataFrame:
    scans = pd.DataFrame(rows, columns=["subject", "session", "modality"])
    return scans.assign(scan=[f"scan{number}" for number in range(len(rows))])


def derived(scans: pd.DataFrame, **arguments: Any) -> tuple[dict[str, str], dict[str, Any]]:
    """Target → scan, and what the JSON files hold."""
    made = bids_derivatives(
        scans,
        **{
            "volumes": {scan: Path(scan) for scan in scans["scan"]},
            "masks": {scan: Path(scan) for scan in scans["scan"]},
            "spacing_mm": 1.5,
            "version": "0.1.0",
        }
        | arguments,
    )
    texts = {path: json.loads(text) for path, text in made.texts.items() if path.endswith(".json")}
    return {path: str(source) for path, source in made.copies.items()}, texts


def test_names_of_volumes_masks_and_sidecars() -> None:
    copies, texts = derived(table(("sub-01", "", "T1w"), ("p02", "m12", "FDG-PET"), ("p02", "m12", "PET")))
    assert copies == {
        "sub-01/anat/sub-01_desc-preproc_T1w.nii.gz": "scan0",
        "sub-01/anat/sub-01_desc-brain_mask.nii.gz": "scan0",
        "sub-p02/ses-m12/pet/sub-p02_ses-m12_trc-FDG_desc-preproc_pet.nii.gz": "scan1",
        "sub-p02/ses-m12/pet/sub-p02_ses-m12_trc-FDG_desc-brain_mask.nii.gz": "scan1",
        "sub-p02/ses-m12/pet/sub-p02_ses-m12_desc-preproc_pet.nii.gz": "scan2",
        "sub-p02/ses-m12/pet/sub-p02_ses-m12_desc-brain_mask.nii.gz": "scan2",
    }
    assert {path.replace(".json", ".nii.gz") for path in texts} - {"dataset_description.nii.gz"} == set(copies)
    volume = texts["sub-01/anat/sub-01_desc-preproc_T1w.json"]
    assert (volume["SkullStripped"], volume["SpatialReference"]) == (True, "orig")
    assert "1.5 mm" in volume["Description"]
    assert texts["sub-01/anat/sub-01_desc-brain_mask.json"]["Type"] == "Brain"
    assert texts["sub-01/anat/sub-01_desc-brain_mask.json"]["Sources"] == [
        "bids::sub-01/anat/sub-01_desc-preproc_T1w.nii.gz"
    ]


def test_names_are_those_of_the_schema_and_each_is_there_once() -> None:
    rows = [
        (subject, session, modality)
        for subject in ("sub-01", "Müller", "Mller", "p 1", "p_1", "P1", "漢")
        for session in ("", "ses-1", "m 12")
        for modality in ("T1w", "T1w", "T2w", "FLAIR")
    ]
    copies, texts = derived(table(*rows))
    assert len(copies) == 2 * len(rows)
    assert len({path.lower() for path in copies}) == len(copies)
    assert [path for path in [*copies, *texts] if not ANAT.fullmatch(path) and path != "dataset_description.json"] == []
    assert texts["sub-01/anat/sub-01_space-T2w_desc-brain_mask.json"]["SpatialReference"] == (
        "bids::sub-01/anat/sub-01_desc-preproc_T2w.nii.gz"
    )
    assert "sub-01/ses-1/anat/sub-01_ses-1_run-2_desc-preproc_T1w.nii.gz" in copies


def test_names_do_not_depend_on_the_order_of_subjects() -> None:
    scans = table(("b", "", "T1w"), ("a", "", "T1w"), ("a", "", "PET"))
    assert derived(scans)[0] == derived(scans[::-1])[0]


def test_scans_that_failed_and_volumes_without_a_mask() -> None:
    scans = table(("1", "", "T1w"), ("2", "", "T1w")).assign(skull_strip=["False", "True"])
    copies, texts = derived(scans, volumes={"scan0": Path("v")}, masks={})
    assert list(copies) == ["sub-1/anat/sub-1_desc-preproc_T1w.nii.gz"]
    assert texts["sub-1/anat/sub-1_desc-preproc_T1w.json"]["SkullStripped"] is False


def test_a_sidecar_says_how_intensities_were_normalised() -> None:
    scans = table(("1", "", "T1w"), ("1", "", "PET")).assign(normalise=["minmax", "minmax_robust"])
    _, texts = derived(scans)
    assert "standardised and scaled to [0, 1]" in texts["sub-1/anat/sub-1_desc-preproc_T1w.json"]["Description"]
    (pet,) = (text["Description"] for name, text in texts.items() if name.endswith("preproc_pet.json"))
    assert "scaled to [0, 1] by minmax_robust" in pet


def test_the_description_of_the_data_set() -> None:
    made = bids_derivatives(
        table(("1", "", "MRI")),
        volumes={"scan0": Path("v")},
        masks={},
        spacing_mm=1,
        version="9.9",
        kinds={"MRI": "T1w"},
    )
    description = json.loads(made.texts["dataset_description.json"])
    assert description == dataset_description("9.9")
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Version"] == "9.9"
    assert set(made.texts) == {"dataset_description.json", "README", "sub-1/anat/sub-1_desc-preproc_T1w.json"}


def test_pet_which_bids_has_no_rules_for_is_ignored_by_validators() -> None:
    made = bids_derivatives(table(("1", "", "PET")), volumes={"scan0": Path("v")}, masks={}, spacing_mm=1, version="1")
    assert made.texts[".bidsignore"] == "pet/\n"


def test_what_has_no_name_in_bids() -> None:
    with pytest.raises(ValueError, match=r"modality 'MRI' has no name in BIDS; say which of T1w, T2w, FLAIR, PET"):
        derived(table(("1", "", "MRI")))
    with pytest.raises(ValueError, match="not one preprocessed volume"):
        derived(table(("1", "", "T1w")), volumes={})


def test_what_is_derived_can_be_read_again_but_for_its_desc(tmp_path: Path) -> None:
    copies, _ = derived(table(("sub-01", "ses-1", "T1w"), ("sub-01", "ses-1", "FDG-PET")))
    root = dataset(tmp_path / "d", *copies)
    volumes = {path: reason for path, reason in left_out(root).items() if "_mask" not in path and "/" in path}
    assert volumes == {path: "processed already (desc)" for path in copies if "_mask" not in path}
