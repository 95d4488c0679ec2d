"""The manifest of BreakHis, parsed from the file names of its pictures.

`SOB_B_A-14-22549AB-40-001.png` is a benign (B) adenosis (A) of the year 14, slide number 22549 with letters AB, at 40X,
picture 1.

Source: Spanhol et al. 2016, A dataset for breast cancer histopathological image classification, IEEE Trans. Biomed.
Eng. 63:1455.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePath
from typing import NamedTuple

import pandas as pd

from cohort.manifest import suggest
from cohort.splits import shuffled

TUMOURS = {"B": "benign", "M": "malignant"}
TYPES = {"A": "B", "F": "B", "PT": "B", "TA": "B", "DC": "M", "LC": "M", "MC": "M", "PC": "M"}
"""Tumour type → B or M: adenosis, fibroadenoma, phyllodes tumour, tubular adenoma; ductal, lobular, mucinous, papillary
carcinoma."""

_NAME = re.compile(r"SOB_([A-Z]+)_([A-Z]+)-(\d+)-(\d+)([A-Z]*)-(\d+)-(\d+)\.png")
_MAGNIFICATIONS = ("40", "100", "200", "400")
_COLUMNS = ["subject", "session", "modality", "path", "tumour", "tumour_type"]
_EXPECTED = "not a BreakHis name; expected one such as SOB_B_A-14-22549AB-40-001.png"


class BreakHis(NamedTuple):
    """The manifest, and the paths that are not in it."""

    scans: pd.DataFrame
    """One row a picture, sorted by path, all str: `subject`, `session`, `modality` ("40X", "100X", "200X", "400X"),
    `path` (as given), `tumour` (benign, malignant), `tumour_type` (a key of `TYPES`)."""
    left_out: pd.DataFrame
    """One row a path that cannot be used: `path`, `reason`."""


def breakhis_manifest(
    paths: Iterable[str | PurePath], *, balanced: tuple[int, int] | None = None, seed: int = 0
) -> BreakHis:
    """Parse the names of pictures to a manifest; no file is opened, and folders in the paths are ignored.

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
        that `balanced` did not take are in neither.

    Raises:
        ValueError: `balanced` asks for more patients than there are, or for less than one.
    """
    rows, left_out = [], []
    first: dict[str, str] = {}
    for path in sorted({str(path) for path in paths}):
        name = PurePath(path).name
        read = _read(name)
        if isinstance(read, dict) and name in first:
            read = f"the same picture as {first[name]}"
        if isinstance(read, str):
            left_out.append({"path": path, "reason": read})
        else:
            first[name] = path
            rows.append({**read, "path": path})
    scans = pd.DataFrame(rows, columns=_COLUMNS, dtype=str)
    if balanced is not None:
        scans = _sampled(scans, dict(zip(TUMOURS.values(), balanced, strict=True)), seed)
    return BreakHis(scans, pd.DataFrame(left_out, columns=["path", "reason"], dtype=str))


def _read(name: str) -> dict[str, str] | str:
    """Parse a name; return a text if something is wrong with it."""
    if not (match := _NAME.fullmatch(name)):
        return _EXPECTED
    tumour, tumour_type, year, slide, letters, magnification, _ = match.groups()
    if tumour not in TUMOURS:
        return f"class {tumour!r} is neither B (benign) nor M (malignant)"
    if tumour_type not in TYPES:
        return f"tumour type {tumour_type!r} is unknown {suggest(tumour_type, TYPES)}"
    if TYPES[tumour_type] != tumour:
        return f"tumour type {tumour_type} is {TUMOURS[TYPES[tumour_type]]}, but the name says {TUMOURS[tumour]}"
    if magnification not in _MAGNIFICATIONS:
        return f"magnification {magnification} is none of {', '.join(_MAGNIFICATIONS)}"
    return {
        "subject": f"{year}-{slide}",
        "session": f"{tumour_type}-{letters}".rstrip("-"),
        "modality": f"{magnification}X",
        "tumour": TUMOURS[tumour],
        "tumour_type": tumour_type,
    }


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
