"""The artifact of the stage hypothesise: effects with intervals and controls, and each patient's own differences."""

from typing import Any, ClassVar

import pandas as pd

from files.reading import file_sha256
from pipeline.core.provenance import digest
from pipeline.store.base import Artifact, ArtifactError, read_json, write_json

TEXT = ("hypothesis", "source", "held", "target", "observation", "subject", "says", "note")


class HypothesisTables(Artifact):
    """`effects.csv`, a row a hypothesis and target; `patients.csv`; `maps.csv`, where on a feature map; a JSON."""

    FILES: ClassVar = ("effects.csv", "patients.csv", "maps.csv", "hypotheses.json")
    EFFECTS: ClassVar = (
        "hypothesis", "source", "held", "target", "patients", "refused", "effect", "low", "high", "p", "p_holm",
        "of_parameters", "permuted", "permuted_low", "permuted_high", "random", "random_low", "random_high", "says",
        "note",
    )  # fmt: skip
    PATIENTS: ClassVar = ("repeat", "hypothesis", "target", "observation", "subject", "difference", "sd")
    MAPS: ClassVar = ("hypothesis", "target", "row", "column", "change", "sd")

    def save(self, effects: pd.DataFrame, patients: pd.DataFrame, maps: pd.DataFrame, facts: dict[str, Any]) -> None:
        """Write all files."""
        self.save_table("effects.csv", effects, self.EFFECTS)
        self.save_table("patients.csv", patients, self.PATIENTS)
        self.save_table("maps.csv", maps, self.MAPS)
        write_json(self.folder / "hypotheses.json", facts)

    def read(self, name: str = "effects.csv") -> pd.DataFrame:
        """Return a table; numbers are numbers."""
        path = self.folder / name
        try:
            return pd.read_csv(path, dtype=dict.fromkeys(TEXT, str), keep_default_na=False, na_values=[""]).fillna(
                dict.fromkeys(("held", "note"), "")
            )
        except (OSError, ValueError) as error:
            raise ArtifactError(f"cannot read {path}: {error}; rerun with --force {self.folder.name}") from error

    def facts(self) -> dict[str, Any]:
        """Return the content of `hypotheses.json`."""
        return read_json(self.folder / "hypotheses.json") or {}

    def contents(self) -> dict[str, Any]:
        """Return the fingerprint of all tables, and counts."""
        effects = self.read()
        return {
            "fingerprint": digest([file_sha256(self.folder / name) for name in self.FILES]),
            "counts": {"hypotheses": int(effects["hypothesis"].nunique()), "effects": len(effects)},
        }
