"""Conversion of a folder of DICOM files to NIfTI volumes under pseudonyms, with the rows of the manifest.

dcm2niix reads the pixels, and every slice that it makes is compared with the files. What it writes into headers (times,
comments) is not kept: every volume gets a new header with nothing but its geometry.
"""

import logging
import math
import os
import re
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import dcm2niix
import nibabel
import numpy as np
import pandas as pd
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from files.writing import real_folder, replacing
from intake.dicom.header import DAMAGED
from intake.dicom.images import Image, quiet, read_whole
from intake.dicom.patients import notes_on_ids
from intake.dicom.rules import DicomConfig, clean_description
from intake.dicom.selection import Chosen, LeftOut, Selection, select_series
from intake.dicom.series import Series, read_dicom_folder
from intake.dicom.suv import SuvError, suv_factor
from intake.dicom.verify import verified
from intake.patients import near_rows, patient_notes, patients_by_subject
from intake.pseudonyms import pseudonym
from preprocessing.errors import MemoryLimitError, ScanError
from preprocessing.limits import BYTES_READ, Limits, times
from preprocessing.volumes import write_volume

log = logging.getLogger("hypermm")
LONGEST_S = 1800  # that dcm2niix may take for a series
DCM2NIIX_COPIES = 4  # of the pixels of a series in its memory, and in that of who reads what it made
OUTPUT_COPIES = 8  # of them in a file that it writes: one byte may become a float64
BYTES_COMPARED = 40  # a voxel, of a volume and of the pixels of its files, sorted where they differ
ITS_OWN_BYTES = 500_000_000  # that it may take and write whatever it is given
ORDINARY = Limits(setting="--memory-gb")
# Not "-p n", the units of RescaleSlope: with it, dcm2niix takes the first slope of PET for all slices.
_OPTIONS = ["-g", "i", "-b", "n", "-z", "n", "-d", "0", "-i", "n", "-w", "2", "-f", "scan"]
_EXIT = {2: "it found no images that it can read", 4: "the files are damaged", 8: "it could not read all images"}
_MODALITIES = {"MR", "PT", "CT", "NM", "US", "CR", "DX", "MG", "XA", "RF", "OT", "SC", "SM", "ES", "SR", "REG", "SEG"}


class DicomImport(NamedTuple):
    """The result of converting a folder of DICOM files; nothing in it identifies a patient."""

    scans: pd.DataFrame
    """One row a volume, all str: `subject`, `session`, `modality`, `path` (relative to the output folder), `age`
    (years at the scan, 90 for all above) and `sex` if the table of patients has none, the columns kept of that table,
    `unit` of the voxels ("SUVbw", "Bq/ml" or ""), `remarks`."""
    left_out: pd.DataFrame
    """One row a series: `subject` ("" without PatientID), `session`, `series` (its number), `dicom_modality`,
    `description` (terms of protocols only), `images`, `reason`."""
    skipped: Mapping[str, int]
    """Reason why a file is in no series → number of files."""
    notes: tuple[str, ...]
    """Further remarks for the user."""


