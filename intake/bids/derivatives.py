"""Names and sidecars that make preprocessed volumes a BIDS derivative; no file is read or written here.

Source: BIDS specification 1.10, sections "BIDS Derivatives", "Common data types and metadata" and "Imaging data types"
(preprocessed data, masks).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from intake.bids.read import ANATOMICAL
from preprocessing.normalise import PUBLISHED

BIDS_VERSION = "1.10.0"
PIPELINE = "hypermm-pipeline"


class Derivatives(NamedTuple):
    """The files of the data set, by path relative to its top folder, with `/`."""

    copies: dict[str, Path]
    """Target → file to copy."""
    texts: dict[str, str]
    """Target → content, UTF-8."""


class _Names(NamedTuple):
    volume: str
    mask: str


def bids_derivatives(
    scans: pd.DataFrame,
    *,
    volumes: Mapping[str, Path],
    masks: Mapping[str, Path],
    spacing_mm: float,
    version: str,
    kinds: Mapping[str, str] | None = None,
) -> Derivatives:
    """Lay out preprocessed scans as `sub-01/ses-01/anat/sub-01_ses-01_desc-preproc_T1w.nii.gz` and so on.

    Several scans of a modality in an observation are numbered (`run-1`, `run-2`) in the order of the table. The mask of
    T1w and of PET is called `…_desc-brain_mask`; those of T2w and FLAIR, which lie beside it in `anat` and have voxels
    of their own, `…_space-T2w_desc-brain_mask`. Subjects and sessions lose what BIDS does not allow in labels (all but
    letters and digits), and get a hash appended where two would become one.

    BIDS has no rules for derivatives of PET yet (they are proposal BEP023). The names here follow those for MRI, and
    `.bidsignore` keeps validators from calling them wrong.

    Args:
        scans: as from `cohort.manifest.check_manifest`; if there are columns `skull_strip` ("True" or "False") and
            `normalise`, the sidecars follow them, otherwise all are taken for stripped and normalised as published.
        volumes: scan → preprocessed volume, .nii.gz. Scans that are not in it (failed, or pictures) are left out.
        masks: scan → brain mask of it; may lack some.
        spacing_mm: voxel size that everything was resampled to.
        version: of the pipeline, for GeneratedBy.
        kinds: modality → its name in BIDS: T1w, T2w, FLAIR, PET, or PET with its tracer such as FDG-PET. Needed for
            modalities that are called otherwise, such as {"MRI": "T1w"}.

    Raises:
        ValueError: a modality is nothing that BIDS has a name for, or there is not one volume.
    """
    rows = scans[scans["scan"].isin(list(volumes))]
    if rows.empty:
        raise ValueError("there is not one preprocessed volume; run the stage preprocess first")
    names = _names(rows, kinds or {})
    stripped = rows["skull_strip"].eq("True") if "skull_strip" in rows else pd.Series(True, index=rows.index)
    copies: dict[str, Path] = {}
    texts = {"dataset_description.json": _json(dataset_description(version)), "README": README}
    ways = rows["normalise"] if "normalise" in rows else pd.Series(PUBLISHED, index=rows.index)
    for scan, is_stripped, normalise in zip(rows["scan"], stripped, ways, strict=True):
        volume, mask = names[scan]
        copies[volume] = volumes[scan]
        sidecar = volume_sidecar(spacing_mm=spacing_mm, skull_stripped=bool(is_stripped), normalise=normalise)
        texts[_sidecar(volume)] = _json(sidecar)
        if scan in masks:
            copies[mask] = masks[scan]
            texts[_sidecar(mask)] = _json(mask_sidecar(volume))
    if any("/pet/" in path for path in copies):
        texts[".bidsignore"] = "pet/\n"
    return Derivatives(copies, texts)


def dataset_description(version: str) -> dict[str, object]:
    """Make the content of dataset_description.json."""
    return {
        "Name": "Scans preprocessed by HyperMM pipeline",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [
            {
                "Name": PIPELINE,
                "Version": version,
                "Description": "HD-BET brain extraction, bicubic resampling, normalisation in the brain",
            }
        ],
    }


def volume_sidecar(*, spacing_mm: float, skull_stripped: bool, normalise: str = PUBLISHED) -> dict[str, object]:
    """Make the sidecar of a preprocessed volume; it does not depend on the patient."""
    scaled = "standardised and scaled to [0, 1]" if normalise == PUBLISHED else f"scaled to [0, 1] by {normalise}"
    return {
        "Description": f"Resampled to {spacing_mm:g} mm, {scaled} inside the brain, 0 outside",
        "SkullStripped": skull_stripped,
        "SpatialReference": "orig",
    }


def mask_sidecar(volume: str) -> dict[str, object]:
    """Make the sidecar of a mask.

    Args:
        volume: path of the preprocessed volume that it belongs to, relative to the data set.
    """
    return {"Type": "Brain", "Sources": [f"bids::{volume}"], "SpatialReference": f"bids::{volume}"}


README = """Volumes preprocessed by HyperMM pipeline, as a BIDS derivative.

