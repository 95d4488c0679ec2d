"""The artifact of the stage impute: feature maps that were never scanned, and how sure the joint model is of them."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from files.reading import file_sha256
from files.writing import real_folder, remove_folder, replacing
from pipeline.core.provenance import digest
from pipeline.store.base import Artifact, DamagedError

TEXT = ("observation", "subject", "split", "modality", "from", "file", "sha256")
MARK = {"origin": "imputed"}  # one entry: their order in a file is by chance, and so would be its hash


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


class ImputedSet(Artifact):
    """`imputed.csv`, a row for each repeat and missing modality; `quality.csv`; `repeat-N/imputed_….safetensors`."""

    FILES: ClassVar = ("imputed.csv", "quality.csv")
    COLUMNS: ClassVar = ("repeat", "observation", "subject", "split", "modality", "from", "sd", "file", "sha256")

    def save(self, repeat: int, observation: str, modality: str, imputed: Imputed) -> tuple[str, str]:
        """Write an imputed feature map; its file says that it is one. Return its path below the folder, and its hash.

        Raises:
            ValueError: shapes that do not fit, or numbers that are not finite.
        """
        tensors = {"mean": imputed.mean, "sd": imputed.sd, "draws": imputed.draws}
        fit = imputed.mean.shape == imputed.sd.shape == imputed.draws.shape[1:]
        if not fit or not all(t.dtype == torch.float32 and t.isfinite().all() for t in tensors.values()):
            raise ValueError(f"{observation}, {modality}: expected finite float32, draws of the shape of mean and sd")
        folder = real_folder(self.folder / f"repeat-{repeat}", below=self.folder)
        safe = re.sub(r"[^A-Za-z0-9_-]", "_", f"{observation}_{modality}")[:80]
        name = f"{folder.name}/imputed_{safe}_{digest([observation, modality])[:12]}.safetensors"
        content = safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()}, metadata=MARK)
        with replacing(self.folder / name) as partial:
            partial.write_bytes(content)
        return name, file_sha256(self.folder / name)

    def begin(self) -> None:
        """Remove what an earlier run imputed: other patients may lack other scans now."""
        for folder in self.folder.glob("repeat-*"):
            remove_folder(folder, below=self.folder)

    def read(self, name: str = "imputed.csv") -> pd.DataFrame:
        """Return `imputed.csv` or `quality.csv`."""
        kept = dict.fromkeys(TEXT, str)
        return pd.read_csv(self.folder / name, dtype=kept, keep_default_na=False, na_values=[""])

    def load(self, file: str, sha256: str) -> Imputed:
        """Load an imputed feature map by its row of the table.

        Raises:
            DamagedError: the file is missing or not as it was written.
        """
        path = self.folder / file
        if not path.is_file() or file_sha256(path) != sha256:
            raise DamagedError(f"{path} is missing or damaged; run --stages impute --force impute")
        tensors = safetensors.torch.load_file(path)
        return Imputed(tensors["mean"], tensors["sd"], tensors["draws"])

    def files(self) -> list[Path]:
        """List the files of the stage, with the imputed feature maps."""
        return sorted([*super().files(), *self.folder.glob("repeat-*/imputed_*.safetensors")])

    def contents(self) -> dict[str, Any]:
        """Return the fingerprint of the tables; `imputed.csv` holds the hash of every feature map."""
        return {"fingerprint": digest([file_sha256(self.folder / name) for name in self.FILES])}
