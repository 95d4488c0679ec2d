"""BIDS data sets become manifests: which scans are taken, and which are left out and why."""

from pathlib import Path

import pytest
from helpers.bids_dataset import dataset, left_out, paths

from cohort.manifest import CohortConfig, ModalityConfig, check_manifest
from cohort.tables import ManifestError
from intake.bids.read import read_bids, tracer_modality


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


def test_folders_that_are_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="has no sub-\\* folders; give the top folder"):
        read_bids(tmp_path)
    with pytest.raises(ManifestError, match="there is no folder"):
        read_bids(tmp_path / "nowhere")


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
