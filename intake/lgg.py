"""The LGG Segmentation Dataset: slices as colour pictures and a table of codes → volumes and a table of scans.

A patient is a folder such as `TCGA_CS_4941_19960909`, with a picture a slice, from the lowest to the highest:
`TCGA_CS_4941_19960909_1.tif`. Red is T1, green FLAIR, blue T1 with contrast agent. Masks (`…_1_mask.tif`) are not read:
a new patient has none. Where T1 or T1c was not taken, the data set has FLAIR in its place; such copies are left out.

The codes of `data.csv` are published nowhere that we know of. Sex (1 F, 2 M) and grade (1 G2, 2 G3) were derived by
comparing with the clinical data of TCGA; all others are kept as they are. It has no IDH status.

Source: Buda, Saha, Mazurowski 2019, Association of genomic subtypes of lower-grade gliomas with shape features
automatically extracted by a deep learning algorithm, Comput. Biol. Med. 109:218.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cohort.names import broken_ids, canonical, is_missing, without_missing
from cohort.tables import ManifestError, read_table, suggest
from files.reading import UnusableFileError, read_bytes
from files.writing import replacing
from preprocessing.encoding import nifti_bytes
from preprocessing.errors import MemoryLimitError, ScanError
from preprocessing.limits import DEFAULT_LIMITS, MIN_SIDE
from preprocessing.picture_files import decoded

CHANNELS = ("T1", "FLAIR", "T1c")
PIXEL_MM = 0.9  # invented: 256 of them are 230 mm, about as wide as heads are scanned
HEIGHT_MM = 140.0  # invented: of all slices of a patient together
FOREGROUND = 8  # grey levels of 255; darker is air
SAME_AS_FLAIR = 0.02  # mean difference from FLAIR over the mean brightness; of real pairs the least was 0.19
ALIKE_LEVELS = 5.0  # mean difference of T1 and T1c in grey levels, below which it is remarked
CODES = {"gender": {"1": "F", "2": "M"}, "neoplasm_histologic_grade": {"1": "G2", "2": "G3"}}
COLUMNS = {
    "neoplasm_histologic_grade": "grade", "age_at_initial_pathologic": "age", "gender": "sex", "death01": "died",
    "histological_type": "histology", "RNASeqCluster": "rnaseq", "MethylationCluster": "methylation",
    "miRNACluster": "mirna", "CNCluster": "cn", "RPPACluster": "rppa", "OncosignCluster": "oncosign",
    "COCCluster": "coc", "laterality": "laterality", "tumor_location": "location", "race": "race",
    "ethnicity": "ethnicity", "tumor_tissue_site": "tissue",
}  # fmt: skip
"""Column of `data.csv` → what it is called here."""

_FOLDER = re.compile(r"(TCGA_[A-Z0-9]{2}_[A-Z0-9]{4})_\d{8}", re.IGNORECASE)
_TABLE, _ID = "data.csv", "Patient"
_LARGEST_SLICE = 50_000_000  # bytes
_UNREADABLE = (ScanError, MemoryLimitError, UnusableFileError, OSError)


class Lgg(NamedTuple):
    """What was made of the data set."""

    scans: pd.DataFrame
    """A row a scan, str: `subject`, `modality` (T1, FLAIR, T1c), `path` (relative to the folder of the volumes'
    folder), `site` (TCGA's code of the hospital), and the columns of the table; "" for no value."""
    left_out: pd.DataFrame
    """A row a patient's folder or scan that is not used: `subject`, `modality` ("" for all), `path`, `reason`."""
    notes: list[str]
    """Sentences about the table and about scans that are used but odd."""


def import_lgg(
    folder: Path,
    out: Path,
    *,
    voxel_mm: tuple[float, float, float] | None = None,
    patients: pd.DataFrame | None = None,
    keep: Sequence[str] = (),
    not_missing: tuple[str, ...] = (),
) -> Lgg:
    """Write a volume of every channel that is a scan of its own to `out/volumes`; patients that fail are left out.

    The volumes' affine is invented and has the code 0 in the header, "unknown": `trust: sform` accepts it. Slices are
    taken to be axial, shown as radiologists do (the patient's right on the left of the picture, front on top).

    Args:
        folder: of the download; the patients' folders may lie at any depth, with one `data.csv`.
        out: where `volumes` is made.
        voxel_mm: width, height of a pixel, distance of slices; None: 0.9 × 0.9 mm, and 140 mm over their number.
        patients: a row a patient, str, with `patient_id` as TCGA writes it (TCGA-CS-4941), and the columns to keep.
        keep: columns of `patients`, such as idh.
        not_missing: words that stand for no value elsewhere and are values here.

    Raises:
        ManifestError: there is no `data.csv`, there are two that differ, or one lacks columns.
        ValueError: `patients` lacks a column, or its ids are doubled or broken.
        OSError: the folder cannot be read.
    """
    found, tables, left_out = _folders(folder)
    known, notes = _clinical(folder, tables)
    added: dict[str, dict[str, str]] = {}
    if patients is not None:
        added = _added(patients, keep, not_missing)
        if found and added and not any(canonical(subject) in added for subject in found):
            theirs = patients["patient_id"].iloc[0]
            raise ValueError(
                f"nobody of the download is in the table of patients: ids there look like {theirs!r}, here like "
                f"{next(iter(found))!r}"
            )
        if strangers := sorted(subject for subject in found if canonical(subject) not in added):
            notes.append(f"{len(strangers)} patients are not in the table of patients: {_listed(strangers)}")
    extra = [*COLUMNS.values(), *keep]
    rows: list[dict[str, str]] = []
    coloured = False
    for subject, place in found.items():
        try:
            volumes, remark, replaced = _read(folder / place)
        except _UNREADABLE as error:
            left_out.append({"subject": subject, "modality": "", "path": place, "reason": str(error)})
            continue
        coloured |= len(volumes) > 1
        for name in replaced:
            reason = "not taken: the data set has FLAIR in its place (the two are the same picture)"
            left_out.append({"subject": subject, "modality": name, "path": place, "reason": reason})
        if remark:
            notes.append(f"{subject}: {remark}")
        affine = invented_affine(len(volumes["FLAIR"][0, 0]), voxel_mm)
        for name, volume in volumes.items():
            path = f"volumes/{subject}_{name}.nii.gz"
            text = "voxel size and orientation are invented; not in the source"
            with replacing(out / path) as partial:
                partial.write_bytes(nifti_bytes(volume, affine, text, code=0))
            site = subject.split("_")[1]
            clinical = known.get(subject, {}) | added.get(canonical(subject), {})
            rows.append(
                {"subject": subject, "modality": name, "path": path, "site": site}
                | {column: clinical.get(column, "") for column in extra}
            )
    if rows and not coloured:
        notes.append(
            "no patient has a T1 or T1c that differs from FLAIR; are the pictures grey copies of the download?"
        )
    if strangers := sorted({row["subject"] for row in rows} - known.keys()):
        notes.append(f"{len(strangers)} patients are not in {_TABLE}, only their site is known: {_listed(strangers)}")
    if absent := sorted(known.keys() - found.keys()):
        notes.append(f"{len(absent)} patients of {_TABLE} have no folder: {_listed(absent)}")
    scans = pd.DataFrame(rows, columns=["subject", "modality", "path", "site", *extra], dtype=str)
    return Lgg(scans, pd.DataFrame(left_out, columns=["subject", "modality", "path", "reason"], dtype=str), notes)


def manifest_of(scans: pd.DataFrame, label: str) -> pd.DataFrame:
    """Return the manifest for a label: the scans of patients that have it, with age, sex and site."""
    columns = ["subject", "modality", "path", label, *(name for name in ("age", "sex", "site") if name != label)]
    return scans.loc[scans[label] != "", columns].reset_index(drop=True)


def invented_affine(slices: int, voxel_mm: tuple[float, float, float] | None) -> NDArray[np.float64]:
    """Return an affine for so many slices, voxel to world, (4, 4), mm: columns run to the left, rows to the back."""
    across, down, up = voxel_mm or (PIXEL_MM, PIXEL_MM, HEIGHT_MM / slices)
    return np.diag([-across, -down, up, 1.0])


def mean_difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> tuple[float, float]:
    """Return how two scans on one grid differ where at least one is brighter than air.

    Returns:
        Mean absolute difference in grey levels, and the same over the mean of both there. 0 and 0 if all is air.
    """
    inside = (one > FOREGROUND) | (other > FOREGROUND)
    if not inside.any():
        return 0.0, 0.0
    a, b = one[inside].astype(float), other[inside].astype(float)
    levels = float(np.abs(a - b).mean())
    return levels, levels / float((a + b).mean() / 2)


def _folders(folder: Path) -> tuple[dict[str, str], list[str], list[dict[str, str]]]:
    """Return subject → its folder, the tables, all relative to the folder, and folders that are not used."""

    def stop(error: OSError) -> None:
        raise error

    found: dict[str, str] = {}
    tables, left_out = [], []
    for place, inner, files in os.walk(folder, onerror=stop):
        inner.sort()
        path = Path(place).relative_to(folder).as_posix()
        tables += [str(Path(path, _TABLE))] * (_TABLE in files)
        for name in inner:
            if (linked := _FOLDER.fullmatch(name)) and Path(place, name).is_symlink():
                reason = "a link to a folder, which is not followed; put the folder itself there"
                where = str(Path(path, name))
                left_out.append({"subject": linked[1].upper(), "modality": "", "path": where, "reason": reason})
        if match := _FOLDER.fullmatch(Path(place).name):
            subject = match[1].upper()
            if subject in found:
                reason = f"a second folder of this patient; {found[subject]} is used"
                left_out.append({"subject": subject, "modality": "", "path": path, "reason": reason})
            else:
                found[subject] = path
    return dict(sorted(found.items())), tables, left_out


def _clinical(folder: Path, tables: list[str]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Return subject → its row of `data.csv` in the words of this program, and notes on cells that are not used."""
    if not tables:
        raise ManifestError(f"{folder}: there is no {_TABLE}; give the folder of the download, with kaggle_3m in it")
    frames = [read_table(folder / table) for table in tables]
    if any(not frame.equals(frames[0]) for frame in frames):
        raise ManifestError(f"{folder}: {_listed(tables)} differ; leave one of them")
    frame = frames[0]
    if absent := [name for name in (_ID, *COLUMNS) if name not in frame]:
        raise ManifestError(f"{tables[0]} lacks {', '.join(absent)} {suggest(absent[0], frame.columns)}")
    nobody = frame[_ID].map(is_missing).astype(bool)
    notes = [f"{_TABLE}, row {int(index) + 2}: it names no patient and is not used" for index in frame.index[nobody]]
    frame = frame[~nobody].assign(**{_ID: frame[_ID].str.upper().str.replace("-", "_")})
    if len(again := frame.loc[frame[_ID].duplicated(), _ID]):
        raise ManifestError(f"{tables[0]} has patients twice: {_listed(sorted(set(again)))}")
    known = {}
    for index, cells in frame.iterrows():
        row = {}
        for column, name in COLUMNS.items():
            text = "" if is_missing(cells[column]) else cells[column]
            meaning = CODES.get(column, {}).get(text.removesuffix(".0"), text if column not in CODES else "")
            if text and not meaning:
                codes = ", ".join(CODES[column])
                notes.append(f"{_TABLE}, row {int(str(index)) + 2}: {column} is {text!r}, none of {codes}; left empty")
            row[name] = meaning
        known[cells[_ID]] = row
    return known, notes


def _added(patients: pd.DataFrame, keep: Sequence[str], not_missing: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """Return patient, in the form in which names are compared → the columns to keep."""
    if own := {"subject", "modality", "path", "site", *COLUMNS.values()} & set(keep):
        raise ValueError(f"the table of patients cannot give {', '.join(sorted(own))}; the data set has it")
    if absent := [name for name in ("patient_id", *keep) if name not in patients]:
        raise ValueError(f"the table of patients lacks {', '.join(map(repr, absent))}; it has {list(patients)}")
    for name in keep:
        if not re.fullmatch("[A-Za-z0-9_-]{1,60}", name) or name in ("all", "left_out"):
            raise ValueError(f"the column {name!r} cannot name a manifest; rename it with letters and digits")
    for index, what in sorted(broken_ids(patients["patient_id"]).items()):
        raise ValueError(f"the table of patients, row {index + 2}: the id {what}")
    names = patients["patient_id"].map(canonical)
    if len(again := names.index[names.duplicated()]):
        raise ValueError(f"the table of patients has a patient twice: {_listed([f'row {i + 2}' for i in again])}")
    cells = patients[list(keep)].apply(lambda column: without_missing(column, not_missing))
    return dict(zip(names, cells.to_dict("records"), strict=True))


def _read(folder: Path) -> tuple[dict[str, NDArray[np.uint8]], str, list[str]]:
    """Return the volumes (X, Y, Z) of a patient that are scans of their own, a remark, and what FLAIR has replaced."""
    name = folder.name
    numbers = [re.fullmatch(re.escape(name) + r"_(\d+)\.tiff?", path.name, re.I) for path in folder.iterdir()]
    slices: dict[int, Path] = {}
    for match in filter(None, numbers):
        if (twin := slices.setdefault(int(match[1]), folder / match[0])).name != match[0]:
            raise ScanError(f"{twin.name} and {match[0]} are both slice {int(match[1])}; leave one of them")
    if len(slices) < MIN_SIDE:
        raise ScanError(f"{len(slices)} slices named {name}_1.tif and so on; at least {MIN_SIDE} are needed")
    if lost := sorted(set(range(1, max(slices) + 1)) - slices.keys()):
        raise ScanError(f"slice {_listed(list(map(str, lost)))} of {max(slices)} is missing; unpack the download again")
    pictures = [_slice(slices[number]) for number in sorted(slices)]
    shapes = {picture.shape for picture in pictures}
    if len(shapes) > 1:
        raise ScanError(f"slices differ in size ({_listed(sorted(f'{w} × {h}' for h, w, _ in shapes))})")
    stack = np.stack(pictures).transpose(3, 2, 1, 0)  # (slice, row, column, channel) → (channel, column, row, slice)
    volumes: dict[str, NDArray[np.uint8]] = dict(zip(CHANNELS, stack, strict=True))
    if volumes["FLAIR"].min() == volumes["FLAIR"].max():
        raise ScanError(f"every voxel of FLAIR is {volumes['FLAIR'].min()}; unpack the download again")
    replaced = [n for n in ("T1", "T1c") if mean_difference(volumes[n], volumes["FLAIR"])[1] <= SAME_AS_FLAIR]
    for each in replaced:
        del volumes[each]
    remark = ""
    if {"T1", "T1c"} <= volumes.keys():
        levels, _ = mean_difference(volumes["T1"], volumes["T1c"])
        if levels <= ALIKE_LEVELS:
            remark = (
                f"T1 and T1c differ by {levels:.1f} grey levels of 255 on average, so they are nearly the same picture "
                "or both very dark; both are kept, look at them"
            )
    return volumes, remark, replaced


def _slice(path: Path) -> NDArray[np.uint8]:
    """Read a slice (H, W, 3)."""
    try:
        picture = decoded(read_bytes(path, most=_LARGEST_SLICE), DEFAULT_LIMITS)
    except _UNREADABLE as error:
        raise ScanError(f"{path.name}: {error}") from error
    if picture.values.dtype != np.uint8:
        raise ScanError(f"{path.name}: {picture.values.dtype} a channel; expected 8 bits")
    return picture.values


def _listed(names: Sequence[str], most: int = 10) -> str:
    """List names; beyond `most` they are counted."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
