"""What was answered for new patients: for programs, for tables, and for people."""

import itertools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from files.tables import write_table
from files.writing import real_folder, remove_folder, replacing
from pipeline.core.provenance import digest
from pipeline.store.base import Artifact, read_json, write_json
from preprocessing.io import write_volume

LONGEST_NAME = 80  # characters of an observation in a file name


class PredictionSet(Artifact):
    """`predictions.json` holds everything; `predictions.csv` a row a patient; `index.html` leads to the pages."""

    FILES: ClassVar = ("predictions.json", "predictions.csv", "index.html")
    PAGES, MAPS = "patients", "maps"

    def save(self, content: Mapping[str, Any], table: pd.DataFrame, *, csv_safe: bool = False) -> None:
        """Write the JSON and the table, which nothing here reads again, so that it may be for spreadsheets.

        Args:
            content: of `predictions.json`.
            table: of `predictions.csv`.
            csv_safe: as `for_spreadsheets` of `files.tables.write_table`.
        """
        write_json(self.folder / "predictions.json", content)
        write_table(self.folder / "predictions.csv", table, for_spreadsheets=csv_safe)

    def save_pages(self, night: str, pages: Iterable[tuple[str, str]]) -> None:
        """Write the list of patients, and each page at its path below the folder; those of earlier runs go.

        Raises:
            PlantedLinkError: the folder, or that of the pages, is a link.
        """
        self._emptied(self.PAGES)
        for name, page in itertools.chain(pages, [("index.html", night)]):
            with replacing(self.folder / name) as part:
                part.write_text(page, "utf-8")

    def integrity_error(self) -> str:
        """Pages and maps count too."""
        content = self.predictions()
        patients = content.get("patients", ())
        maps = [scan.get("map") for patient in patients for scan in patient["scans"]]
        names = [*self.page_names([patient["observation"] for patient in patients]).values(), *filter(None, maps)]
        gone = [name for name in names if not (self.folder / name).exists()]
        return super().integrity_error() or (f"{gone[0]} is gone" if gone else "")

    def remove_maps(self) -> None:
        """Remove the maps of earlier answers."""
        self._emptied(self.MAPS)

    def _emptied(self, name: str) -> None:
        """An empty folder in this one; no link is followed, at no level below the workspace."""
        remove_folder(real_folder(self.folder, below=self.folder.parent) / name, below=self.folder)

    def save_map(self, scan: str, volume: NDArray[np.float32], affine: NDArray[np.float64], description: str) -> str:
        """Write a decision map (X, Y, Z); returns its path below the folder."""
        name = f"{self.MAPS}/{scan}.nii.gz"
        real_folder(self.folder / self.MAPS, below=self.folder.parent)
        with replacing(self.folder / name) as part:
            write_volume(part, volume, affine, description)
        return name

    def predictions(self) -> dict[str, Any]:
        """The content of `predictions.json`."""
        return read_json(self.folder / "predictions.json") or {}

    @classmethod
    def page_names(cls, observations: list[str]) -> dict[str, str]:
        """Observation → where its page lies below the folder: safe as a file name, and unique."""
        names = {}
        for observation in observations:
            safe = re.sub("[^A-Za-z0-9_-]|^-", "_", observation)[:LONGEST_NAME]
            if safe != observation:
                safe += f"-{digest(observation)[:12]}"
            names[observation] = f"{cls.PAGES}/{safe}.html"
        return names

    @property
    def index(self) -> Path:
        """The list of patients."""
        return self.folder / "index.html"

    def contents(self) -> dict[str, Any]:
        """Nobody reads on from here; the fingerprint is that of what was answered."""
        content = self.predictions()
        return {"fingerprint": digest([content.get("patients"), content.get("refused")])}
