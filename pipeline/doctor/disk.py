"""Disk space that a run needs, and checks of the workspace folder."""

import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from cohort.tables import ManifestError, read_rows
from console.errors import InputError
from demo import load_generator
from intake.breakhis import files_in, is_picture
from models.weights import PUBLISHED
from pipeline.settings import Settings

BRAIN_MM3, BRAIN_HEIGHT_MM = 1.7e6, 165  # of a large one; the empty voxels around it pack to nothing
PICTURE_BYTES = 1e6  # of a picture that cannot be read
MOST_CHANNELS = 2048  # of a feature map of timm's networks
MARGIN = 1.5  # for masks, QC pictures, tables and patient pages too
PROGRAM = Path(__file__).resolve().parents[2]
SIGNS_OF_A_RUN = ("settings.yaml", ".lock")  # in every workspace from the first run on
LONGEST_INSIDE = 255  # characters of the longest path that the pipeline makes inside a workspace


class Scans(NamedTuple):
    """Number of scans of a cohort, bytes of its pictures as PNG, and the source of these numbers."""

    volumes: int
    pictures: int
    picture_bytes: float
    source: str


def count_scans(config: Settings) -> Scans:
    """Count the scans of the configured cohort; 100 where no manifest is given.

    Raises:
        ManifestError: The manifest cannot be read, or lacks a column.
        OSError: Its folder cannot be read.
    """
    manifest = config.cohort.manifest
    kinds: dict[str, str] = {name: each.kind for name, each in config.cohort.modalities.items()}
    if isinstance(manifest, str):
        generator = load_generator(manifest)
        names = list(generator.manifest(generator.config(**config.demo))["modality"])
        pictures = sum(kinds.get(name) == "image" for name in names)
        source = f"{len(names)} scans of the demo cohort {manifest}"
        return Scans(len(names) - pictures, pictures, pictures * PICTURE_BYTES, source)
    if not isinstance(manifest, Path):
        volumes = 100 * ("volume" in kinds.values())
        return Scans(
            volumes, 100 - volumes, PICTURE_BYTES * (100 - volumes), "no --cohort is given: for each 100 scans"
        )
    if config.cohort.layout == "breakhis":
        kinds, rows = {"": "image"}, [("", manifest / path) for path in files_in(manifest) if is_picture(path)]
    else:
        table, _ = read_rows(manifest)
        if set(kinds.values()) == {"table"}:
            return Scans(0, 0, 0, f"{manifest.name} has tables only")
        if not {"subject", "modality", "path"} <= set(table):
            raise ManifestError("column 'subject', 'modality' or 'path' is missing")
        table = table[table["subject"].isin(table["subject"].drop_duplicates()[: config.cohort.limit])]
        names = table["modality"].str.normalize("NFC")
        rows = [(name, manifest.parent / path) for name, path in zip(names, table["path"], strict=True)]
    sizes = [_png_bytes(path) for name, path in rows if kinds.get(name) == "image"]
    volumes = sum(kinds.get(name) == "volume" for name, _ in rows)
    return Scans(volumes, len(sizes), sum(sizes), f"{volumes + len(sizes)} scans in {manifest.name}")


def _png_bytes(path: Path) -> float:
    try:
        return path.stat().st_size * (10 if path.suffix.lower() in (".jpg", ".jpeg") else 1)
    except OSError:
        return PICTURE_BYTES


def bytes_needed(config: Settings, scans: Scans, workspace: Path, stages: Collection[str]) -> float:
    """Return about how many bytes these stages have still to write; `baselines` and tables are not counted."""
    features = config.features
    number, repeats, spacing_mm = scans.volumes + scans.pictures, config.split.repeats, config.preprocess.spacing_mm
    images = scans.volumes * 4 * BRAIN_MM3 / spacing_mm**3 + scans.picture_bytes
    channels = PUBLISHED[features.backbone].channels if features.backbone in PUBLISHED else MOST_CHANNELS
    feature_map = 4 * channels * 7 * 7
    slices = scans.volumes * BRAIN_HEIGHT_MM / max(features.slice_spacing_mm or 0, spacing_mm) + scans.pictures
    sizes = {  # stage → how many results it has, bytes of all
        "preprocess": (number, images),
        "features": (number, feature_map * (number + slices * features.keep_slices)),
        "pretrain": (repeats, repeats * 4 * config.pretrain.hidden * channels**2),
        "classify": (repeats, repeats * feature_map * (*config.classify.hidden, 2)[0]),
        "predict": (number, images),  # pages that hold the pictures, and maps as large as the volumes
    }
    left = {stage: size * _share_left(workspace / stage, results) for stage, (results, size) in sizes.items()}
    return MARGIN * sum(size for stage, size in left.items() if stage in stages)