def import_dicom(
    folder: Path,
    out: Path,
    *,
    key: bytes,
    config: DicomConfig | None = None,
    patients: pd.DataFrame | None = None,
    keep: Sequence[str] = (),
    not_missing: Sequence[str] = (),
    limits: Limits = ORDINARY,
) -> DicomImport:
    """Convert every selected series of a folder; a failed series does not stop the others.

    Args:
        folder: of DICOM files, in any order and under any names; nothing is written there.
        out: where volumes go, as `sub-…/ses-01/sub-…_ses-01_T1w.nii.gz`; must not lie in `folder` or around it.
        key: secret, for the pseudonyms.
        config: which series are taken.
        patients: a row a patient, str, with a column `patient_id` (as in DICOM). Series of others are left out. None
            takes all.
        keep: columns of `patients` to put beside the scans, such as the diagnosis. Only these; choose none that
            identifies a patient.
        not_missing: words that stand for no value elsewhere and are values here, such as none.
        limits: of the memory that a series may take; larger ones are left out.

    Raises:
        ScanError: the folders cannot be used.
        ValueError: the table of patients lacks a column, has a patient twice or an id that is none, or has nobody of
            the export.
    """
    real, target = Path(os.path.realpath(folder)), Path(os.path.realpath(out))
    if real.is_relative_to(target) or target.is_relative_to(real):
        raise ScanError("the folder of DICOM files and the output folder lie in one another; choose another output")
    known = None if patients is None else patients_by_subject(patients, keep, key, tuple(not_missing))
    config = config or DicomConfig()
    content = read_dicom_folder(folder)
    log.info("dicom: %d series, %d files in none", len(content.series), sum(content.skipped.values()))
    notes = notes_on_ids(content.series, key)
    if patients is not None:
        notes += patient_notes(patients, keep, {each.patient for each in content.series}, tuple(not_missing))
    ours = [each for each in content.series if _is_known(each, known, key)]
    selection, rows = _convert_all(ours, config, key, out, limits)
    strangers = [each for each in content.series if not _is_known(each, known, key)]
    near = {} if patients is None else near_rows(patients, {each.patient for each in strangers})
    left_out = selection.left_out + tuple(LeftOut(each, "", _stranger(each, near)) for each in strangers)
    rows = [row | ({} if known is None else dict(known.loc[row["subject"]])) for row in rows]
    columns = ["subject", "session", "modality", "path", "age", "sex", *keep, "unit", "remarks"]
    scans = pd.DataFrame(rows, columns=list(dict.fromkeys(columns)), dtype=str)
    scans = scans.sort_values(["subject", "session", "modality"], ignore_index=True)
    skipped = dict(content.skipped)
    if aside := sum(_images(scan.series) - len(scan.images) for scan in selection.chosen):
        skipped["in a series that is used, but not part of its volume; see the column remarks"] = aside
    return DicomImport(scans, _left_out_table(left_out, key), skipped, (*notes, *_notes(scans, known)))


def _convert_all(
    series: Sequence[Series], config: DicomConfig, key: bytes, out: Path, limits: Limits
) -> tuple[Selection, list[dict[str, str]]]:
    """Convert what is selected; where a series fails, the next one that fits takes its place."""
    unusable: dict[tuple[str, str, str], str] = {}
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    while True:
        selection = select_series(series, config, unusable)
        todo = [scan for scan in selection.chosen if scan.series.key not in rows]
        if not todo:
            return selection, [rows[scan.series.key] for scan in selection.chosen]
        for number, scan in enumerate(todo, start=1):
            subject = pseudonym(scan.series.patient, key)
            try:
                rows[scan.series.key] = _import_one(scan, subject, out, limits)
            except (ScanError, MemoryLimitError) as error:
                unusable[scan.series.key] = str(error)
            log.info("dicom: %d of %d, %s %s %s", number, len(todo), subject, scan.session, scan.modality)


def _stranger(series: Series, near: Mapping[str, int]) -> str:
    reason = "the patient is not in the table of patients"
    if series.patient not in near:
        return reason
    row = f"row {near[series.patient]} has the id in another form (zeros, case, spaces, .0)"
    return f"{reason}; {row}: write it as in DICOM"


def _images(series: Series) -> int:
    return len(series.images) + sum(count for _, count in series.set_aside)


