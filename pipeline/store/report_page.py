"""Artifact of the stage report."""

from pathlib import Path
from typing import ClassVar

import pandas as pd

from files.tables import write_table
from pipeline.store.viewers import WithViewers


class ReportPage(WithViewers):
    """Artifact of the stage report: `report.html`, `qc.csv` with one row per preprocessed scan, and pages of slices."""

    FILES: ClassVar = ("report.html", "qc.csv")

    @property
    def page(self) -> Path:
        """Path of the page."""
        return self.folder / "report.html"

    def save_quality(self, quality: pd.DataFrame, *, csv_safe: bool) -> None:
        """Write `qc.csv`; it is not read again, so it may be made safe for spreadsheets."""
        write_table(self.folder / "qc.csv", quality, for_spreadsheets=csv_safe)
