"""Cohorts that are made here."""

from pathlib import Path

from pipeline.store.scan_set import ScanSet


class PhantomCohort(ScanSet):
    """The demo cohort: NIfTI scans, `manifest.csv` like anyone's, and the truth that only tests read."""

    SCAN, TRUE_MASK = "scan.nii.gz", "true_mask.nii.gz"

    @property
    def manifest_csv(self) -> Path:
        """The cohort's manifest."""
        return self.folder / "manifest.csv"


class PictureCohort(ScanSet):
    """The cohort of drawn biopsies: a PNG a picture, `manifest.csv` like anyone's."""

    PICTURE = "biopsy.png"

    @property
    def manifest_csv(self) -> Path:
        """The cohort's manifest."""
        return self.folder / "manifest.csv"
