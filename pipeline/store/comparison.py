"""The artifact of the stage baselines: one folder a scenario, method and repeat, and the tables over all of them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from files.reading import file_sha256
from files.writing import real_folder, remove_folder
from pipeline.core.provenance import digest
from pipeline.store.base import Artifact, read_json, read_record, write_json, write_record

TEXT = {"scenario": str, "method": str, "subject": str, "observation": str, "hidden_modality": str, "where": str}


class ComparisonSet(Artifact):
    """Baselines' predictions, and `comparison.csv`, `robustness.csv`, `comparison.md` over all of them.

    `<scenario>/<method>/repeat-N/record.json` is written last and holds the key that the predictions were made from.
    Weights are not kept: a baseline is there for its predictions, and some are 100 MB.
    """

    FILES: ClassVar = ("comparison.csv", "comparison.md", "predictions.csv")

    def folder_of(self, scenario: str, method: str, repeat: int) -> Path:
        """The folder of one fitted baseline."""
        return self.folder / _file_name(scenario) / _file_name(method) / f"repeat-{repeat}"

    def record(self, place: Path, key: str) -> dict[str, Any] | None:
        """What was recorded under `key`: costs, or the reason why there are no predictions; None if not finished."""
        record = self.finished(place)
        return record if record and record["key"] == key else None

    def finished(self, place: Path) -> dict[str, Any] | None:
        """Return the record of a fitted baseline, under whatever key; None if a table is not as it was written."""
        record = read_record(place / "record.json")
        if record is None or any(not (place / name).is_file() for name in record["tables"]):
            return None
        whole = all(file_sha256(place / name) == content for name, content in record["tables"].items())
        return record if whole else None

    def begin(self, place: Path, key: str) -> None:
        """Empty the folder, unless it holds the beginning of a run under the same key."""
        real_folder(place.parent, below=self.folder)
        if read_json(place / "begun.json") != {"key": key}:
            remove_folder(place, below=place.parent)
        real_folder(place, below=self.folder)
        (place / "record.json").unlink(missing_ok=True)
        write_json(place / "begun.json", {"key": key})

    def finish(self, place: Path, key: str, tables: Mapping[str, pd.DataFrame], facts: Mapping[str, Any]) -> None:
        """Write the tables of one fitted baseline, those that have rows, and its record."""
        written = {name: table for name, table in tables.items() if not table.empty}
        for name, table in written.items():
            self.save_table(str((place / name).relative_to(self.folder)), table)
        hashes = {name: file_sha256(place / name) for name in written}
        write_record(place / "record.json", {"key": key, "tables": hashes, **facts})

    def read(self, place: Path, name: str) -> pd.DataFrame | None:
        """A table of one fitted baseline; None if it has no such table."""
        path = place / name
        return pd.read_csv(path, dtype=TEXT, keep_default_na=False, na_values=[""]) if path.exists() else None

    def invalidate_all(self) -> None:
        """Fit all baselines again."""
        super().invalidate_all()
        for place in self.folder.glob("*/*/repeat-*"):
            real_folder(place, below=self.folder)
            for name in ("record.json", "begun.json"):
                (place / name).unlink(missing_ok=True)

    def contents(self) -> dict[str, Any]:
        """Readers go by the tables."""
        names = ("comparison.csv", "robustness.csv", "comparison.md")
        return {"fingerprint": digest([file_sha256(p) for n in names if (p := self.folder / n).exists()])}

    def comparison(self) -> pd.DataFrame:
        """As `evaluation.comparison.comparison_table` made it."""
        frame = pd.read_csv(self.folder / "comparison.csv", dtype={**TEXT, "note": str})
        return frame.assign(note=frame["note"].fillna(""))

    def robustness(self) -> pd.DataFrame | None:
        """As `evaluation.comparison.robustness_table` made it; None if no method was tried with scans hidden."""
        path = self.folder / "robustness.csv"
        return pd.read_csv(path, dtype=TEXT) if path.exists() else None

    def pictures(self) -> tuple[tuple[str, bytes], ...]:
        """Caption and PNG of every picture of imputed scans."""
        captions = read_json(self.folder / "pictures.json") or {}
        return tuple((caption, (self.folder / name).read_bytes()) for name, caption in captions.items())


def _file_name(name: str) -> str:
    """Return a name as a folder: spaces become hyphens, and what file systems dislike a hyphen and a hash."""
    safe = re.sub(r"[^\w%+.-]+", "-", name).strip("-.")
    return safe if safe and re.fullmatch(r"[\w%+. -]+", name) else f"{safe}-{digest(name)[:12]}"