def convert_series(
    images: Sequence[Image], *, slices: int, frames: int = 1, limits: Limits = ORDINARY
) -> tuple[NDArray[np.generic], NDArray[np.float64]]:
    """Let dcm2niix make a volume of some files, and of these files only.

    Args:
        images: of one series and one echo.
        slices: how many are expected.
        frames: how many volumes are expected.
        limits: of the memory that it may take.

    Returns:
        Voxels (X, Y, Z), with several frames (X, Y, Z, T), as stored if they need no scaling, otherwise with the
        scaling applied; and the voxel-to-world affine (4, 4), mm, RAS+.

    Raises:
        ScanError: dcm2niix fails, or makes something else than one volume of so many frames.
        MemoryLimitError: it takes more memory than it may.
    """
    promised = sum(image.pixel_bytes for image in images)
    limits.check_work(DCM2NIIX_COPIES * promised, f"converting {len(images)} files")
    with tempfile.TemporaryDirectory(prefix="dicom-") as folder:
        source, target = Path(folder, "in"), Path(folder, "out")
        source.mkdir()
        target.mkdir()
        for number, image in enumerate(images):
            _give(image, source / f"{number:06d}.dcm")
        made = _run_dcm2niix(source, target, memory=limits.memory_bytes, written=OUTPUT_COPIES * promised)
        if len(made) != 1:
            raise ScanError(f"dcm2niix made {len(made)} volumes of this series, one expected; look at it in a viewer")
        voxels, affine = _made(made[0], limits)
    count = voxels.shape[3] if voxels.ndim == 4 else 1
    if voxels.ndim not in (3, 4) or count != frames or slices not in voxels.shape or voxels.dtype.kind not in "iuf":
        raise ScanError(
            f"dcm2niix made {count} volumes of shape {voxels.shape[:3]}, {voxels.dtype}; {frames} with {slices} slices "
            "and one number a voxel expected"
        )
    return voxels if frames > 1 else voxels.reshape(voxels.shape[:3]), affine


def _made(path: Path, limits: Limits) -> tuple[NDArray[np.generic], NDArray[np.float64]]:
    """Read the output of dcm2niix: voxels as `convert_series` returns them, with all frames, and the affine."""
    try:
        volume = nibabel.load(path)
        limits.check_work(BYTES_READ * math.prod(volume.shape), f"reading {times(volume.shape)} voxels")
        plain = (volume.dataobj.slope, volume.dataobj.inter) == (1, 0)
        voxels = np.asarray(volume.dataobj.get_unscaled() if plain else volume.dataobj).copy()
        return voxels, np.asarray(volume.affine, dtype=np.float64)
    except (ImageFileError, HeaderDataError, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # an error of the disk
        raise ScanError(
            f"dcm2niix made a file that cannot be read ({type(error).__name__}); export it again"
        ) from error


def _import_one(scan: Chosen, subject: str, out: Path, limits: Limits) -> dict[str, str]:
    """Convert and write one series; return its row of the table."""
    made, made_affine = convert_series(scan.images, slices=scan.slices, frames=scan.frames, limits=limits)
    limits.check_work(BYTES_COMPARED * made.size, f"comparing {times(made.shape)} voxels with DICOM")
    voxels, affine, found = verified(made, made_affine, scan.images)
    remarks, unit = [*scan.remarks, *found], ""
    if scan.series.modality == "PT":
        voxels, unit, remark = _in_suv(voxels, scan.series)
        remarks += [remark] * bool(remark)
    path = Path(subject, scan.session, f"{subject}_{scan.session}_{scan.modality}.nii.gz")
    real_folder((out / path).parent, below=out)
    with replacing(out / path) as partial:
        write_volume(partial, voxels, affine)
    return {
        "subject": subject,
        "session": scan.session,
        "modality": scan.modality,
        "path": path.as_posix(),
        "age": "" if scan.series.age is None or scan.series.age_contradicts else str(scan.series.age),
        "sex": scan.series.sex,
        "unit": unit,
        "remarks": "; ".join(remarks),
    }


def _in_suv(voxels: NDArray[np.generic], series: Series) -> tuple[NDArray[np.generic], str, str]:
    """Scale voxels to SUV; return them, their unit and a remark."""
    try:
        factor = suv_factor(series.pet)
    except SuvError as error:
        return voxels, "Bq/ml" if series.pet.units == "BQML" else "", f"not scaled to SUV: {error}"
    return (voxels.astype(np.float64) * factor).astype(np.float32), "SUVbw", ""


def _run_dcm2niix(source: Path, target: Path, *, memory: float, written: float) -> list[Path]:
    """Run dcm2niix; return its NIfTI files, without further versions made equidistant, upright or smaller.

    Its output is discarded, since it may quote headers.

    Args:
        source: folder of its input.
        target: folder for its output.
        memory: bytes that it may take.
        written: bytes that a file of it may have.
    """
    command = [dcm2niix.bin, *_OPTIONS, "-o", str(target), str(source)]

    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (int(memory + ITS_OWN_BYTES),) * 2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(written + ITS_OWN_BYTES),) * 2)

    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            timeout=LONGEST_S, check=False, preexec_fn=bounded,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ScanError(f"dcm2niix did not finish within {LONGEST_S} s") from error
    if done.returncode != 0:
        why = _EXIT.get(done.returncode, "compressed in an unknown way, cut short, or of a kind that it does not know")
        raise ScanError(f"dcm2niix failed with exit code {done.returncode}: {why}. Look at the series in a viewer")
    return [path for path in sorted(target.glob("*.nii")) if not re.search("_(Eq|Tilt|Crop)_", path.name)]


