"""What stages write and read: each artifact owns its file names and checks what goes in and what comes out.

Files are written beside their place and moved in with `os.replace`; what is not finished is not seen.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.provenance import digest, file_sha256

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray
    from torch import Tensor


class ArtifactError(RuntimeError):
    """A file in the workspace is not what the pipeline wrote there."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write to the path that this yields; it takes the place of `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


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
        return ""

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
        with replacing(self.folder / name) as part:
            frame.to_csv(part, index=False, lineterminator="\n")


class CohortTables(Artifact):
    """`scans.csv`: one row a scan, with the hash of its file's content; `classes.json`: class names in order."""

    COLUMNS: ClassVar = (
        "scan", "subject", "session", "observation", "modality", "kind", "skull_strip", "path", "label", "sha256",
    )  # fmt: skip

    def save(self, scans: "pd.DataFrame", classes: tuple[str, ...]) -> None:
        """Write both; the scans need `COLUMNS`, further columns are covariates."""
        self.save_table("scans.csv", scans, self.COLUMNS)
        write_json(self.folder / "classes.json", classes)

    def scans(self) -> "pd.DataFrame":
        """One row a scan, all text."""
        return self.table("scans.csv", self.COLUMNS)

    def classes(self) -> tuple[str, ...]:
        """Class names; for two classes the positive one is last."""
        return tuple(read_json(self.folder / "classes.json") or ())

    def contents(self) -> dict[str, Any]:
        """Where a file lies does not matter to those who read the scans; what is in it does."""
        scans = self.scans()
        rows = scans.drop(columns="path").to_dict("split")
        return {"fingerprint": digest([rows, self.classes()]), "counts": {"scans": len(scans)}}


class SplitTables(Artifact):
    """`splits.csv` (repeat, subject, part), frozen once made, and `availability.csv` (scan, …, available)."""

    SPLIT_COLUMNS: ClassVar = ("repeat", "subject", "part")
    AVAILABILITY_COLUMNS: ClassVar = ("scan", "observation", "subject", "modality", "available")

    def save_splits(self, splits: "pd.DataFrame", made_with: Mapping[str, Any]) -> None:
        """Write the splits and the settings that made them."""
        write_json(self.folder / "frozen.json", made_with)
        self.save_table("splits.csv", splits, self.SPLIT_COLUMNS)

    def frozen(self) -> tuple["pd.DataFrame", dict[str, Any]] | None:
        """The splits made earlier and the settings that made them; None before the first time."""
        if not (self.folder / "splits.csv").exists():
            return None
        return self.splits(), read_json(self.folder / "frozen.json") or {}

    def splits(self) -> "pd.DataFrame":
        """Repeat (int, from 1), subject, part ("train", "validation" or "test")."""
        frame = self.table("splits.csv", self.SPLIT_COLUMNS)
        return frame.assign(repeat=frame["repeat"].astype(int))

    def availability(self) -> "pd.DataFrame":
        """One row a scan; `available` (bool) is False where `split.missing` hides it."""
        frame = self.table("availability.csv", self.AVAILABILITY_COLUMNS)
        return frame.assign(available=frame["available"] == "True")

    def contents(self) -> dict[str, Any]:
        """The fingerprint is that of both tables."""
        tables = [self.splits().to_dict("split"), self.availability().to_dict("split")]
        return {"fingerprint": digest(tables), "counts": {"repeats": int(self.splits()["repeat"].max())}}


class ScanSet(Artifact):
    """One folder a scan. `record.json` is written last and holds the key that the files were made from."""

    def place(self, scan: str) -> Path:
        """The folder of a scan."""
        return self.folder / scan

    def record(self, scan: str) -> dict[str, Any] | None:
        """What was recorded with the scan's files; None if they are not finished."""
        return read_json(self.place(scan) / "record.json")

    def has(self, scan: str, key: str) -> bool:
        """Whether the scan's files are finished and made from `key`."""
        return (self.record(scan) or {}).get("key") == key

    def failure(self, scan: str, key: str) -> dict[str, Any] | None:
        """The recorded failure under `key`: stage, reason, again (worth another try)."""
        failure = read_json(self.place(scan) / "failure.json")
        return failure if failure and failure["key"] == key else None

    def begin(self, scan: str) -> Path:
        """The scan's folder, emptied: nothing of an earlier setting stays behind."""
        place = self.place(scan)
        if place.exists():
            (place / "record.json").unlink(missing_ok=True)
            shutil.rmtree(place)
        place.mkdir(parents=True)
        return place

    def finish(self, scan: str, key: str, facts: Mapping[str, Any]) -> None:
        """Say that the scan's files are complete."""
        write_json(self.place(scan) / "record.json", {"key": key, **facts})

    def fail(self, scan: str, key: str, reason: str, *, again: bool) -> None:
        """Record why there are no files; `again` if another try may end differently."""
        self.begin(scan)
        write_json(self.place(scan) / "failure.json", {"key": key, "reason": reason, "again": again})

    def keys(self) -> dict[str, str]:
        """Scan → key, of the scans that the finished stage holds."""
        return (self.manifest or {}).get("scans", {})

    def damaged(self) -> str:
        """Name a scan whose files were taken away since."""
        gone = [scan for scan in self.keys() if not (self.place(scan) / "record.json").exists()]
        return f"the files of {len(gone)} scans are gone, {gone[0]} among them" if gone else ""


