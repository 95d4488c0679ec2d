"""How much room a run needs on the disk, how much is left to write and is free; which folders can hold a run."""

import os
import shutil
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from cohort.manifest import ManifestError, read_table
from console.errors import InputError
from demo import load_generator
from models.weights import PUBLISHED
from pipeline.settings import Settings

# Measured on phantom heads with brains of up to 1,700 ml at 1.0, 1.5 and 3.0 mm: the largest of 12, rounded up.
VOLUME_BYTES_MM3 = 6.2e6  # volume.nii.gz times mm³: 6.2 MB at 1 mm, 1.8 MB at 1.5 mm
MASK_BYTES_MM2 = 0.12e6  # mask.nii.gz times mm²: a surface
BRAIN_HEIGHT_MM = 165  # how many slices a brain has
PNG_OF_JPEG = 9.3  # times the JPEG that it was made from: drawn biopsies of 512 pixels, quality 90
QC_BYTES = 0.26e6  # qc.png of a 1 mm scan: 0.11 MB at 1.5 mm, by the number of pixels
PATIENT_BYTES = 20e3  # page without its pictures, 13.0 to 14.7 kB of 18 patients; 1.4 kB in JSON, CSV and list
EMBEDDED = 4 / 3  # times a picture's own size: base64
MAP_OF_VOLUME = 1.1  # decision map times volume.nii.gz: 1.06 to 1.10 of 4 scans at 1.5 mm
# Not measured: assumed.
UNKNOWN_PICTURE_BYTES = 1.0e6
FILE_OVERHEAD_BYTES = 4096  # a file takes whole feature maps of the disk
VGG_BLOCK, LARGEST_FEATURE_MAP = (512, 7, 7), (2048, 7, 7)  # (C, H, W); the second for timm's networks
MARGIN = 1.2  # on everything
SAMPLED = 32  # finished scans whose size stands for all
PROGRAM = Path(__file__).resolve().parents[2]
SIGNS_OF_A_RUN = ("settings.yaml", ".lock")  # in every workspace from the first run on
LONGEST_INSIDE = 255  # characters of the longest path that the pipeline makes inside a workspace
WITH_A_MODEL = ("cohort", "preprocess", "features", "predict")  # the stages that answers need


@dataclass(frozen=True)
class Scans:
    """What a cohort consists of.

    Attributes:
        volumes: number of 3-D scans.
        pictures: number of 2-D pictures.
        picture_bytes: of all pictures as PNG, together.
        source: where these numbers are from, in words.
    """

    volumes: int
    pictures: int
    picture_bytes: float
    source: str

    @property
    def total(self) -> int:
        """Number of all scans."""
        return self.volumes + self.pictures


def count_scans(config: Settings) -> Scans:
    """The scans of the configured cohort; of 100 scans where no manifest is given.

    Raises:
        ManifestError: the manifest cannot be read, or lacks a column.
        OSError: its folder cannot be read.
    """
    manifest = config.cohort.manifest
    if isinstance(manifest, str):
        generator = load_generator(manifest)
        names = list(generator.manifest(generator.config(**config.demo))["modality"])
        images = [name for name, modality in config.cohort.modalities.items() if modality.kind == "image"]
        pictures = sum(name in images for name in names)
        source = f"{len(names)} scans of the demo cohort {manifest}"
        return Scans(len(names) - pictures, pictures, pictures * UNKNOWN_PICTURE_BYTES, source)
    if not isinstance(manifest, Path):
        if all(modality.kind == "image" for modality in config.cohort.modalities.values()):
            return Scans(0, 100, 100 * UNKNOWN_PICTURE_BYTES, "no --cohort is given: for each 100 pictures")
        return Scans(100, 0, 0.0, "no --cohort is given: for each 100 scans")
    if config.cohort.layout == "breakhis":
        paths = sorted(manifest.rglob("*.png"))
        return Scans(0, len(paths), sum(_as_png(path) for path in paths), f"{len(paths)} pictures in {manifest}")
    return _count_rows(config, manifest)


