"""The manifest of BreakHis, parsed from the file names of its pictures.

`SOB_B_A-14-22549AB-40-001.png` is a benign (B) adenosis (A) of the year 14, slide number 22549 with letters AB, at 40X,
picture 1.

Source: Spanhol et al. 2016, A dataset for breast cancer histopathological image classification, IEEE Trans. Biomed.
Eng. 63:1455.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import NamedTuple

import pandas as pd

from cohort.splits import shuffled
from cohort.tables import ManifestError, Problem, suggest

TUMOURS = {"B": "benign", "M": "malignant"}
TYPES = {"A": "B", "F": "B", "PT": "B", "TA": "B", "DC": "M", "LC": "M", "MC": "M", "PC": "M"}
"""Tumour type → B or M: adenosis, fibroadenoma, phyllodes tumour, tubular adenoma; ductal, lobular, mucinous, papillary
carcinoma."""

_NAME = re.compile(r"SOB_([A-Z]+)_([A-Z]+)-(\d+)-(\d+)([A-Z]*)-(\d+)X?-(\d+)\.[A-Z]+", re.IGNORECASE)
_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_MAGNIFICATIONS = ("40", "100", "200", "400")
_COLUMNS = ["subject", "session", "modality", "path", "tumour", "tumour_type"]
_EXPECTED = "not a BreakHis name; expected one such as SOB_B_A-14-22549AB-40-001.png"
_LISTED = 20  # files in a note; the rest are counted


class BreakHis(NamedTuple):
    """The manifest, and what is not in it."""

    scans: pd.DataFrame
    """One row a picture, sorted by path, all str: `subject`, `session`, `modality` ("40X", "100X", "200X", "400X"),
    `path` (as given), `tumour` (benign, malignant), `tumour_type` (a key of `TYPES`)."""
    left_out: pd.DataFrame
    """One row a path that cannot be used: `path`, `reason`."""
    remarks: list[str]
    """Sentences about patients: those not taken, and slides that are in both classes."""

    def notes(self) -> list[str]:
        """Return one line for each reason why files were left out, with their number, and the remarks."""
        lines = []
        for kind, files in self.left_out.groupby(self.left_out["reason"].str.split(": ").str[0], sort=False):
            if len(files) == 1:
                lines.append(f"{files['path'].iloc[0]} left out: {files['reason'].iloc[0]}")
            else:
                more = f", and {len(files) - _LISTED} more" if len(files) > _LISTED else ""
                lines.append(f"{len(files)} files left out: {kind}: {', '.join(files['path'][:_LISTED])}{more}")
        return lines + self.remarks


def breakhis_folder(folder: Path, *, balanced: tuple[int, int] | None = None) -> BreakHis:
    """Make the manifest of all pictures in a folder; every file that is not in it is left out with a reason.

    Args:
        folder: of the database, with its folders in any order. Links to folders are not followed.
        balanced: as for `breakhis_manifest`.

    Raises:
        ManifestError: there is no picture, or `balanced` asks for more patients than there are.
        OSError: a folder cannot be read.
    """
    paths = files_in(folder)
    try:
        found = breakhis_manifest(paths)
        if len(found.scans) and balanced is not None:
            found = breakhis_manifest(paths, balanced=balanced)
    except ValueError as error:
        reason = f"cohort.balanced: {error}"
        raise ManifestError(Problem(reason, reason)) from error
    if found.scans.empty:
        text = f"none of the {len(paths)} files in it is a picture of BreakHis; expected SOB_B_A-14-22549AB-40-001.png"
        raise ManifestError(Problem("\n".join([text, *found.notes()]), text))
    return found


def files_in(folder: Path) -> list[str]:
    """Return the paths of all files in a folder and the folders in it, relative to it, sorted; links to folders too.

    Raises:
        OSError: a folder cannot be read.
    """

    def stop(error: OSError) -> None:
        raise error

    paths = []
    for place, folders, files in os.walk(folder, onerror=stop):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        paths += [Path(place, name).relative_to(folder).as_posix() for name in files + links]
    return sorted(paths)


def is_picture(name: str) -> bool:
    """Check if a file name ends as those of pictures do, and is not that of a companion that macOS makes."""
    return name.lower().endswith(_SUFFIXES) and not PurePath(name).name.startswith("._")


def breakhis_manifest(
    paths: Iterable[str | PurePath], *, balanced: tuple[int, int] | None = None, seed: int = 0
) -> BreakHis:
    """Parse the names of pictures to a manifest; no file is opened, and folders in the paths are ignored.

    Upper and lower case are the same, in endings too, and a picture may be a JPEG or TIFF.

    The authors count 82 patients, one for each slide id and tumour type. But slide 13412 occurs as DC and as LC, and
    numbers such as 22549 occur with several letters. To be safe the **number** of the slide is the subject, who stays
    in one split; tumour type and letters are the session, which is what gets classified. So the 82 are the
    observations, and no slide is in two splits.

    Args:
        paths: of the pictures, or their names alone, in any order.
        balanced: take so many benign and so many malignant patients, counted as the authors do (subject and session).
            The paper takes (24, 29) and does not list them; here those come first by a hash of seed and
            name, so the order of the paths does not matter, and the patients are not those of the paper. None
            takes all.
        seed: another seed takes other patients; unused without `balanced`.

    Returns:
        The manifest, as `cohort.manifest.check_manifest` reads it with `label: tumour`, and what is left out. Patients
        that `balanced` did not take are counted in `remarks`.

    Raises:
        ValueError: `balanced` asks for more patients than there are, or for less than one.
    """
    rows, left_out = [], []
    first: dict[tuple[str, ...], str] = {}
    for path in sorted({str(path) for path in paths}):
        read, picture = _read(path)
        if picture in first:
            read = f"a second copy: the same picture as {first[picture]}"
        if isinstance(read, str):
            left_out.append({"path": path, "reason": read})
        else:
            first[picture] = path
            rows.append({**read, "path": path})
    scans = pd.DataFrame(rows, columns=_COLUMNS, dtype=str)
    remarks = _in_both_classes(scans)
    if balanced is not None:
        sampled = _sampled(scans, dict(zip(TUMOURS.values(), balanced, strict=True)), seed)
        remarks.append(f"cohort.balanced: {len(scans) - len(sampled)} of {len(scans)} pictures are not taken")
        scans = sampled
    return BreakHis(scans, pd.DataFrame(left_out, columns=["path", "reason"], dtype=str), remarks)


def _read(path: str) -> tuple[dict[str, str] | str, tuple[str, ...]]:
    """Parse a name; return a text if something is wrong with it, and what tells pictures apart."""
    name = PurePath(path).name
    if name.startswith("._"):
        return "a companion file of macOS, no picture", ()
    if not is_picture(name):
        return f"not a picture ({', '.join(_SUFFIXES)})", ()
    if not (match := _NAME.fullmatch(name)):
        return _EXPECTED, ()
    tumour, tumour_type, year, slide, letters, magnification, number = (part.upper() for part in match.groups())
    if tumour not in TUMOURS:
        return f"class {tumour!r} is neither B (benign) nor M (malignant)", ()
    if tumour_type not in TYPES:
        return f"tumour type {tumour_type!r} is unknown {suggest(tumour_type, TYPES)}", ()
    if TYPES[tumour_type] != tumour:
        return f"tumour type {tumour_type} is {TUMOURS[TYPES[tumour_type]]}, but the name says {TUMOURS[tumour]}", ()
    if magnification not in _MAGNIFICATIONS:
        return f"magnification {magnification} is none of {', '.join(_MAGNIFICATIONS)}", ()
    row = {
        "subject": f"{year}-{slide}",
        "session": f"{tumour_type}-{letters}".rstrip("-"),
        "modality": f"{magnification}X",
        "tumour": TUMOURS[tumour],
        "tumour_type": tumour_type,
    }
    return row, (row["subject"], row["session"], magnification, number.lstrip("0"))


def _in_both_classes(scans: pd.DataFrame) -> list[str]:
    """Return a sentence for each slide that is benign by some names and malignant by others."""
    sentences = []
    for subject, slide in scans.groupby("subject"):
        count = Counter(slide["tumour"])
        if len(count) > 1:
            sentences.append(
                f"slide {subject}: by their names {count['benign']} of its pictures are benign, {count['malignant']} "
                f"malignant ({', '.join(sorted(set(slide['session'])))}); is one a mistake? All stay in one split"
            )
    return sentences


def _sampled(scans: pd.DataFrame, wanted: dict[str, int], seed: int) -> pd.DataFrame:
    """Sample pictures of so many patients of each class."""
    patient = scans["subject"] + "_" + scans["session"]
    available = Counter(scans.loc[~patient.duplicated(), "tumour"])
    taken: set[str] = set()
    for tumour, count in wanted.items():
        if not 1 <= count <= available[tumour]:
            raise ValueError(
                f"balanced asks for {count} {tumour} patients; there are {available[tumour]}, and 1 is the least"
            )
        taken.update(shuffled(patient[scans["tumour"] == tumour].unique(), seed, "breakhis")[:count])
    return scans[patient.isin(taken)].reset_index(drop=True)
