"""The artifact of the stage hypothesise: effects with intervals and controls, patients' own differences, images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from files.reading import file_sha256
from files.writing import real_folder, remove_folder
from pipeline.core.provenance import digest
from pipeline.store.base import Artifact, ArtifactError, read_json, write_json
from pipeline.store.made_images import IMPUTED, read_arrays, stem_of, write_arrays, write_image

TEXT = (
    *("hypothesis", "source", "held", "target", "observation", "subject", "says", "note"),
    *("kind", "images", "file", "sha256"),
)
FOLDER = "images"


class HypothesisTables(Artifact):
    """`effects.csv`, a row a hypothesis and target; `patients.csv`; `maps.csv`, where on a feature map; a JSON.

    `images.csv`: a row for each hypothesis and target with images. `images/imputed_….safetensors`: these as arrays;
    `imputed_…_before`, `_after` (.nii.gz or .png), `_difference`, `_sd` (.nii.gz), and a .json beside each.
    """

    FILES: ClassVar = ("effects.csv", "patients.csv", "maps.csv", "images.csv", "hypotheses.json")
    EFFECTS: ClassVar = (
        "hypothesis", "source", "held", "target", "patients", "refused", "effect", "low", "high", "p", "p_holm",
        "of_parameters", "permuted", "permuted_low", "permuted_high", "random", "random_low", "random_high", "says",
        "note",
    )  # fmt: skip
    PATIENTS: ClassVar = ("repeat", "hypothesis", "target", "observation", "subject", "difference", "sd")
    MAPS: ClassVar = ("hypothesis", "target", "row", "column", "change", "sd")
    IMAGES: ClassVar = ("hypothesis", "target", "kind", "patients", "images", "file", "sha256")

    def begin(self) -> None:
        """Remove the images of an earlier run: other hypotheses may have been asked then."""
        if (self.folder / FOLDER).exists():
            remove_folder(self.folder / FOLDER, below=self.folder)

    def save(
        self,
        effects: pd.DataFrame,
        patients: pd.DataFrame,
        maps: pd.DataFrame,
        images: pd.DataFrame,
        facts: dict[str, Any],
    ) -> None:
        """Write all tables and the facts."""
        self.save_table("effects.csv", effects, self.EFFECTS)
        self.save_table("patients.csv", patients, self.PATIENTS)
        self.save_table("maps.csv", maps, self.MAPS)
        self.save_table("images.csv", images, self.IMAGES)
        write_json(self.folder / "hypotheses.json", facts)

    def stem(self, hypothesis: str, target: str) -> str:
        """Return the path of the images of a hypothesis and target below the folder, without its ending."""
        return f"{FOLDER}/{stem_of(IMPUTED, hypothesis, target)}"

    def save_image(self, file: str, content: bytes, facts: Mapping[str, Any]) -> None:
        """Write an image and, beside it, what it is, as JSON."""
        write_image(self._images() / file, content, facts)

    def save_arrays(self, stem: str, images: Mapping[str, NDArray[np.float32]]) -> tuple[str, str]:
        """Write the images of a hypothesis and target as arrays; return path below the folder, and hash.

        Args:
            stem: of the path.
            images: `before`, `after`, `difference` and `sd`, about [0, 1], (X, Y, Z) or (H, W, 3) each.
        """
        name = f"{stem}.safetensors"
        return name, write_arrays(self._images() / Path(name).name, images)

    def load_arrays(self, file: str, sha256: str) -> dict[str, NDArray[np.float32]]:
        """Return the images that `save_arrays` wrote, by their row of `images.csv`.

        Raises:
            DamagedError: the file is missing or not as it was written.
        """
        return read_arrays(self.folder / file, sha256, self.folder.name)

    def _images(self) -> Path:
        return real_folder(self.folder / FOLDER, below=self.folder)

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

    def whole(self) -> bool:
        """Return whether all tables are there; an earlier version of the stage wrote fewer."""
        return all((self.folder / name).is_file() for name in self.FILES)

    def files(self) -> list[Path]:
        """List the files of the stage, with the images."""
        return sorted([*super().files(), *(self.folder / FOLDER).glob(f"{IMPUTED}_*")])

    def contents(self) -> dict[str, Any]:
        """Return the fingerprint of all tables, one of which holds the hashes of the images, and counts."""
        effects = self.read()
        return {
            "fingerprint": digest([file_sha256(self.folder / name) for name in self.FILES]),
            "counts": {"hypotheses": int(effects["hypothesis"].nunique()), "effects": len(effects)},
        }