def _count_rows(config: Settings, manifest: Path) -> Scans:
    table = read_table(manifest)
    if missing := [name for name in ("modality", "path") if name not in table]:
        raise ManifestError(f"column {missing[0]!r} is missing")
    if config.cohort.limit is not None and "subject" in table:
        table = table[table["subject"].isin(table["subject"].drop_duplicates()[: config.cohort.limit])]
    kinds = {name: modality.kind for name, modality in config.cohort.modalities.items()}
    names = (unicodedata.normalize("NFC", name.strip()) for name in table["modality"])
    rows = list(zip(names, table["path"], strict=True))
    if config.cohort.label is None:  # others are left out; in training they are mistakes that will be mended
        rows = [(name, path) for name, path in rows if name in kinds]
    pictures = [manifest.parent / path for name, path in rows if kinds.get(name) == "image"]
    source = f"{len(rows)} scans in {manifest.name}"
    return Scans(len(rows) - len(pictures), len(pictures), sum(_as_png(path) for path in pictures), source)


def _as_png(path: Path) -> float:
    try:
        size = path.stat().st_size
    except OSError:
        return UNKNOWN_PICTURE_BYTES
    return size * (PNG_OF_JPEG if path.suffix.lower() in (".jpg", ".jpeg") else 1)


def estimate(config: Settings, scans: Scans) -> dict[str, float]:
    """Bytes that each stage will have written when all is done; `predict` only where a model is given.

    `baselines` is not among them, nor stages that write tables only. Temporary files count with the stage that makes
    them.
    """
    spacing_mm, kept = config.preprocess.spacing_mm, config.features
    voxels = VOLUME_BYTES_MM3 / spacing_mm**3
    volume = voxels + MASK_BYTES_MM2 / spacing_mm**2 + QC_BYTES + 5 * FILE_OVERHEAD_BYTES
    pictures = scans.picture_bytes + scans.pictures * 3 * FILE_OVERHEAD_BYTES
    channels, height, width = VGG_BLOCK if kept.backbone in PUBLISHED else LARGEST_FEATURE_MAP
    feature_map = 4 * channels * height * width
    slices = BRAIN_HEIGHT_MM / max(kept.slice_spacing_mm or spacing_mm, spacing_mm) if kept.keep_slices else 0
    feature_maps = scans.volumes * feature_map * (1 + slices) + scans.pictures * feature_map * (
        2 if kept.keep_slices else 1
    )
    once = scans.total * feature_map  # without slices: what training goes through
    extractor = 4 * (config.pretrain.hidden + 1) * channels * (channels + 1)
    widths = (channels * height * width, *config.classify.hidden)
    classifier = 4 * sum(a * b for a, b in zip(widths, (*widths[1:], 2), strict=True))
    parts = {
        "preprocess": scans.volumes * volume + pictures,
        "features": feature_maps + scans.total * 3 * FILE_OVERHEAD_BYTES,
        "pretrain": config.split.repeats * extractor + _beyond(once, config.pretrain.memory_mb),
        "classify": config.split.repeats * classifier + _beyond(once, config.classify.memory_mb),
    }
    if config.predict.model is not None:
        pages = EMBEDDED * (scans.volumes * QC_BYTES + scans.picture_bytes)
        maps = scans.volumes * (MAP_OF_VOLUME * voxels + FILE_OVERHEAD_BYTES) if config.predict.maps else 0.0
        parts["predict"] = pages + maps + scans.total * (PATIENT_BYTES + FILE_OVERHEAD_BYTES)  # a patient has one scan
    return {stage: MARGIN * size for stage, size in parts.items()}


def _beyond(size: float, memory_mb: int) -> float:
    """What does not fit into the memory allowed lies in a temporary file, whole."""
    return size if size > 1e6 * memory_mb else 0.0


