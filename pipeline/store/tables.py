"""Tables of the cohort: scans, splits and availability."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from cohort.table_members import values_of
from files.reading import file_sha256
from pipeline.core.provenance import digest
from pipeline.store.base import (
    Artifact,
    ArtifactError,
    read_json,
    read_record,
    safe_id,
    write_json,
    write_record,
)


class CohortTables(Artifact):
    """Tables of the stage cohort: `scans.csv`, one row per scan, with its hash; `classes.json`; `left_out.json`."""

    COLUMNS: ClassVar = (
        "scan", "subject", "session", "observation", "modality", "kind", "skull_strip", "normalise", "trust", "bits",
        "path", "label", "sha256",
    )  # fmt: skip

    FILES: ClassVar = ("scans.csv", "classes.json", "files.json")

    def invalidate_all(self) -> None:
        """Mark the tables as unfinished and forget the hashes of all scans."""
        super().invalidate_all()
        (self.folder / "files.json").unlink(missing_ok=True)

    def integrity_error(self) -> str:
        """Describe missing or damaged tables and moved scans, or return ""."""
        moved = [path for path in read_record(self.folder / "files.json") or () if not Path(path).exists()]
        return super().integrity_error() or (f"{len(moved)} scans have moved, {moved[0]} among them" if moved else "")

    def save(self, scans: pd.DataFrame, classes: tuple[str, ...], left_out: Sequence[Mapping[str, str]] = ()) -> None:
        """Write the tables; the scans need `COLUMNS`, further columns are covariates.

        Args:
            scans: one row per scan.
            classes: names in order; empty without labels.
            left_out: rows of the manifest that cannot be used: row, subject, session, modality, path, reason.
        """
        self.save_table("scans.csv", scans, self.COLUMNS)
        write_json(self.folder / "classes.json", classes)
        write_json(self.folder / "left_out.json", left_out)

    def left_out(self) -> list[dict[str, str]]:
        """Return the rows of the manifest that cannot be used, with the reason; only without labels."""
        return read_json(self.folder / "left_out.json", list) or []

    def scans(self) -> pd.DataFrame:
        """Return the table of scans, one row per scan, all text.

        Raises:
            ArtifactError: the table cannot be read, an id is invalid or not unique, or values are damaged.
        """
        scans = self.table("scans.csv", self.COLUMNS)
        if scans["scan"].map(safe_id).str.lower().duplicated().any():
            raise ArtifactError(f"{self.folder / 'scans.csv'} names a scan twice; rerun with --force cohort")
        try:
            values_of(scans)
        except ValueError as error:
            raise ArtifactError(f"{self.folder / 'scans.csv'}: {error}; rerun with --force cohort") from error
        return scans

    def classes(self) -> tuple[str, ...]:
        """Return the class names; of two classes the positive one is last."""
        return tuple(read_json(self.folder / "classes.json", list) or ())

    def contents(self) -> dict[str, Any]:
        """Return fingerprint, counts and failures; the fingerprint depends on file contents, not on paths."""
        scans = self.scans()
        rows = scans.drop(columns="path").to_dict("split")
        left_out = self.left_out()
        content = [rows, self.classes(), *([left_out] if left_out else [])]
        failures = [{**row, "scan": f"row {row['row']}", "retryable": False} for row in left_out]
        return {"fingerprint": digest(content), "counts": {"scans": len(scans)}, "failures": failures}


class SplitTables(Artifact):
    """`splits.csv` (repeat, subject, split), frozen once made, and `availability.csv` (scan, …, available)."""

    SPLIT_COLUMNS: ClassVar = ("repeat", "subject", "split")
    FILES: ClassVar = ("splits.csv", "frozen.json", "availability.csv")
    AVAILABILITY_COLUMNS: ClassVar = ("scan", "observation", "subject", "modality", "available")

    def save_splits(self, splits: pd.DataFrame, made_with: Mapping[str, Any]) -> None:
        """Write the splits, and with their hash the settings that made them.

        `frozen.json` is written before the splits are replaced and lists the hashes of both, so that an
        interrupted run leaves valid splits.
        """
        path, new = self.folder / "splits.csv", self.folder / "splits.new.csv"
        self.save_table(new.name, splits, self.SPLIT_COLUMNS)
        hashes = list(dict.fromkeys(file_sha256(each) for each in (path, new) if each.exists()))
        write_record(self.folder / "frozen.json", {"made_with": made_with, "sha256": hashes})
        new.replace(path)

    def frozen(self) -> tuple[pd.DataFrame, dict[str, Any]] | None:
        """Return the splits made earlier and the settings that made them; None before the first time.

        Raises:
            ArtifactError: the splits are not as they were written; they cannot be restored.
        """
        path = self.folder / "splits.csv"
        if not path.exists():
            return None
        frozen = read_record(self.folder / "frozen.json")
        if frozen is None or file_sha256(path) not in frozen["sha256"]:
            raise ArtifactError(
                f"the frozen splits are damaged or were edited: {path} is not as it was written. Bring the folder "
                f"{self.folder} back from a copy, or use --new-splits to make new ones; results of other splits "
                "cannot be compared"
            )
        return self.splits(), frozen["made_with"]

    def splits(self) -> pd.DataFrame:
        """Return the splits: repeat (int, from 1), subject, split ("train", "validation" or "test")."""
        frame = self.table("splits.csv", self.SPLIT_COLUMNS)
        return frame.assign(repeat=frame["repeat"].astype(int))

    def availability(self) -> pd.DataFrame:
        """Return one row per scan; `available` (bool) is False where `split.missing` hides it."""
        frame = self.table("availability.csv", self.AVAILABILITY_COLUMNS)
        return frame.assign(available=frame["available"] == "True")

    def contents(self) -> dict[str, Any]:
        """Return the fingerprint of both tables and the number of repeats."""
        tables = [self.splits().to_dict("split"), self.availability().to_dict("split")]
        return {"fingerprint": digest(tables), "counts": {"repeats": int(self.splits()["repeat"].max())}}