class PhantomCohort(ScanSet):
    """The demo cohort: NIfTI scans, `manifest.csv` like anyone's, and the truth that only tests read."""

    SCAN, TRUE_MASK = "scan.nii.gz", "true_mask.nii.gz"

    @property
    def manifest_csv(self) -> Path:
        """The cohort's manifest."""
        return self.folder / "manifest.csv"


class VolumeSet(ScanSet):
    """Preprocessed scans: `volume.nii.gz` and `mask.nii.gz`, or `picture.png`; `qc.png` for volumes."""

    def save_volume(
        self, scan: str, volume: "NDArray[np.float32]", mask: "NDArray[np.bool_]", affine: "NDArray[np.float64]",
        qc: bytes,
    ) -> None:  # fmt: skip
        """Write one volume.

        Args:
            scan: which.
            volume: (X, Y, Z), float32 in [0, 1], RAS+ order.
            mask: (X, Y, Z), bool.
            affine: voxel to world, (4, 4), mm.
            qc: PNG.

        Raises:
            ArtifactError: shapes, dtypes or range are not these.
        """
        import numpy as np

        from preprocessing.io import write_volume

        if volume.dtype != np.float32 or volume.ndim != 3 or mask.shape != volume.shape or mask.dtype != bool:
            raise ArtifactError(f"{scan}: volume {volume.dtype} {volume.shape}, mask {mask.dtype} {mask.shape}")
        if not (volume.min() >= 0 and volume.max() <= 1):
            raise ArtifactError(f"{scan}: values from {volume.min()} to {volume.max()}, expected [0, 1]")
        place = self.begin(scan)
        write_volume(place / "volume.nii.gz", volume, affine, "HyperMM preprocessed")
        write_volume(place / "mask.nii.gz", mask.astype(np.uint8), affine, "HyperMM brain mask")
        (place / "qc.png").write_bytes(qc)

    def load_volume(self, scan: str) -> "tuple[Tensor, Tensor, tuple[float, float, float]]":
        """Volume (X, Y, Z) float32 in [0, 1], mask (X, Y, Z) bool, voxel size in mm."""
        import numpy as np

        from preprocessing.io import read_volume

        volume = read_volume(self.place(scan) / "volume.nii.gz")
        mask = read_volume(self.place(scan) / "mask.nii.gz")
        if volume.shape != mask.shape:
            raise ArtifactError(f"{scan}: volume {volume.shape} and mask {mask.shape} differ; --force preprocess")
        spacing = np.linalg.norm(np.asarray(volume.affine)[:3, :3], axis=0)
        x, y, z = (float(s) for s in spacing)
        return volume[0].as_tensor(), mask[0].as_tensor() > 0.5, (x, y, z)

    def save_picture(self, scan: str, png: bytes) -> None:
        """Write one picture (PNG)."""
        (self.begin(scan) / "picture.png").write_bytes(png)

    def load_picture(self, scan: str) -> "NDArray[np.uint8]":
        """(H, W, 3), uint8."""
        from preprocessing.io import read_picture

        return read_picture(self.place(scan) / "picture.png")

    def qc_picture(self, scan: str) -> bytes | None:
        """The QC picture, or the picture itself."""
        for name in ("qc.png", "picture.png"):
            if (self.place(scan) / name).exists():
                return (self.place(scan) / name).read_bytes()
        return None