desc-preproc: one scan, in its own space, resampled to one voxel size, scaled to [0, 1] in the brain as its
.json says.
desc-brain_mask: the voxels that count as brain.
"""


def _names(rows: pd.DataFrame, kinds: Mapping[str, str]) -> dict[str, _Names]:
    """Map each scan to its two paths; each path occurs once."""
    modality = {name: _kind(kinds.get(name, name)) for name in rows["modality"].unique()}
    subjects, sessions = _labels(rows["subject"], "sub-"), _labels(rows["session"], "ses-")
    what = rows.assign(
        subject=rows["subject"].map(subjects),
        session=rows["session"].map(sessions),
        kind=[modality[name][0] for name in rows["modality"]],
        suffix=[modality[name][1] for name in rows["modality"]],
        tracer=[modality[name][2] for name in rows["modality"]],
    )
    alike = ["subject", "session", "suffix", "tracer"]
    several = what.groupby(alike)["scan"].transform("size") > 1
    number = what.groupby(alike).cumcount() + 1
    names = {}
    for row, is_one_of_several, run in zip(what.to_dict("records"), several, number, strict=True):
        entities = [f"sub-{row['subject']}"] + [f"ses-{row['session']}"] * bool(row["session"])
        folder = "/".join([*entities, row["kind"]])
        entities += [f"trc-{row['tracer']}"] * bool(row["tracer"]) + [f"run-{run}"] * bool(is_one_of_several)
        start = f"{folder}/{'_'.join(entities)}"
        space = f"_space-{row['suffix']}" if row["suffix"] in ANATOMICAL[1:] else ""
        names[row["scan"]] = _Names(
            f"{start}_desc-preproc_{row['suffix']}.nii.gz", f"{start}{space}_desc-brain_mask.nii.gz"
        )
    return names


def _kind(name: str) -> tuple[str, str, str]:
    """Return folder, suffix and tracer of a modality."""
    if name in ANATOMICAL:
        return "anat", name, ""
    if name.endswith("PET"):
        return "pet", "pet", re.sub("[^A-Za-z0-9]", "", name.removesuffix("PET"))
    known = ", ".join((*ANATOMICAL, "PET", "FDG-PET"))
    raise ValueError(
        f"modality {name!r} has no name in BIDS; say which of {known} it is, e.g. kinds={{{name!r}: 'T1w'}}"
    )


def _labels(values: Iterable[str], prefix: str) -> dict[str, str]:
    """Map each value to a label without prefix, of letters and digits only; unique even where case is ignored."""
    names = dict.fromkeys(values)
    plain = {name: re.sub("[^A-Za-z0-9]", "", name.removeprefix(prefix)) for name in names}
    folded = [label.lower() for label in plain.values()]
    return {
        name: label + hashlib.sha256(name.encode()).hexdigest()[:8]
        if name and (not label or folded.count(label.lower()) > 1)
        else label
        for name, label in plain.items()
    }


def _sidecar(path: str) -> str:
    return path.removesuffix(".nii.gz") + ".json"


def _json(content: Mapping[str, object]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