def _share_left(folder: Path, results: int) -> float:
    """Return the share of results that is not in a stage's folder yet; patients' pages are one level deeper."""
    folder = folder / "patients" if folder.name == "predict" else folder
    return max(0.0, 1 - len(os.listdir(folder)) / max(1, results)) if os.path.isdir(folder) else 1.0


def nearest_folder(path: Path) -> Path:
    """Return the path itself, or the nearest folder above it that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if os.path.isdir(folder))


def free_bytes(path: Path) -> int:
    """Return how many bytes may still be written where `path` is or will be."""
    return shutil.disk_usage(nearest_folder(path)).free


def check_room(config: Settings, workspace: Path, stages: Collection[str]) -> tuple[bool | None, str]:
    """Compare what these stages have still to write with what is free.

    Returns:
        Whether it fits, None if unknown; and a description of the needed and the free space.
    """
    free = free_bytes(workspace)
    where = f"{readable_size(free)} are free in {nearest_folder(workspace)}"
    try:
        scans = count_scans(config)
        needed = bytes_needed(config, scans, workspace, stages)
    except (OSError, ValueError):  # the stage that reads the manifest reports the error
        return None, f"{where}; the needed space is unknown without the manifest and the workspace"
    return needed <= free, f"about {readable_size(needed)} are still to be written ({scans.source}), {where}"


def readable_size(size: float) -> str:
    """Format a number of bytes: 950 MB, 1.2 GB."""
    return f"{size / 1e9:,.1f} GB" if size >= 0.95e9 else f"{max(1, round(size / 1e6))} MB"


def check_path(workspace: Path) -> None:
    """Refuse a workspace whose path the file system cannot hold.

    Raises:
        InputError: a name in it, or all of it with what goes inside, is too long.
    """
    folder = nearest_folder(workspace)
    longest_name, longest_path = os.pathconf(folder, "PC_NAME_MAX"), os.pathconf(folder, "PC_PATH_MAX")
    for name in workspace.absolute().parts:
        if (size := len(os.fsencode(name))) > longest_name:
            raise InputError(
                f"--workspace: the name {name[:40]}… has {size} bytes, and {folder} takes names of at most "
                f"{longest_name}; accents count double. Name a shorter one"
            )
    if (size := len(os.fsencode(workspace.absolute())) + LONGEST_INSIDE) > longest_path:
        raise InputError(
            f"--workspace: its path has {size - LONGEST_INSIDE} bytes; at most {longest_path - LONGEST_INSIDE} are "
            f"possible below {folder}. Name a shorter one"
        )


def check_folder(workspace: Path, *, stages: Collection[str]) -> None:
    """Refuse a folder in which a run could overwrite or delete other files.

    Args:
        workspace: absolute, links followed.
        stages: names of all stages, which are also the folders in a workspace.

    Raises:
        InputError: it is the checkout or above it, the home folder, or holds a stage's folder and is no workspace.
    """
    another = "a run writes and deletes in its workspace. Name a folder of its own, such as runs/NAME"
    if PROGRAM.is_relative_to(workspace):
        raise InputError(f"the workspace {workspace} would be the folder of this program, or one above it; {another}")
    if workspace == Path(os.path.realpath(os.path.expanduser("~"))):
        raise InputError(f"the workspace {workspace} would be your home folder; {another}")
    if any(os.path.lexists(workspace / name) for name in SIGNS_OF_A_RUN):
        return
    if taken := [name for name in stages if os.path.lexists(workspace / name)]:
        raise InputError(
            f"{workspace} has {taken[0]} in it, but no {SIGNS_OF_A_RUN[0]}, so it may be something else; {another}"
        )