def bytes_left(config: Settings, workspace: Path, stages: Collection[str]) -> float:
    """Bytes that these stages have still to write: the estimate less what they have written.

    Raises:
        ManifestError: the manifest cannot be read.
        OSError: the workspace or the folder of the cohort cannot be read.
    """
    whole = estimate(config, count_scans(config))
    return sum(max(0.0, size - bytes_there(workspace / stage)) for stage, size in whole.items() if stage in stages)


def bytes_there(folder: Path) -> float:
    """About how much a stage has written: its folders counted, and some of them measured."""
    if not os.path.isdir(folder):  # unlike Path's, it takes a name that is too long for one that is not there
        return 0.0
    inside = sorted(entry.path for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))
    sample = inside[:: max(1, len(inside) // SAMPLED)]
    sizes = [sum(f.stat().st_size + FILE_OVERHEAD_BYTES for f in os.scandir(p) if f.is_file()) for p in sample]
    return len(inside) * sum(sizes) / len(sizes) if sizes else 0.0


def nearest_folder(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if os.path.isdir(place))


def free_bytes(path: Path) -> int:
    """Bytes that may still be written where `path` is or will be."""
    return shutil.disk_usage(nearest_folder(path)).free


def shortage(config: Settings, workspace: Path, stages: Collection[str]) -> str:
    """What to say before a run for which the disk is too small; "" if it is large enough, or nobody can tell."""
    try:
        needed, free = bytes_left(config, workspace, stages), free_bytes(workspace)
    except (OSError, ValueError):  # the stage that reads the manifest says what is wrong with it
        return ""
    if needed <= free:
        return ""
    return (
        f"the disk may become full: about {words(needed)} are still to be written, {words(free)} are free in "
        f"{nearest_folder(workspace)}. What is finished is kept; free some space, or name another --workspace"
    )


def when_full(config: Settings, workspace: Path, stages: Collection[str]) -> str:
    """How much is needed and how much is free, for the message of a run that the disk was too small for."""
    try:
        needed, free = bytes_left(config, workspace, stages), free_bytes(workspace)
    except (OSError, ValueError):
        return "how much is needed cannot be said, since the manifest or the workspace cannot be read"
    hint = "" if needed > free else ", so a quota or a limit on file sizes may be what is exceeded"
    return f"about {words(needed)} are still to be written, {words(free)} are free in {workspace}{hint}"


def words(size: float) -> str:
    """Bytes in words: 950 MB, 1.2 GB."""
    return f"{size / 1e9:,.1f} GB" if size >= 0.95e9 else f"{max(1, round(size / 1e6))} MB"


def check_path(workspace: Path) -> None:
    """Refuse a workspace whose path the file system cannot hold.

    Raises:
        InputError: a name in it, or all of it with what goes inside, is too long; says by how much.
    """
    place = nearest_folder(workspace)
    longest_name, longest_path = os.pathconf(place, "PC_NAME_MAX"), os.pathconf(place, "PC_PATH_MAX")
    for name in workspace.absolute().parts:
        if (size := len(os.fsencode(name))) > longest_name:
            raise InputError(
                f"--workspace: the name {name[:40]}… has {size} bytes, and {place} takes names of at most "
                f"{longest_name}; accents count double. Name a shorter one"
            )
    if (size := len(os.fsencode(workspace.absolute())) + LONGEST_INSIDE) > longest_path:
        raise InputError(
            f"--workspace: its path has {size - LONGEST_INSIDE} bytes; at most {longest_path - LONGEST_INSIDE} are "
            f"possible below {place}. Name a shorter one"
        )


def check_place(workspace: Path, *, stages: Collection[str]) -> None:
    """Refuse a folder in which a run would mix with other things, or take them for its own and delete them.

    Args:
        workspace: absolute, links followed.
        stages: names of all stages, which are those of folders in a workspace.

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
