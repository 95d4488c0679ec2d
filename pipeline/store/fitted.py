"""Artifacts with one folder per repeat: fitted networks, their histories and predictions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import safetensors.torch
from torch import Tensor

from files.reading import file_sha256
from files.writing import real_folder, remove_folder, replacing
from pipeline.core.provenance import digest
from pipeline.store.base import Artifact, ArtifactError, DamagedError, read_json, read_record, write_record


class RepeatSet(Artifact):
    """One folder per repeat: `weights.safetensors`, `history.csv`, `record.json` (written last, with its key)."""

    def folder_of(self, repeat: int) -> Path:
        """Return the folder of a repeat."""
        return self.folder / f"repeat-{repeat}"

    def record(self, repeat: int) -> dict[str, Any] | None:
        """Return the record of the weights, with the subjects trained on; None if not finished."""
        return read_record(self.folder_of(repeat) / "record.json")

    def has(self, repeat: int, key: str) -> bool:
        """Return whether the repeat is finished, made from `key`, and its weights are as they were written."""
        record, weights = self.record(repeat) or {}, self.folder_of(repeat) / "weights.safetensors"
        return record.get("key") == key and weights.is_file() and record.get("weights") == file_sha256(weights)

    def files(self) -> list[Path]:
        """List the files of the stage, with weights, histories and records."""
        return sorted([*super().files(), *(path for path in self.folder.glob("repeat-*/*.*") if path.is_file())])

    def save(
        self, repeat: int, key: str, state: Mapping[str, Tensor], history: pd.DataFrame | None, facts: Mapping[str, Any]
    ) -> None:
        """Write the weights, the history, if there is one, and the record of a repeat.

        Raises:
            ArtifactError: `facts` does not list the train and validation subjects.
        """
        for needed in ("train_subjects", "validation_subjects"):
            if needed not in facts:
                raise ArtifactError(f"a fitted artifact must record its {needed}")
        folder = self.folder_of(repeat)
        real_folder(folder, below=self.folder)
        (folder / "record.json").unlink(missing_ok=True)
        with replacing(folder / "weights.safetensors") as partial:
            partial.write_bytes(safetensors.torch.save({k: v.cpu().contiguous() for k, v in state.items()}))
        if history is not None:
            self.save_table(f"{folder.name}/history.csv", history)
        weights = file_sha256(folder / "weights.safetensors")
        write_record(folder / "record.json", {"key": key, "weights": weights, **facts})

    def keep_only(self, repeats: list[int]) -> None:
        """Remove the folders of all other repeats."""
        for folder in self.folder.glob("repeat-*"):
            if folder.name not in {f"repeat-{repeat}" for repeat in repeats}:
                remove_folder(folder, below=self.folder)

    def state(self, repeat: int) -> dict[str, Tensor]:
        """Load the weights of a repeat.

        Raises:
            DamagedError: the weights cannot be read, are not as they were written, or not finite.
        """
        path, record = self.folder_of(repeat) / "weights.safetensors", self.record(repeat) or {}
        try:
            state = safetensors.torch.load_file(path)
            whole = file_sha256(path) == record.get("weights") and all(w.isfinite().all() for w in state.values())
        except (OSError, safetensors.SafetensorError) as error:
            raise DamagedError(f"{path} cannot be read: {error}") from error
        if not whole:
            raise DamagedError(f"{path} is damaged: not the finite weights that were written")
        return state

    def contents(self) -> dict[str, Any]:
        """Return the fingerprint of the weights; it does not depend on the settings."""
        files = sorted(self.folder.glob("repeat-*/weights.safetensors"))
        return {"fingerprint": digest([[f.parent.name, file_sha256(f)] for f in files])}

    def histories(self) -> pd.DataFrame:
        """Return the histories of all repeats in one table, with a first column `repeat`."""
        paths = sorted(self.folder.glob("repeat-*/history.csv"), key=lambda p: int(p.parent.name.split("-")[1]))
        frames = []
        for path in paths:
            frame = pd.read_csv(path)
            frame.insert(0, "repeat", int(path.parent.name.split("-")[1]))
            frames.append(frame)
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


class ExtractorSet(RepeatSet):
    """Feature extractor φ of every repeat."""


class ClassifierSet(RepeatSet):
    """Classifier ρ of every repeat, predictions, `metrics.json`, and metrics per subset in `subsets.csv`."""

    FILES: ClassVar = ("predictions.csv", "validation_predictions.csv", "metrics.json", "subsets.csv")

    def contents(self) -> dict[str, Any]:
        """Return the fingerprint of the weights and of what was predicted and measured with them."""
        files = [[name, file_sha256(self.folder / name)] for name in self.FILES if (self.folder / name).is_file()]
        return {"fingerprint": digest([super().contents()["fingerprint"], files])}

    def predictions(self, split: str = "test") -> pd.DataFrame:
        """Return the predictions, one row per observation and repeat; `split` is "test" or "validation"."""
        name = "predictions.csv" if split == "test" else "validation_predictions.csv"
        text = {"subject": str, "observation": str, "scans_used": str, "truth": str}
        return pd.read_csv(self.folder / name, dtype=text, keep_default_na=False)

    def subsets(self) -> pd.DataFrame:
        """Return the metrics, one row per subset of modalities, group of subjects and threshold."""
        text = {"modalities": str, "subjects": str, "threshold": str}
        frame = pd.read_csv(self.folder / "subsets.csv", dtype=text, keep_default_na=False)
        numbers = frame.columns.difference(list(text))
        return frame.assign(**{name: pd.to_numeric(frame[name], errors="coerce") for name in numbers})

    def metrics(self) -> dict[str, Any]:
        """Return the content of `metrics.json`."""
        return read_json(self.folder / "metrics.json") or {}