def _give(image: Image, link: Path) -> None:
    """Link a file, or copy it where links are not possible; one without a preamble gets one.

    Raises:
        ScanError: a file without a preamble lacks what a whole file needs.
    """
    if not image.preamble:
        try:
            with quiet():
                read_whole(image).save_as(link, enforce_file_format=True)
        except DAMAGED as error:
            raise ScanError(f"files without a preamble cannot be completed ({type(error).__name__})") from error
        return
    try:
        link.symlink_to(image.path.absolute())
    except OSError:
        shutil.copyfile(image.path, link)


def _is_known(series: Series, known: pd.DataFrame | None, key: bytes) -> bool:
    return known is None or not series.patient or pseudonym(series.patient, key) in known.index


def _left_out_table(left_out: Iterable[LeftOut], key: bytes) -> pd.DataFrame:
    rows = [
        {
            "subject": pseudonym(each.series.patient, key) if each.series.patient else "",
            "session": each.session,
            "series": "" if each.series.number is None else str(each.series.number),
            "dicom_modality": each.series.modality if each.series.modality in _MODALITIES else "",
            "description": clean_description(each.series.description),
            "images": str(_images(each.series)),
            "reason": each.reason,
        }
        for each in left_out
    ]
    columns = ["subject", "session", "series", "dicom_modality", "description", "images", "reason"]
    return pd.DataFrame(rows, columns=columns, dtype=str).sort_values(columns, ignore_index=True)


def _notes(scans: pd.DataFrame, known: pd.DataFrame | None) -> tuple[str, ...]:
    notes = []
    if known is not None and (without := sorted(set(known.index) - set(scans["subject"]))):
        notes.append(f"{len(without)} of {len(known)} patients in the table have no scan that can be used")
    lonely = scans.groupby(["subject", "session"])["modality"].nunique().eq(1)
    if scans["modality"].nunique() > 1 and lonely.any():
        notes.append(
            f"{int(lonely.sum())} of {len(lonely)} sessions have one modality only; if the scans of a visit were taken "
            "on different days, raise --session-days"
        )
    if corrected := int(scans["remarks"].str.contains("than DICOM says; corrected").sum()):
        notes.append(f"{corrected} volumes of dcm2niix were corrected by their DICOM files; see remarks")
    if scans["unit"].isin(["SUVbw"]).any() and (scans["remarks"].str.contains("not scaled to SUV")).any():
        notes.append("some PET volumes are in SUV and some are not; see remarks")
    return tuple(notes)
