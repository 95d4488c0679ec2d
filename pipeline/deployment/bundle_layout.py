"""The files of an exported model, and how they are read; all of them may come from an untrusted source.

Only regular files are read, none larger than its limit, none outside of the folder; the bytes read are those hashed.
"""

import hashlib
import os
import re
import reprlib
from pathlib import Path
from typing import Any

from console.errors import InputError
from files.reading import UnusableFileError, parse_json, read_bytes

SCHEMA = "hypermm-bundle/2"
METADATA, INFERENCE, SETTINGS = "configs/metadata.json", "configs/inference.json", "configs/settings.yaml"
MODEL, WEIGHTS, ONNX, CARD = "configs/model.json", "models/model.safetensors", "models/model.onnx", "docs/README.md"
CALIBRATION, OUTLIERS, SEEN, CHECKSUMS = "calibration.json", "outliers.safetensors", "seen.json", "checksums.json"
SIGNATURE = "checksums.json.sig"
JOINT, JOINT_WEIGHTS = "joint.json", "models/joint.safetensors"  # both or none
NEEDED = (METADATA, INFERENCE, SETTINGS, MODEL, WEIGHTS, CARD, CALIBRATION, OUTLIERS, SEEN)
OPTIONAL = (ONNX, JOINT, JOINT_WEIGHTS)
ROLES = ("train", "validation", "calibration")  # of subjects that a model knows, the strictest first
MOST_TEXT = 4_000_000  # bytes of a config or the card
MOST = {CALIBRATION: 32_000_000, SEEN: 64_000_000, OUTLIERS: 2 << 30, WEIGHTS: 2 << 30, ONNX: 2 << 30}  # of the others
MOST |= {JOINT: 32_000_000, JOINT_WEIGHTS: 2 << 30}
ALL_LISTED = ("configs", "models")  # folders in which MONAI runs what it finds, such as configs/logging.conf
AGAIN = "The model is damaged, was changed, or is of another version: copy or export it again"


class BundleError(InputError):
    """The folder is no exported model, or not as it was exported."""


def shown(value: Any) -> str:
    """Format an untrusted value as a short text without terminal control characters."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 80
    return short.repr(value)


def listed(folder: Path) -> bytes:
    """Read checksums.json.

    Raises:
        BundleError: the file is missing.
    """
    if not os.path.lexists(folder / CHECKSUMS):
        raise BundleError(f"{folder} is no exported model: it has no {CHECKSUMS}. --stages export makes one")
    return read(folder, CHECKSUMS)


def checked(folder: Path, content: bytes) -> dict[str, str]:
    """Return file → SHA-256, after comparing the hashes with the files.

    Args:
        folder: of the model, resolved.
        content: of its checksums.json.

    Raises:
        BundleError: a file is missing or differs, or an unlisted file exists.
    """
    path = folder / CHECKSUMS
    sums = parsed(path, content)
    if not isinstance(sums, dict):
        raise BundleError(f"{path} is {shown(sums)}; expected a SHA-256 for every file. {AGAIN}")
    if missing := [name for name in NEEDED if name not in sums]:
        raise BundleError(f"{path} does not name {', '.join(missing)}; copy or export the model again")
    for name, expected in sums.items():
        if name not in (*NEEDED, *OPTIONAL):
            raise BundleError(f"{path} names {shown(name)}, which is no file of an exported model; do not trust it")
        if not (isinstance(expected, str) and re.fullmatch("[0-9a-f]{64}", expected)):
            raise BundleError(f"{path}: {name} is {shown(expected)}; expected a SHA-256. {AGAIN}")
        verified(folder, name, sums)
    if (JOINT in sums) != (JOINT_WEIGHTS in sums):
        raise BundleError(f"{path} names only one of {JOINT} and {JOINT_WEIGHTS}. {AGAIN}")
    for subfolder in ALL_LISTED:
        for name in sorted(os.listdir(folder / subfolder)):
            if f"{subfolder}/{name}" not in sums and not name.startswith("."):
                raise BundleError(
                    f"{folder / subfolder} holds {shown(name)}, which does not belong to the model ({CHECKSUMS} does "
                    "not name it); MONAI might run it. Remove it, and ask whoever gave you the model"
                )
    return sums


def verified(folder: Path, name: str, sums: dict[str, str]) -> bytes:
    """Read a file of the model and check its SHA-256.

    Raises:
        BundleError: it cannot be read, or has another hash.
    """
    content, path = read(folder, name), folder / name
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != sums[name]:
        raise BundleError(
            f"{path} is not as it was exported: its SHA-256 is {sha256}, expected {sums[name]}. Copy or export the "
            "model again; do not edit its files. If the model was replaced meanwhile, start again"
        )
    return content


def read(folder: Path, name: str) -> bytes:
    """Read a file of the model.

    Args:
        folder: of the model, resolved.
        name: as in checksums.json.

    Raises:
        BundleError: it is a link that leads elsewhere, no regular file, larger than a model's can be, or unreadable.
    """
    path = folder / name
    if not Path(os.path.realpath(path)).is_relative_to(folder):
        raise BundleError(f"{path} is a link that leads outside of the model; do not trust it")
    try:
        return read_bytes(path, most=MOST.get(name, MOST_TEXT))
    except OSError as error:
        raise BundleError(
            f"{path} of the exported model cannot be read ({error.strerror}); copy or export the model again"
        ) from error
    except UnusableFileError as error:
        raise BundleError(f"{error}. {AGAIN}") from error


def parsed(path: Path, content: bytes) -> Any:
    """Parse the content of a JSON file.

    Raises:
        BundleError: it is no JSON.
    """
    try:
        return parse_json(content)
    except UnusableFileError as error:
        raise BundleError(f"{path}: {error}. {AGAIN}") from error
