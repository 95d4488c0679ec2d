"""The artifact of the stage impute: scans that were never made, and how sure the joint model is of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from files.reading import file_sha256
from files.writing import real_folder, remove_folder, replacing
from pipeline.core.provenance import digest
from pipeline.store.base import Artifact
from pipeline.store.made_images import IMPUTED, MARK, as_written, read_arrays, stem_of, write_arrays, write_image

TEXT = (
    *("observation", "subject", "split", "modality", "kind", "from", "file", "sha256", "images"),
    *("conclusion", "moved"),
)


@dataclass(frozen=True)
class Imputed:
    """An imputed feature map.

    Attributes:
        mean: (C, H, W) float32.
        sd: standard deviation, (C, H, W) float32.
        draws: (S, C, H, W) float32.
    """

    mean: Tensor
    sd: Tensor
    draws: Tensor


@dataclass(frozen=True)
class BesideReal:
    """An image that was imputed although its scan is there, beside that scan; all on the grid of the decoder.

    Attributes:
        real: (X, Y, Z) or (H, W, 3), float32 in about [0, 1].
        mean: imputed, of the same shape.
        sd: standard deviation over draws, of the same shape.
        draws: some draws, (S, …).
    """

    real: NDArray[np.float32]
    mean: NDArray[np.float32]
    sd: NDArray[np.float32]
    draws: NDArray[np.float32]


class ImputedSet(Artifact):
    """Tables, and in `repeat-N/` feature maps and images of what is missing.

    `imputed.csv`: a row for each repeat and missing modality. `quality.csv`, `beside.csv`: test patients whose own scan
    was hidden, and those of them whose images are kept. `tipping.csv`, `selection.csv`: as `pipeline.training.tipping`
    makes them. `repeat-N/imputed_….safetensors`: feature maps;
    `imputed_…_mean`, `_sd`, `_draw-1`, … (.nii.gz or .png, and .json): images; `beside_….safetensors`: a real scan and
    what was imputed in its place.
    """

    FILES: ClassVar = ("imputed.csv", "quality.csv", "beside.csv", "tipping.csv", "selection.csv")
    COLUMNS: ClassVar = (
        "repeat", "observation", "subject", "split", "modality", "from", "sd", "file", "sha256", "images"
    )  # fmt: skip
    BESIDE: ClassVar = (
        "repeat", "observation", "modality", "kind", "from", "error", "error_without", "file", "sha256"
    )  # fmt: skip

    def save(self, repeat: int, observation: str, modality: str, imputed: Imputed) -> tuple[str, str]:
        """Write an imputed feature map; its file says that it is one. Return its path below the folder, and its hash.

        Raises:
            ValueError: shapes that do not fit, or numbers that are not finite.
        """
        tensors = {"mean": imputed.mean, "sd": imputed.sd, "draws": imputed.draws}
        fit = imputed.mean.shape == imputed.sd.shape == imputed.draws.shape[1:]
        if not fit or not all(t.dtype == torch.float32 and t.isfinite().all() for t in tensors.values()):
            raise ValueError(f"{observation}, {modality}: expected finite float32, draws of the shape of mean and sd")
        name = f"{self.stem(IMPUTED, repeat, observation, modality)}.safetensors"
        return name, self._write(name, safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()}, MARK))

    def save_image(self, repeat: int, file: str, content: bytes, facts: Mapping[str, Any]) -> None:
        """Write an imputed image and, beside it, what it is, as JSON."""
        write_image(self._of_repeat(repeat) / file, content, facts)

    def save_beside(self, repeat: int, observation: str, modality: str, images: BesideReal) -> tuple[str, str]:
        """Write a real scan and what was imputed in its place; return path below the folder, and hash."""
        name = f"{self.stem('beside', repeat, observation, modality)}.safetensors"
        return name, write_arrays(self._of_repeat(repeat) / Path(name).name, vars(images))

    def stem(self, what: str, repeat: int, observation: str, modality: str) -> str:
        """Return the path of a file below the folder, without its ending."""
        return f"repeat-{repeat}/{stem_of(what, observation, modality)}"

    def begin(self) -> None:
        """Remove what an earlier run imputed: other patients may lack other scans now."""
        for folder in self.folder.glob("repeat-*"):
            remove_folder(folder, below=self.folder)

    def read(self, name: str = "imputed.csv") -> pd.DataFrame:
        """Return `imputed.csv`, `quality.csv` or `beside.csv`."""
        kept = dict.fromkeys(TEXT, str)
        table = pd.read_csv(self.folder / name, dtype=kept, keep_default_na=False, na_values=[""])
        return table.fillna({"images": ""})

    def load(self, file: str, sha256: str) -> Imputed:
        """Load an imputed feature map by its row of the table.

        Raises:
            DamagedError: the file is missing or not as it was written.
        """
        tensors = safetensors.torch.load_file(as_written(self.folder / file, sha256, self.folder.name))
        return Imputed(tensors["mean"], tensors["sd"], tensors["draws"])

    def load_beside(self, file: str, sha256: str) -> BesideReal:
        """Load a real scan and what was imputed in its place by its row of `beside.csv`.

        Raises:
            DamagedError: the file is missing or not as it was written.
        """
        return BesideReal(**read_arrays(self.folder / file, sha256, self.folder.name))

    def whole(self) -> bool:
        """Return whether all tables are there; an earlier version of the stage wrote fewer."""
        return all((self.folder / name).is_file() for name in self.FILES)

    def files(self) -> list[Path]:
        """List the files of the stage, with the imputed feature maps and images."""
        kept = (path for path in self.folder.glob("repeat-*/*") if path.name.startswith((f"{IMPUTED}_", "beside_")))
        return sorted([*super().files(), *kept])

    def contents(self) -> dict[str, Any]:
        """Return the fingerprint of the tables, which hold the hash of every feature map."""
        return {"fingerprint": digest([file_sha256(self.folder / name) for name in self.FILES])}

    def _of_repeat(self, repeat: int) -> Path:
        return real_folder(self.folder / f"repeat-{repeat}", below=self.folder)

    def _write(self, name: str, content: bytes) -> str:
        path = self._of_repeat(int(name.split("/")[0].removeprefix("repeat-"))) / Path(name).name
        with replacing(path) as partial:
            partial.write_bytes(content)
        return file_sha256(path)
