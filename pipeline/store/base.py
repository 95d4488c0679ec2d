"""Base of all artifacts: a folder, a manifest with the hash of every file, and atomic writes.

Files are written under a temporary name and moved with `os.replace`, so that unfinished files are never visible. Tables
of the workspace are validated when they are read: they may be damaged, or come from someone else.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from files.reading import UnusableFileError, file_sha256, parse_json, read_bytes
from files.tables import write_table
from files.writing import PlantedLinkError, replacing
from pipeline.core.provenance import digest

OWN_HASH = "hash of the above"
SAFE_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,199}")  # as `cohort.manifest` makes scan ids
MANIFEST = {
    "key": str, "fingerprint": str, "made_from": dict, "files": dict, "counts": dict, "notes": list, "failures": list,
    "scans": dict,
}  # fmt: skip
MADE_FROM = {"version": int, "settings": dict, "other_settings": dict, "inputs": dict}


class ArtifactError(RuntimeError):
    """A file in the workspace is not what the pipeline wrote."""


class DamagedError(ArtifactError):
    """A file is not as it was written. The result that it belongs to counts as unfinished and can be made again."""


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON, replacing `path` atomically; NaN becomes null."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(_without_nan(value), indent=1, ensure_ascii=False, default=str) + "\n", "utf-8")


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    if isinstance(value, float):
        return value if value == value else None
    return value


def write_record(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON mapping with its own hash, so that `read_record` can check that it is complete."""
    plain = json.loads(json.dumps(_without_nan(value), default=str))
    write_json(path, {**plain, OWN_HASH: digest(plain)})


def read_record(path: Path) -> dict[str, Any] | None:
    """Return what `write_record` wrote; None if the file is missing or damaged."""
    record = read_json(path) or {}
    own_hash = record.pop(OWN_HASH, None)
    return record if own_hash == digest(record) else None


def read_json(path: Path, kind: type = dict) -> Any:
    """Return the content of a JSON file.

    Args:
        path: of the file.
        kind: expected type of the value, dict or list.

    Returns:
        The value; None if the file is missing or truncated, or holds a value of another type.
    """
    try:
        value = parse_json(read_bytes(path))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, UnusableFileError):
        return None
    return value if isinstance(value, kind) else None


class Artifact:
    """A folder of the workspace that one stage writes.

    Args:
        folder: of the stage; created by the first write.
    """

    FILES: ClassVar[tuple[str, ...]] = ()  # required files

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def manifest(self) -> dict[str, Any] | None:
        """The stage's `manifest.json`; None while the stage is not finished."""
        manifest = read_record(self.folder / "manifest.json")
        return manifest if manifest is not None and _is_manifest(manifest) else None

    @property
    def fingerprint(self) -> str:
        """Hash of the content, for the keys of the stages that read it; "" while not finished."""
        return (self.manifest or {}).get("fingerprint", "")

    def contents(self) -> dict[str, Any]:
        """Return the entries for the manifest; `fingerprint` decides whether dependent stages are out of date."""
        return {}

    def files(self) -> list[Path]:
        """List the files of the finished stage, without those of single scans."""
        own = (p for p in self.folder.iterdir() if not p.name.startswith(".") and p.is_file())
        return sorted(path for path in own if path.name != "manifest.json" and ".before." not in path.name)

    def hashes(self) -> dict[str, str]:
        """Return path below the folder → SHA-256 of `files`, for the manifest."""
        return {path.relative_to(self.folder).as_posix(): file_sha256(path) for path in self.files()}

    def integrity_error(self) -> str:
        """Describe how the folder differs from its manifest, or return ""; hashes of files are compared."""
        recorded = (self.manifest or {}).get("files", {})
        missing = [name for name in dict.fromkeys((*self.FILES, *recorded)) if not (self.folder / name).exists()]
        if missing:
            return f"{', '.join(missing)} is missing"
        now = self.hashes() if recorded else {}
        changed = [name for name, content in recorded.items() if now.get(name) != content]
        return f"{', '.join(changed)} is damaged: not as it was written" if changed else ""

    def invalidate_all(self) -> None:
        """Mark all results as unfinished (--force)."""
        if self.folder.is_symlink():
            raise PlantedLinkError(self.folder)
        (self.folder / "manifest.json").unlink(missing_ok=True)
        for folder in self.folder.iterdir() if self.folder.is_dir() else ():
            if folder.is_dir() and not folder.is_symlink():
                for name in ("record.json", "failure.json"):
                    (folder / name).unlink(missing_ok=True)

    def table(self, name: str, columns: tuple[str, ...]) -> pd.DataFrame:
        """Read a CSV of text columns.

        Raises:
            ArtifactError: the file cannot be read, or columns are missing.
        """
        path = self.folder / name
        try:
            frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        except (OSError, ValueError) as error:
            raise ArtifactError(f"cannot read {path}: {error}; rerun with --force {self.folder.name}") from error
        missing = [c for c in columns if c not in frame.columns]
        if missing:
            raise ArtifactError(f"{path} has no column {missing}; rerun with --force {self.folder.name}")
        return frame

    def save_table(self, name: str, frame: pd.DataFrame, columns: tuple[str, ...] = ()) -> None:
        """Write a CSV atomically.

        Raises:
            ArtifactError: a required column is missing.
        """
        missing = [c for c in columns if c not in frame.columns]
        if missing:
            raise ArtifactError(f"{name} would lack the columns {missing}")
        write_table(self.folder / name, frame)


def made_from_inputs(artifact: Artifact, now: Mapping[str, str]) -> bool:
    """Return whether a stage is finished and was made from what the others are now (name of a stage → fingerprint)."""
    inputs = ((artifact.manifest or {}).get("made_from") or {}).get("inputs")
    return inputs is not None and all(now.get(name) == seen for name, seen in inputs.items())


def made_from_known(artifact: Artifact, now: Mapping[str, str]) -> bool:
    """Return whether a stage is finished and was made from what these stages are now, whatever else it read."""
    inputs = ((artifact.manifest or {}).get("made_from") or {}).get("inputs")
    return inputs is not None and all(now.get(name, seen) == seen for name, seen in inputs.items())


def safe_id(name: str) -> str:
    """Return the name if it is safe as the name of a folder in an artifact.

    Raises:
        ArtifactError: the name has other characters than letters, digits, hyphens and underscores.
    """
    if not isinstance(name, str) or not SAFE_ID.fullmatch(name):
        raise ArtifactError(
            f"{name!r} is no id of a scan: letters, digits, - and _ only. The workspace is damaged, or somebody has "
            "put this into one of its tables; do not trust it"
        )
    return name


def _is_manifest(value: Mapping[str, Any]) -> bool:
    """Return whether the entries have the expected types; a manifest with other types counts as not finished."""
    made_from = value.get("made_from", {})
    return (
        all(isinstance(value[name], kind) for name, kind in MANIFEST.items() if name in value)
        and all(isinstance(made_from[name], kind) for name, kind in MADE_FROM.items() if name in made_from)
        and all(isinstance(each, dict) and isinstance(each.get("scan"), str) for each in value.get("failures", ()))
        and all(isinstance(content, str) for content in value.get("scans", {}).values())
    )
