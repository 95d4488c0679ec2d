"""The artifact of the stage joint: a joint model for each repeat, and the embedding of every patient."""

from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from files.reading import file_sha256
from models.joint.model import JointModel
from models.joint.state import Arrays, from_arrays
from pipeline.core.provenance import digest
from pipeline.store.base import ArtifactError, DamagedError
from pipeline.store.fitted import RepeatSet

TEXT = ("observation", "subject", "split", "label", "has")


class JointSet(RepeatSet):
    """`repeat-N/weights.safetensors` (bases, Gaussian, sums), its record, and `embeddings.csv`.

    The sums of a cell with one patient are that patient's scores: the folder holds personal data like feature maps do.
    """

    FILES: ClassVar = ("embeddings.csv",)

    def save_model(self, repeat: int, key: str, arrays: Arrays, facts: dict[str, Any]) -> None:
        """Write the model of a repeat: arrays, and facts with `model` as `models.joint.state.to_arrays` made it."""
        state = {name: torch.from_numpy(np.array(values, order="C")) for name, values in arrays.items()}
        self.save(repeat, key, state, None, facts)

    def model(self, repeat: int) -> JointModel:
        """Load the model of a repeat.

        Raises:
            DamagedError: the file is not as it was written.
            ArtifactError: the repeat is not finished.
        """
        record = self.record(repeat)
        if record is None or "model" not in record:
            raise ArtifactError(f"{self.folder} has no joint model of repeat {repeat}; run --stages joint first")
        arrays = {name: values.numpy() for name, values in self.state(repeat).items()}
        try:
            return from_arrays(arrays, record["model"])
        except ValueError as error:
            raise DamagedError(f"{self.folder_of(repeat)}: {error}") from error

    def embeddings(self) -> pd.DataFrame:
        """Return a row for each repeat and observation.

        Columns: repeat, observation, subject, split, label, has (modalities, joined by +), distance, outside, e1 … er
        (mean), sd1 … sdr, and cov_i_j for i < j.
        """
        return pd.read_csv(
            self.folder / "embeddings.csv", dtype=dict.fromkeys(TEXT, str), keep_default_na=False, na_values=[""]
        )

    def contents(self) -> dict[str, Any]:
        """Return the fingerprint of the models and of the table."""
        files = [*sorted(self.folder.glob("repeat-*/weights.safetensors")), self.folder / "embeddings.csv"]
        return {"fingerprint": digest([[f.parent.name, file_sha256(f)] for f in files])}
