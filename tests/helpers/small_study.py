"""A manifest of a few scans of our own, run to the stage preprocess."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from pipeline.cli.main import main


class SmallStudy:
    """A folder with `cohort.csv` and `run.yaml`, and its workspace `run`."""

    def __init__(self, folder: Path, rows: list[dict[str, Any]], modalities: dict[str, Any], **sections: Any) -> None:
        self.folder = folder
        pd.DataFrame(rows).to_csv(folder / "cohort.csv", index=False)
        label = "class" if "class" in rows[0] else None
        cohort = {"manifest": str(folder / "cohort.csv"), "label": label, "modalities": modalities}
        (folder / "run.yaml").write_text(yaml.safe_dump({"name": "small", "cohort": cohort, **sections}))

    def run(self, *words: str) -> int:
        """Preprocess."""
        place = ["--config", str(self.folder / "run.yaml"), "--workspace", str(self.folder / "run"), "--quiet"]
        return main([*place, "--stages", "preprocess", *words])

    def records(self) -> dict[str, dict[str, Any]]:
        """Scan → its record, and when that was written."""
        found = sorted((self.folder / "run" / "preprocess").glob("*/record.json"))
        return {p.parent.name: json.loads(p.read_text()) | {"written": p.stat().st_mtime_ns} for p in found}

    def notes(self) -> list[str]:
        """Notes of the stage."""
        return json.loads((self.folder / "run" / "preprocess" / "manifest.json").read_text())["notes"]


def two_patients(folder: Path, save: Callable[[Path, int, str], object], *, spacing_mm: float) -> SmallStudy:
    """Make a study of two patients with MRI and PET, stripped already; `save` writes a scan of a patient.

    The settings also name a modality of pictures, which nobody has.
    """
    rows = []
    for patient in (0, 1):
        for modality in ("MRI", "PET"):
            path = folder / f"p{patient + 1}_{modality}.nii.gz"
            save(path, patient, modality)
            rows.append({"subject": f"p{patient + 1}", "modality": modality, "path": path.name})
    modalities = {name: {"kind": "volume", "skull_strip": False} for name in ("MRI", "PET")}
    return SmallStudy(folder, rows, modalities | {"drawing": {"kind": "image"}}, preprocess={"spacing_mm": spacing_mm})
