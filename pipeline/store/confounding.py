"""The artifact of the stage confounding: methods that see no image, probes of the feature maps, groups of patients."""

from collections.abc import Mapping
from typing import Any, ClassVar

import pandas as pd

from files.reading import file_sha256
from pipeline.core.provenance import digest
from pipeline.store.base import Artifact, read_json, write_json


class ConfoundingTables(Artifact):
    """The tables `TABLES`, one CSV file each, and `confounding.json`."""

    TABLES: ClassVar = (
        "predictions.csv", "comparison.csv", "probes.csv", "groups.csv", "gaps.csv", "splits_beside.csv",
        "groups_of_others.csv", "gaps_of_others.csv", "groups_imputed.csv", "gaps_imputed.csv", "groups_synthetic.csv",
        "groups_sets.csv", "gaps_sets.csv",
    )  # fmt: skip
    FILES: ClassVar = (*TABLES, "confounding.json")

    def save(self, tables: Mapping[str, pd.DataFrame], facts: Mapping[str, Any]) -> None:
        """Write all tables, and what is no table: covariates, gain, how patients were split."""
        for name in self.TABLES:
            self.save_table(name, tables[name])
        write_json(self.folder / "confounding.json", facts)

    def read(self, name: str) -> pd.DataFrame:
        """Return one of `TABLES`; names are text, and an empty figure is NaN."""
        text = ("scenario", "method", "note", "subject", "observation", "covariate", "modality", "kind", "remark")
        kept = dict.fromkeys((*text, "grouping", "group", "split", "measure", "highest", "lowest", "of"), str)
        frame = pd.read_csv(self.folder / name, dtype=kept, keep_default_na=False, na_values=[""])
        return frame.assign(**{name: frame[name].fillna("") for name in kept if name in frame})

    def facts(self) -> dict[str, Any]:
        """Return the content of `confounding.json`."""
        return read_json(self.folder / "confounding.json") or {}

    def contents(self) -> dict[str, Any]:
        """Return the fingerprint of all files."""
        return {"fingerprint": digest([file_sha256(self.folder / name) for name in self.FILES])}
