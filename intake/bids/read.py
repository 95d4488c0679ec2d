"""Read a data set in the Brain Imaging Data Structure (BIDS) as a manifest: names of files and tables, no voxels.

Source: Gorgolewski et al. 2016, The brain imaging data structure, Sci. Data 3:160044, and the BIDS specification 1.10,
sections "Magnetic Resonance Imaging", "Positron Emission Tomography" and "Data summary files".
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import pandas as pd

from cohort.tables import ManifestError, suggest
from intake.bids.tables import read_tables, shortened

ANATOMICAL = ("T1w", "T2w", "FLAIR")
_ISOTOPE = re.compile(r"^(11C|13N|15O|18F|64Cu|68Ga|89Zr|124I|C11|N13|O15|F18|Cu64|Ga68|Zr89|I124)(?=[A-Za-z])", re.I)
_ENTITY = re.compile(r"([a-z]+)-([A-Za-z0-9+]+)")
_NAME = re.compile(r"(?P<entities>(?:[a-z]+-[A-Za-z0-9+]+_)+)(?P<suffix>[A-Za-z0-9]+)\.nii(?:\.gz)?")
_OTHER = {
    "ce": "taken with a contrast agent (ce)",
    "part": "phase, real or imaginary part",
    "space": "processed already (space)",
    "desc": "processed already (desc)",
    "echo": "one echo of several",
}


class Bids(NamedTuple):
    """The manifest, and the scans left out."""

    scans: pd.DataFrame
    """One row a scan, sorted, all str: `subject` ("sub-01"), `session` ("ses-01" or ""), `modality`, `path` (relative
    to the data set), the label, the covariates present."""
    left_out: pd.DataFrame
    """One row a scan or, with an empty path, a participant, a session or a row of a table: `subject`, `session`,
    `path`, `reason`."""


LeftOut = tuple[str, str, str, str]  # subject, session, path, reason


class _Scan(NamedTuple):
    subject: str
    session: str
    modality: str
    path: str
    entities: dict[str, str]


def read_bids(
    root: Path,
    *,
    label: str = "diagnosis",
    covariates: Sequence[str] = ("age", "sex", "site"),
    runs: Literal["first", "last", "all"] = "first",
    names: dict[str, str] | None = None,
    not_missing: Sequence[str] = (),
) -> Bids:
    """Find T1w, T2w and FLAIR in `anat` and PET in `pet`, and look up the classes of their subjects.

    PET is called after its tracer without the isotope: `trc-18FFDG` and `trc-FDG` are "FDG-PET", no tracer is "PET".
    Of several scans of a modality in a session that differ in other entities (`acq`, `rec`, …), the plainest name is
    taken, then `runs` decides.

    A table of sessions decides about its subject: a session without a row in it is left out, and what it has a column
    for is not taken from participants.tsv. Nor is what only other subjects' tables have, where there are several
    sessions.

    Args:
        root: the folder with participants.tsv and the sub-* folders.
        label: column with the class, in participants.tsv or, where it differs between sessions, in
            `sub-01/sub-01_sessions.tsv`.
        covariates: columns kept where present, from the same two.
        runs: which runs of a scan are taken.
        names: modality here → modality in the manifest, such as {"T1w": "MRI", "FDG-PET": "PET"}; others are left out.
            None takes all as they are.
        not_missing: words that stand for no value elsewhere and are values here, such as none.

    Returns:
        The manifest as `cohort.manifest.check_manifest` reads it with `folder=root`, and what is left out.

    Raises:
        ManifestError: it is no BIDS data set, participants.tsv has no row of any folder, an id in it is broken or
            duplicated, no table has the label, or links lead nowhere; all problems at once, at most 20 of one kind.
    """
    if not root.is_dir():
        raise ManifestError(f"there is no folder {root}")
    subjects = sorted(path.name for path in root.glob("sub-*") if path.is_dir())
    if not subjects:
        raise ManifestError(f"{root} has no sub-* folders; give the top folder of a BIDS data set")
    if not (root / "participants.tsv").is_file():
        raise ManifestError("participants.tsv is missing; it names the class of every participant")
    columns = (label, *(name for name in covariates if name != label))
    tables = read_tables(root, subjects, columns, tuple(not_missing))
    scans, misnamed, left_out = _scans(root, subjects)
    problems, header = list(tables.participants.problems), tables.participants.header
    if not problems and label not in {*header, *tables.by_session}:
        problems.append(f"participants.tsv: column {label!r} is missing {suggest(label, header)}")
    links = shortened(_broken_links(root, scans))
    strangers = [subject for subject in subjects if subject not in tables.participants.rows]
    if problems or links or len(strangers) == len(subjects):
        problems += shortened(map(tables.without_row, strangers))
        raise ManifestError(*problems, *shortened(f"{path}: {reason}" for *_, path, reason in misnamed), *links)
    kept, others = _chosen(scans, runs, names)
    left_out += misnamed + others
    visits = {scan[:2] for scan in scans}
    sessions = Counter(subject for subject, _ in visits)
    rows = []
    for scan in kept:
        known, reason = tables.look_up(scan.subject, scan.session, several=sessions[scan.subject] > 1)
        if reason:
            left_out.append((scan.subject, scan.session, scan.path, reason))
        else:
            rows.append([*scan[:4], *(known.get(column, "") for column in columns)])
    left_out += [(subject, session, "", reason) for subject, session, reason in tables.without_scans(subjects, visits)]
    left_out += [("", "", "", row) for row in tables.participants.left_out]
    left_out += [(subject, "", "", row) for subject, table in tables.sessions.items() for row in table.left_out]
    table = pd.DataFrame(rows, columns=["subject", "session", "modality", "path", *columns], dtype=str)
    return Bids(
        table.drop(columns=[column for column in columns[1:] if column not in {*header, *tables.by_session}]),
        pd.DataFrame(sorted(left_out), columns=["subject", "session", "path", "reason"], dtype=str),
    )


def tracer_modality(tracer: str) -> str:
    """Name the modality of PET by its tracer, given as in `trc-<label>` or "": "18FFDG" gives "FDG-PET"."""
    compound = _ISOTOPE.sub("", tracer)
    return f"{compound.upper()}-PET" if compound else "PET"


def _scans(root: Path, subjects: list[str]) -> tuple[list[_Scan], list[LeftOut], list[LeftOut]]:
    """Collect the scans of the kinds read here, those whose names contradict their folders, and unusable scans."""
    scans: list[_Scan] = []
    misnamed: list[LeftOut] = []
    left_out: list[LeftOut] = []
    for subject in subjects:
        for path in _files(root, subject):
            read = _read(path)
            if isinstance(read, str):
                misnamed.append((subject, "", path.as_posix(), read))
            elif read is not None and (reason := _unfit(read)):
                left_out.append((read.subject, read.session, read.path, reason))
            elif read is not None:
                scans.append(read)
    return scans, misnamed, left_out


def _files(root: Path, subject: str) -> list[PurePosixPath]:
    paths = [
        path
        for kind in ("anat", "pet")
        for pattern in (f"{kind}/*.nii*", f"ses-*/{kind}/*.nii*")
        for path in (root / subject).glob(pattern)
    ]
    return sorted(PurePosixPath(path.relative_to(root).as_posix()) for path in paths)


def _read(path: PurePosixPath) -> _Scan | str | None:
    """Parse a path; return a text if something is wrong with it, None for another kind of image."""
    subject, kind = path.parts[0], path.parts[-2]
    session = path.parts[1] if len(path.parts) == 4 else ""
    match = _NAME.fullmatch(path.name)
    wanted = ANATOMICAL if kind == "anat" else ("pet",)
    suffix = match["suffix"] if match else re.split(r"[_.]", path.name.removesuffix(".gz").removesuffix(".nii"))[-1]
    if suffix not in wanted:
        return None
    if not match:
        return "not a BIDS name; expected one such as sub-01_ses-01_T1w.nii.gz"
    entities = dict(_ENTITY.findall(match["entities"]))
    for name, folder in (("sub", subject), ("ses", session)):
        if (f"{name}-{entities[name]}" if name in entities else "") != folder:
            return f"the name says {name}-{entities.get(name, '(none)')}, but the folder is {folder or 'of no session'}"
    modality = suffix if kind == "anat" else tracer_modality(entities.get("trc", ""))
    return _Scan(subject, session, modality, path.as_posix(), entities)


def _unfit(scan: _Scan) -> str:
    entity = next((name for name in _OTHER if name in scan.entities), None)
    return "" if entity is None or (entity, scan.entities[entity]) == ("part", "mag") else _OTHER[entity]


def _broken_links(root: Path, scans: Iterable[_Scan]) -> Iterator[str]:
    for scan in scans:
        if not (root / scan.path).exists() and os.path.islink(root / scan.path):
            yield f"{scan.path} is a link to a missing file; with DataLad or git-annex, get its content first"


def _chosen(scans: list[_Scan], runs: str, names: dict[str, str] | None) -> tuple[list[_Scan], list[LeftOut]]:
    """Choose one scan of a modality and session, or all its runs; return the others with reasons."""
    groups: dict[tuple[str, str, str], list[_Scan]] = {}
    left_out = []
    for scan in scans:
        if names is not None and scan.modality not in names:
            left_out.append((*scan[:2], scan.path, f"{scan.modality} is not asked for"))
        else:
            renamed = scan._replace(modality=(names or {}).get(scan.modality, scan.modality))
            groups.setdefault(renamed[:3], []).append(renamed)
    kept: list[_Scan] = []
    for several in groups.values():
        plainest = min(map(_variant, several))
        alike = [scan for scan in sorted(several, key=_run) if _variant(scan) == plainest]
        alike = [scan for index, scan in enumerate(alike) if index == 0 or scan.entities != alike[index - 1].entities]
        taken = alike if runs == "all" else [alike[0 if runs == "first" else -1]]
        kept += taken
        left_out += [
            (*scan[:2], scan.path, f"another {scan.modality} of this session; {taken[0].path} is used")
            for scan in several
            if scan not in taken
        ]
    return sorted(kept, key=lambda scan: (*scan[:3], _run(scan))), left_out


def _variant(scan: _Scan) -> tuple[int, list[tuple[str, str]]]:
    """Return a sorting key of the other entities than subject, session and run; fewer come first."""
    rest = sorted(item for item in scan.entities.items() if item[0] not in ("sub", "ses", "run"))
    return len(rest), rest


def _run(scan: _Scan) -> tuple[int, str, bool]:
    """Return a sorting key of runs: run-2 before run-10; of two files of an image the packed one first."""
    run = scan.entities.get("run", "")
    return int(run) if run.isdigit() else 0, run, not scan.path.endswith(".gz")
