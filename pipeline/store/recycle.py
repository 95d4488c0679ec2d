"""The artifact of the stage recycle: the label-efficiency curve, and what it was made from."""

from typing import Any, ClassVar

import pandas as pd

from files.reading import file_sha256
from pipeline.core.provenance import digest
from pipeline.store.base import Artifact, ArtifactError, read_json, write_json

TEXT = ("way", "says", "subject", "observation")


class RecycleTables(Artifact):
    """`curve.csv`, a row a share of labels and way; `predictions.csv` of test patients; `recycle.json`."""

    FILES: ClassVar = ("curve.csv", "predictions.csv", "recycle.json")
    CURVE: ClassVar = (
        "labelled", "way", "rho", "patients", "auc", "auc_low", "auc_high", "difference", "low", "high", "p", "p_holm",
        "says",
    )  # fmt: skip
    PREDICTIONS: ClassVar = ("labelled", "way", "rho", "repeat", "subject", "observation", "truth")

    def save(self, curve: pd.DataFrame, predictions: pd.DataFrame, facts: dict[str, Any]) -> None:
        """Write all files."""
        self.save_table("curve.csv", curve, self.CURVE)
        self.save_table("predictions.csv", predictions, self.PREDICTIONS)
        write_json(self.folder / "recycle.json", facts)

    def curve(self) -> pd.DataFrame:
        """Return the curve; numbers are numbers."""
        path = self.folder / "curve.csv"
        try:
            return pd.read_csv(path, dtype=dict.fromkeys(TEXT, str), keep_default_na=False, na_values=[""])
        except (OSError, ValueError) as error:
            raise ArtifactError(f"cannot read {path}: {error}; rerun with --force {self.folder.name}") from error

    def facts(self) -> dict[str, Any]:
        """Return the content of `recycle.json`."""
        return read_json(self.folder / "recycle.json") or {}

    def contents(self) -> dict[str, Any]:
        """Return the fingerprint of all files, and counts."""
        curve = self.curve()
        return {
            "fingerprint": digest([file_sha256(self.folder / name) for name in self.FILES]),
            "counts": {"points of the curve": len(curve), "generation": int(self.facts()["generation"])},
        }
