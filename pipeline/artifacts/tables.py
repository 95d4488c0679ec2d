"""The tables of the cohort: its scans, its splits, what of it is available."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.artifacts.base import Artifact, read_json, write_json
from pipeline.provenance import digest

if TYPE_CHECKING:
    import pandas as pd


class CohortTables(Artifact):
    """`scans.csv`: one row a scan, with the hash of its file's content; `classes.json`; `left_out.json`."""

    COLUMNS: ClassVar = (
        "scan", "subject", "session", "observation", "modality", "kind", "skull_strip", "path", "label", "sha256",
    )  # fmt: skip

    FILES: ClassVar = ("scans.csv", "classes.json", "files.json")

    def forget(self) -> None:
        """Also hash every scan again."""
        super().forget()
        (self.folder / "files.json").unlink(missing_ok=True)

    def damaged(self) -> str:
        """Scans that are no longer where they were count too."""
        moved = [path for path in read_json(self.folder / "files.json") or () if not Path(path).exists()]
        return super().damaged() or (f"{len(moved)} scans have moved, {moved[0]} among them" if moved else "")

    def save(self, scans: "pd.DataFrame", classes: tuple[str, ...], left_out: Sequence[Mapping[str, str]] = ()) -> None:
        """Write them; the scans need `COLUMNS`, further columns are covariates.

        Args:
            scans: one row a scan.
            classes: names in order; none where nothing is learnt.
            left_out: rows of the manifest that cannot be used: row, subject, session, modality, path, reason.
        """
        self.save_table("scans.csv", scans, self.COLUMNS)
        write_json(self.folder / "classes.json", classes)
        write_json(self.folder / "left_out.json", left_out)

    def left_out(self) -> list[dict[str, str]]:
        """Rows of the manifest that cannot be used, with the reason; only where nothing is learnt."""
        return read_json(self.folder / "left_out.json") or []

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
        left_out = self.left_out()
        content = [rows, self.classes(), *([left_out] if left_out else [])]
        failures = [{**row, "scan": f"row {row['row']}", "again": False} for row in left_out]
        return {"fingerprint": digest(content), "counts": {"scans": len(scans)}, "failures": failures}


class SplitTables(Artifact):
    """`splits.csv` (repeat, subject, part), frozen once made, and `availability.csv` (scan, …, available)."""

    SPLIT_COLUMNS: ClassVar = ("repeat", "subject", "part")
    FILES: ClassVar = ("splits.csv", "frozen.json", "availability.csv")
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
