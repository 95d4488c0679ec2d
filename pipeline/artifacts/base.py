"""What every artifact has: a folder, a manifest, and files that appear whole or not at all.

Files are written beside their place and moved in with `os.replace`; what is not finished is not seen.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from files.writing import replacing, write_table

if TYPE_CHECKING:
    import pandas as pd


class ArtifactError(RuntimeError):
    """A file in the workspace is not what the pipeline wrote there."""


def write_json(path: Path, value: Any) -> None:
    """JSON, readable, replacing `path` at once; NaN becomes null."""
    with replacing(path) as part:
        part.write_text(json.dumps(_without_nan(value), indent=1, ensure_ascii=False, default=str) + "\n", "utf-8")


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    if isinstance(value, float):
        return value if value == value else None
    return value


def read_json(path: Path) -> Any:
    """JSON, or None if there is no such file or it was cut short."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, UnicodeDecodeError):
        return None


class Artifact:
    """A folder of the workspace that one stage writes.

    Args:
        folder: the stage's folder; made when first written to.
    """

    FILES: ClassVar[tuple[str, ...]] = ()  # without which the folder is of no use

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def manifest(self) -> dict[str, Any] | None:
        """The stage's `manifest.json`; None while the stage is not finished."""
        return read_json(self.folder / "manifest.json")

    @property
    def fingerprint(self) -> str:
        """Hash of what is in here, for the keys of the stages that read it; "" while not finished."""
        return (self.manifest or {}).get("fingerprint", "")

    def contents(self) -> dict[str, Any]:
        """What the finished stage adds to its manifest; `fingerprint` decides whether readers are out of date."""
        return {}

    def damaged(self) -> str:
        """Why the folder does not hold what its manifest says, or ""."""
        gone = [name for name in self.FILES if not (self.folder / name).exists()]
        return f"{', '.join(gone)} is gone" if gone else ""

    def forget(self) -> None:
        """Take nothing in here for finished any more (--force)."""
        (self.folder / "manifest.json").unlink(missing_ok=True)
        for record in (*self.folder.glob("*/record.json"), *self.folder.glob("*/failure.json")):
            record.unlink()

    def table(self, name: str, columns: tuple[str, ...]) -> "pd.DataFrame":
        """Read a CSV of text columns.

        Raises:
            ArtifactError: it is not there, or columns are missing.
        """
        import pandas as pd

        path = self.folder / name
        try:
            frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        except (OSError, ValueError) as error:
            raise ArtifactError(f"cannot read {path}: {error}; rerun with --force {self.folder.name}") from error
        missing = [c for c in columns if c not in frame.columns]
        if missing:
            raise ArtifactError(f"{path} has no column {missing}; rerun with --force {self.folder.name}")
        return frame

    def save_table(self, name: str, frame: "pd.DataFrame", columns: tuple[str, ...] = ()) -> None:
        """Write a CSV whole.

        Raises:
            ArtifactError: a column that readers need is missing.
        """
        missing = [c for c in columns if c not in frame.columns]
        if missing:
            raise ArtifactError(f"{name} would lack the columns {missing}")
        write_table(self.folder / name, frame)