class BlockSet(ScanSet):
    """Backbone blocks: `block.safetensors` with `block` (C, H, W) and, if asked for, `slices` (S, C, H, W); float32."""

    def save(self, scan: str, block: "Tensor", slices: "Tensor | None" = None) -> None:
        """Write one block.

        Raises:
            ArtifactError: not float32, not (C, H, W), or not finite.
        """
        import safetensors.torch
        import torch

        if block.dtype != torch.float32 or block.ndim != 3 or not torch.isfinite(block).all():
            raise ArtifactError(f"{scan}: block {block.dtype} {tuple(block.shape)}, expected finite float32 (C, H, W)")
        tensors = {"block": block.cpu().contiguous()}
        if slices is not None:
            tensors["slices"] = slices.cpu().contiguous()
        safetensors.torch.save_file(tensors, self.begin(scan) / "block.safetensors")

    def load(self, scans: list[str]) -> "Tensor":
        """Blocks of scans, (N, C, H, W) float32, in the order asked for.

        Raises:
            ArtifactError: one is missing, or shapes differ.
        """
        import safetensors
        import torch

        blocks: list[Tensor] = []
        for scan in scans:
            path = self.place(scan) / "block.safetensors"
            try:
                with safetensors.safe_open(path, framework="pt") as file:
                    block = file.get_tensor("block")
            except (OSError, safetensors.SafetensorError) as error:
                raise ArtifactError(f"cannot read {path}: {error}; rerun with --force features") from error
            if block.dtype != torch.float32 or block.ndim != 3 or (blocks and block.shape != blocks[0].shape):
                raise ArtifactError(f"{path} holds {block.dtype} {tuple(block.shape)}; rerun with --force features")
            blocks.append(block)
        return torch.stack(blocks)


class RepeatSet(Artifact):
    """One folder a repeat: `weights.safetensors`, `history.csv`, `record.json` (written last, with its key)."""

    def place(self, repeat: int) -> Path:
        """The folder of a repeat."""
        return self.folder / f"repeat-{repeat}"

    def record(self, repeat: int) -> dict[str, Any] | None:
        """What is recorded with the weights, the subjects they saw among it; None if not finished."""
        return read_json(self.place(repeat) / "record.json")

    def has(self, repeat: int, key: str) -> bool:
        """Whether the repeat is finished and made from `key`."""
        return (self.record(repeat) or {}).get("key") == key

    def save(
        self, repeat: int, key: str, state: "Mapping[str, Tensor]", history: "pd.DataFrame", facts: Mapping[str, Any]
    ) -> None:
        """Write the weights, the history and what is known about them.

        Raises:
            ArtifactError: `facts` does not say which subjects were seen.
        """
        import safetensors.torch

        for needed in ("train_subjects", "validation_subjects"):
            if needed not in facts:
                raise ArtifactError(f"a fitted artifact must record its {needed}")
        place = self.place(repeat)
        (place / "record.json").unlink(missing_ok=True)
        place.mkdir(parents=True, exist_ok=True)
        with replacing(place / "weights.safetensors") as part:
            safetensors.torch.save_file({k: v.cpu().contiguous() for k, v in state.items()}, part)
        self.save_table(f"{place.name}/history.csv", history)
        write_json(place / "record.json", {"key": key, **facts})

    def state(self, repeat: int) -> "dict[str, Tensor]":
        """The weights.

        Raises:
            ArtifactError: they cannot be read.
        """
        import safetensors.torch

        try:
            return safetensors.torch.load_file(self.place(repeat) / "weights.safetensors")
        except (OSError, safetensors.SafetensorError) as error:
            raise ArtifactError(f"cannot read the weights of {self.place(repeat)}: {error}") from error

    def contents(self) -> dict[str, Any]:
        """Readers go by the weights themselves, not by what they were made from."""
        files = sorted(self.folder.glob("repeat-*/weights.safetensors"))
        return {"fingerprint": digest([[f.parent.name, file_sha256(f)] for f in files])}

    def histories(self) -> "pd.DataFrame":
        """The histories of all repeats, one below the other, with a first column `repeat`."""
        import pandas as pd

        found = sorted(self.folder.glob("repeat-*/history.csv"), key=lambda p: int(p.parent.name.split("-")[1]))
        frames = []
        for path in found:
            frame = pd.read_csv(path)
            frame.insert(0, "repeat", int(path.parent.name.split("-")[1]))
            frames.append(frame)
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


class ExtractorSet(RepeatSet):
    """φ of every repeat."""


class ClassifierSet(RepeatSet):
    """ρ of every repeat, predictions, `metrics.json`, and `subsets.csv` with the predictions that it sums up."""

    def predictions(self, part: str = "test") -> "pd.DataFrame":
        """Predictions, one row an observation and repeat; `part` is "test" or "validation"."""
        import pandas as pd

        name = "predictions.csv" if part == "test" else "validation_predictions.csv"
        return pd.read_csv(self.folder / name, dtype={"subject": str, "observation": str, "truth": str})

    def metrics(self) -> dict[str, Any]:
        """The content of `metrics.json`."""
        return read_json(self.folder / "metrics.json") or {}


class ReportPage(Artifact):
    """`report.html`."""

    @property
    def page(self) -> Path:
        """The page."""
        return self.folder / "report.html"
