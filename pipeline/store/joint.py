"""The artifact of the stage joint: a joint model for each repeat, and the embedding of every patient."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from files.reading import file_sha256
from models.joint.blocks import FloatArray
from models.joint.decoder import Decoder
from models.joint.model import JointModel
from models.joint.state import TRAINING, Arrays, decoder_from_arrays, decoder_to_arrays, from_arrays, to_arrays
from pipeline.core.provenance import digest
from pipeline.store.base import ArtifactError, DamagedError, read_record
from pipeline.store.fitted import RepeatSet
from pipeline.store.in_training import in_training, save_in_training

DECODER = "decoder."  # before the names of a decoder's arrays
ENGINES = "in-training"  # folder of the diffusion engines that are not finished
MISSING = -1e300  # in place of NaN, which no weights may have
TEXT = ("observation", "subject", "split", "label", "has")


class JointSet(RepeatSet):
    """`repeat-N/weights.safetensors` (bases, Gaussian, sums, decoders), its record, and `embeddings.csv`.

    The sums of a cell with one patient are that patient's scores: the folder holds personal data like feature maps do.
    """

    FILES: ClassVar = ("embeddings.csv",)

    def save_model(
        self,
        repeat: int,
        key: str,
        model: JointModel,
        scores: FloatArray,
        decoders: Mapping[str, Decoder],
        facts: Mapping[str, Any],
    ) -> None:
        """Write the model of a repeat, the scores that it was learnt from, decoders, and facts beside them."""
        arrays, about = to_arrays(model)
        arrays[TRAINING] = np.nan_to_num(scores, nan=MISSING)
        decoded = {}
        for number, (modality, decoder) in enumerate(decoders.items()):
            own, decoded[modality] = decoder_to_arrays(decoder)
            arrays |= {f"{DECODER}{number}.{name}": values for name, values in own.items()}
        state = {name: torch.from_numpy(np.array(values, order="C")) for name, values in arrays.items()}
        self.save(repeat, key, state, None, {**facts, "model": about, "decoders": decoded})

    def save_engine(self, repeat: int, key: str, state: Mapping[str, Tensor]) -> None:
        """Write the state of a repeat's diffusion engine in training, to go on from."""
        save_in_training(self._engine(repeat), key, state)

    def engine(self, repeat: int, key: str) -> dict[str, Tensor] | None:
        """Return the state of a repeat's diffusion engine; None if it is missing, damaged, or of another key."""
        return in_training(self._engine(repeat), key)

    def drop_engine(self, repeat: int) -> None:
        """Remove the state of a finished repeat, whose weights have what is needed of it."""
        self._engine(repeat).unlink(missing_ok=True)

    def _engine(self, repeat: int) -> Path:
        return self.folder / ENGINES / f"{repeat}.safetensors"

    def model(self, repeat: int) -> JointModel:
        """Load the model of a repeat.

        Raises:
            DamagedError: the file is not as it was written.
            ArtifactError: the repeat is not finished.
        """
        arrays, record = self.arrays(repeat)
        try:
            return from_arrays(arrays, record["model"])
        except ValueError as error:
            raise DamagedError(f"{self.folder_of(repeat)}: {error}") from error

    def training_scores(self, repeat: int) -> dict[str, FloatArray]:
        """Return training observation → scores that the model was learnt from, (d,), NaN where a block is missing.

        Raises:
            DamagedError: the file is not as it was written.
            ArtifactError: the repeat is not finished.
        """
        arrays, record = self.arrays(repeat)
        rows = np.where(arrays[TRAINING] == MISSING, np.nan, arrays[TRAINING])
        return dict(zip(record["train_observations"], rows, strict=True))

    def decoders(self, repeat: int) -> dict[str, Decoder]:
        """Load modality → decoder of a repeat; none if it was not wanted, or for tables.

        Raises:
            DamagedError: the file is not as it was written.
            ArtifactError: the repeat is not finished.
        """
        arrays, record = self.arrays(repeat, decoders=True)
        found = {}
        for number, (modality, facts) in enumerate(record["decoders"].items()):
            prefix = f"{DECODER}{number}."
            own = {name.removeprefix(prefix): each for name, each in arrays.items() if name.startswith(prefix)}
            try:
                found[modality] = decoder_from_arrays(own, facts)
            except ValueError as error:
                raise DamagedError(f"{self.folder_of(repeat)}: {error}") from error
        return found

    def arrays(self, repeat: int, *, decoders: bool = False) -> tuple[Arrays, dict[str, Any]]:
        """Return the arrays of the model of a repeat, or of its decoders, and its record.

        Raises:
            DamagedError: the file is not as it was written.
            ArtifactError: the repeat is not finished.
        """
        record = self.record(repeat)
        if record is None or "model" not in record:
            raise ArtifactError(f"{self.folder} has no joint model of repeat {repeat}; run --stages joint first")
        state = self.state(repeat)
        return {n: values.numpy() for n, values in state.items() if n.startswith(DECODER) == decoders}, record

    def embeddings(self) -> pd.DataFrame:
        """Return a row for each repeat and observation.

        Columns: repeat, observation, subject, split, label, has (modalities, joined by +), distance, outside, e1 … er
        (mean), sd1 … sdr, and cov_i_j for i < j. `has` is "" where the model has learnt none of the scans.
        """
        table = pd.read_csv(
            self.folder / "embeddings.csv", dtype=dict.fromkeys(TEXT, str), keep_default_na=False, na_values=[""]
        )
        return table.fillna({"has": ""})

    def contents(self) -> dict[str, Any]:
        """Return the fingerprint of the models and of the table; settings of a network's draws are no weights."""
        files = [*sorted(self.folder.glob("repeat-*/weights.safetensors")), self.folder / "embeddings.csv"]
        parts: list[list[Any]] = [[f.parent.name, file_sha256(f)] for f in files]
        for record in sorted(self.folder.glob("repeat-*/record.json")):
            about = (read_record(record) or {}).get("model") or {}
            if about.get("diffusion"):
                parts.append([record.parent.name, about["diffusion"]])
        return {"fingerprint": digest(parts)}
