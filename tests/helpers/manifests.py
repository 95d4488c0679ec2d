"""Manifests made here, the files they name, and what the check says of them."""

from pathlib import Path

import pandas as pd
import pytest

from cohort.manifest import CohortConfig, ModalityConfig, check_manifest
from cohort.tables import ManifestError

MODALITIES = {"MRI": ModalityConfig(), "PET": ModalityConfig(), "H&E 40×": ModalityConfig(kind="image")}


def rows_of(*rows: str, header: str = "subject,modality,path,diagnosis") -> pd.DataFrame:
    return pd.DataFrame([row.split(",") for row in rows], columns=header.split(","), dtype=str)


def on_disk(folder: Path, table: pd.DataFrame) -> pd.DataFrame:
    for path in table["path"]:
        if path.strip():
            (folder / path.strip()).parent.mkdir(parents=True, exist_ok=True)
            (folder / path.strip()).touch()
    return table


def check(table: pd.DataFrame, folder: Path, *, smallest_class: int = 1, **config: object) -> pd.DataFrame:
    return check_manifest(
        table, folder=folder, config=CohortConfig(modalities=MODALITIES, **config), smallest_class=smallest_class
    )


def problems(table: pd.DataFrame, folder: Path, **config: object) -> tuple[str, ...]:
    with pytest.raises(ManifestError) as caught:
        check(table, folder, **config)
    return tuple(map(str, caught.value.problems))
