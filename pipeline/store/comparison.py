"""The artifact of the stage baselines: one folder per scenario, method and repeat, and tables over all of them."""

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
TEXT |= {"training": str, "tested": str, "modalities": str, "reason": str}


class ComparisonSet(Artifact):
    """Predictions of the baselines, and the tables and the page `comparison.md` over all of them.

    `<scenario>/<method>/repeat-N/record.json` is written last and holds the key that the predictions were made from.
    Weights are not kept: only the predictions are needed, and some networks have 100 MB.
    """

    FILES: ClassVar = ("comparison.csv", "comparison.md", "predictions.csv")

    def folder_of(self, scenario: str, method: str, repeat: int) -> Path:
        """Return the folder of one fitted baseline."""
        return self.folder / _file_name(scenario) / _file_name(method) / f"repeat-{repeat}"

    def record(self, folder: Path, key: str) -> dict[str, Any] | None:
        """Return the record made under `key`: costs, or why there are no predictions; None if not finished."""
        record = self.finished(folder)
        return record if record and record["key"] == key else None

    def finished(self, folder: Path) -> dict[str, Any] | None:
        """Return the record of a fitted baseline, under any key; None if a table is missing or damaged."""
        record = read_record(folder / "record.json")
        if record is None or any(not (folder / name).is_file() for name in record["tables"]):
            return None
        whole = all(file_sha256(folder / name) == content for name, content in record["tables"].items())
        return record if whole else None

    def begin(self, folder: Path, key: str) -> None:
        """Empty the folder, unless it holds the beginning of a run under the same key."""
        real_folder(folder.parent, below=self.folder)
        if read_json(folder / "begun.json") != {"key": key}:
            remove_folder(folder, below=folder.parent)
        real_folder(folder, below=self.folder)
        (folder / "record.json").unlink(missing_ok=True)
        write_json(folder / "begun.json", {"key": key})

    def finish(self, folder: Path, key: str, tables: Mapping[str, pd.DataFrame], facts: Mapping[str, Any]) -> None:
        """Write the tables of one fitted baseline, those that have rows, and its record."""
        written = {name: table for name, table in tables.items() if not table.empty}
        for name, table in written.items():
            self.save_table(str((folder / name).relative_to(self.folder)), table)
        hashes = {name: file_sha256(folder / name) for name in written}
        write_record(folder / "record.json", {"key": key, "tables": hashes, **facts})

    def read(self, folder: Path, name: str) -> pd.DataFrame | None:
        """Return a table of one fitted baseline; None if it has no such table."""
        path = folder / name
        return pd.read_csv(path, dtype=TEXT, keep_default_na=False, na_values=[""]) if path.exists() else None

    def invalidate_all(self) -> None:
        """Mark all baselines as not fitted."""
        super().invalidate_all()
        for folder in self.folder.glob("*/*/repeat-*"):
            real_folder(folder, below=self.folder)
            for name in ("record.json", "begun.json"):
                (folder / name).unlink(missing_ok=True)

    def contents(self) -> dict[str, Any]:
        """Return the fingerprint of the tables."""
        names = ("comparison", "gains", "robustness", "patients", "mechanisms", "pattern", "subsets")
        files = (*(f"{name}.csv" for name in names), "comparison.md")
        return {"fingerprint": digest([file_sha256(p) for n in files if (p := self.folder / n).exists()])}

    def comparison(self) -> pd.DataFrame:
        """Return the table that `evaluation.comparison.comparison_table` made."""
        frame = pd.read_csv(self.folder / "comparison.csv", dtype={**TEXT, "note": str})
        return frame.assign(note=frame["note"].fillna(""))

    def gains(self) -> pd.DataFrame | None:
        """Return what the images add in each scenario; None if no method without images was fitted."""
        path = self.folder / "gains.csv"
        if not path.exists():
            return None
        frame = pd.read_csv(path, dtype={"scenario": str, "covariates": str})
        return frame.assign(covariates=frame["covariates"].fillna(""))

    def robustness(self) -> pd.DataFrame | None:
        """Return the table that `evaluation.comparison.robustness_table` made; None if no scans were hidden."""
        path = self.folder / "robustness.csv"
        return pd.read_csv(path, dtype=TEXT) if path.exists() else None

    def patients(self) -> pd.DataFrame | None:
        """Return the table that `evaluation.comparison.patients_table` made; None if there is no learning curve."""
        path = self.folder / "patients.csv"
        return pd.read_csv(path, dtype=TEXT) if path.exists() else None

    def mechanisms(self) -> pd.DataFrame | None:
        """Return the table that `evaluation.comparison.mechanisms_table` made; None without such scenarios."""
        path = self.folder / "mechanisms.csv"
        return pd.read_csv(path, dtype=TEXT) if path.exists() else None

    def pattern(self) -> pd.DataFrame | None:
        """Return the table that `evaluation.pattern.pattern_table` made; None without such scenarios."""
        path = self.folder / "pattern.csv"
        return pd.read_csv(path, dtype=TEXT) if path.exists() else None

    def subsets(self) -> pd.DataFrame | None:
        """Return the table that `evaluation.comparison.subsets_table` made; None without such a scenario."""
        path = self.folder / "subsets.csv"
        if not path.exists():
            return None
        frame = pd.read_csv(path, dtype=TEXT)
        return frame.assign(modalities=frame["modalities"].fillna(""))

    def pictures(self, convention: str = "radiological") -> tuple[tuple[str, bytes], ...]:
        """Return caption and PNG of every picture of imputed scans in a convention."""
        captions = (read_json(self.folder / "pictures.json") or {}).get(convention) or {}
        return tuple((caption, (self.folder / name).read_bytes()) for name, caption in captions.items())


def _file_name(name: str) -> str:
    """Return the folder of a name: spaces become hyphens; other unsafe characters a hyphen, with a hash at the end."""
    safe = re.sub(r"[^\w%+.-]+", "-", name).strip("-.")
    return safe if safe and re.fullmatch(r"[\w%+. -]+", name) else f"{safe}-{digest(name)[:12]}"
