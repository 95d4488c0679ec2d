"""A manifest that is right."""

from pathlib import Path

import pandas as pd
import pytest
from helpers.manifests import on_disk, rows_of


@pytest.fixture
def cohort(tmp_path: Path) -> pd.DataFrame:
    """Six subjects, MRI and PET each, two classes; the files exist."""
    return on_disk(
        tmp_path,
        rows_of(*(f"s{i},{m},s{i}_{m}.nii.gz,{'AD' if i < 3 else 'CN'}" for i in range(6) for m in ("MRI", "PET"))),
    )
