"""Artifact of the stage predict: predictions for new patients as JSON, CSV and HTML."""

import itertools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import nibabel
import numpy as np
import pandas as pd
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from files.tables import write_table
from files.writing import real_folder, remove_folder, replacing
from pipeline.core.provenance import digest
from pipeline.store.base import ArtifactError, read_json, write_json
from pipeline.store.viewers import WithViewers
from preprocessing.volumes import write_volume

LONGEST_NAME = 80  # characters of an observation in a file name


class PredictionSet(WithViewers):
    """Predictions for new patients: `predictions.json` (complete), `predictions.csv`, `index.html`, pages."""

    FILES: ClassVar = ("predictions.json", "predictions.csv", "index.html")
    PAGES, MAPS = "patients", "maps"

    def save(self, content: Mapping[str, Any], table: pd.DataFrame, *, csv_safe: bool = False) -> None:
        """Write the JSON and the table; the table is not read again, so it may be made safe for spreadsheets.

        Args:
            content: of `predictions.json`.
            table: of `predictions.csv`.
            csv_safe: as `for_spreadsheets` of `files.tables.write_table`.
        """
        write_json(self.folder / "predictions.json", content)
        write_table(self.folder / "predictions.csv", table, for_spreadsheets=csv_safe)

    def save_pages(self, worklist: str, pages: Iterable[tuple[str, str]]) -> None:
        """Write the worklist, and each page at its path below the folder; pages of earlier runs are removed.

        Raises:
            PlantedLinkError: the folder, or that of the pages, is a symbolic link.
        """
        self._remove_folder(self.PAGES)
        self.remove_viewers()
        for name, page in itertools.chain(pages, [("index.html", worklist)]):
            with replacing(self.folder / name) as partial:
                partial.write_text(page, "utf-8")

    def integrity_error(self) -> str:
        """Describe how the folder differs from its manifest, with pages and occlusion maps, or return ""."""
        content = self.predictions()
        patients = content.get("patients", ())
        maps = [scan.get("map") for patient in patients for scan in patient["scans"]]
        names = [*self.page_names([patient["observation"] for patient in patients]).values(), *filter(None, maps)]
        missing = [name for name in names if not (self.folder / name).exists()]
        return super().integrity_error() or (f"{missing[0]} is missing" if missing else "")

    def remove_maps(self) -> None:
        """Remove the occlusion maps of earlier predictions."""
        self._remove_folder(self.MAPS)

    def _remove_folder(self, name: str) -> None:
        """Remove a folder of this artifact; no symbolic link below the workspace is followed."""
        remove_folder(real_folder(self.folder, below=self.folder.parent) / name, below=self.folder)

    def save_map(self, scan: str, volume: NDArray[np.float32], affine: NDArray[np.float64], description: str) -> str:
        """Write an occlusion map (X, Y, Z); return its path below the folder."""
        name = f"{self.MAPS}/{scan}.nii.gz"
        real_folder(self.folder / self.MAPS, below=self.folder.parent)
        with replacing(self.folder / name) as partial:
            write_volume(partial, volume, affine, description)
        return name

    def load_map(self, path: str) -> NDArray[np.float32] | None:
        """Load an occlusion map by its path below the folder; None for no path, or a map without a difference.

        Raises:
            ArtifactError: it cannot be read.
        """
        if not path:
            return None
        try:
            volume = nibabel.load(self.folder / path).get_fdata(dtype=np.float32)
        except (OSError, EOFError, ImageFileError) as error:
            again = f"rerun with --force {self.folder.name}"
            raise ArtifactError(f"cannot read {self.folder / path}: {error}; {again}") from error
        return volume if np.ptp(volume) else None

    def predictions(self) -> dict[str, Any]:
        """Return the content of `predictions.json`."""
        return read_json(self.folder / "predictions.json") or {}

    @classmethod
    def page_names(cls, observations: list[str]) -> dict[str, str]:
        """Return observation → path of its page below the folder, safe as a file name and unique."""
        names = {}
        for observation in observations:
            safe = re.sub("[^A-Za-z0-9_-]|^-", "_", observation)[:LONGEST_NAME]
            if safe != observation:
                safe += f"-{digest(observation)[:12]}"
            names[observation] = f"{cls.PAGES}/{safe}.html"
        return names

    @property
    def index(self) -> Path:
        """Path of the worklist."""
        return self.folder / "index.html"

    def contents(self) -> dict[str, Any]:
        """Return the fingerprint of the predictions; no other stage reads them."""
        content = self.predictions()
        return {"fingerprint": digest([content.get("patients"), content.get("refused")])}
