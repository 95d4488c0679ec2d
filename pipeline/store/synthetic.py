"""Artifacts of the stages synthesise and judge."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import safetensors.numpy
from numpy.typing import NDArray
from torch import Tensor

from files.reading import file_sha256
from files.writing import real_folder, remove_folder, replacing
from pipeline.core.provenance import digest
from pipeline.store.base import Artifact, DamagedError, read_json, write_json
from pipeline.store.in_training import in_training, save_in_training
from pipeline.store.made_images import write_image
from pipeline.store.subject_hashes import add_hashes, hashed_in

IMAGES, NETWORKS = "images", "networks"
LEARNT_FROM = "learnt_from.json"


class SyntheticCohort(Artifact):
    """Patients that never were.

    `manifest.csv` (a cohort manifest, one row a scan, `origin` synthetic, `judged` no, `sha256` of its file),
    `drawn.csv` (one row a patient and modality, with the row of its feature map), `features-<number>.safetensors`
    (`feature_maps`, (n, C, H, W) float32) for each modality, `synthesis.json`, and the folder `images`; with the
    decoder kl or the engine diffusion `networks`. `learnt_from.json` has salted hashes of the training patients' ids,
    for --forget.
    """

    FILES: ClassVar = ("manifest.csv", "drawn.csv", "synthesis.json")
    MANIFEST_COLUMNS: ClassVar = ("subject", "modality", "path", "origin", "judged")
    DRAWN_COLUMNS: ClassVar = ("scan", "subject", "modality", "label", "row", "path", "sha256")

    def learn_from(self, subjects: Iterable[str]) -> None:
        """Note subjects whom networks in training learn from, beside those of what was drawn before.

        What an earlier version of the stage drew is removed: nobody knows from whom.
        """
        real_folder(self.folder, below=self.folder.parent)
        if hashed_in(self.folder / LEARNT_FROM, []) is None:
            self.discard()
        add_hashes(self.folder / LEARNT_FROM, subjects)

    def begin(self, learnt_from: Iterable[str]) -> Path:
        """Remove what earlier runs drew, and note the subjects whom is learnt from; return the folder for images."""
        real_folder(self.folder, below=self.folder.parent)
        images = self.folder / IMAGES
        remove_folder(images, below=self.folder)
        for old in self.folder.glob("features-*.safetensors"):
            old.unlink()
        (self.folder / LEARNT_FROM).unlink(missing_ok=True)
        add_hashes(self.folder / LEARNT_FROM, learnt_from)
        return real_folder(images, below=self.folder)

    def learnt_from(self, subject: str) -> bool | None:
        """Say whether what lies here was learnt from a subject; None if an earlier version of the stage made it."""
        found = hashed_in(self.folder / LEARNT_FROM, [subject])
        return None if found is None else bool(found)

    def discard(self) -> None:
        """Remove images, feature maps, and the note on whom they were learnt from; the tables stay."""
        remove_folder(self.folder / IMAGES, below=self.folder)
        for path in (*self.folder.glob("features-*.safetensors"), self.folder / LEARNT_FROM):
            path.unlink(missing_ok=True)

    def save_image(self, name: str, content: bytes, facts: Mapping[str, Any]) -> str:
        """Write an image and, beside it, what it is, as JSON; return the hash of the image."""
        return write_image(self.folder / IMAGES / name, content, facts)

    def save_networks(self, number: int, key: str, state: Mapping[str, Tensor]) -> None:
        """Write the state of a modality's networks in training, to go on from."""
        save_in_training(self.folder / NETWORKS / f"{number}.safetensors", key, state)

    def networks(self, number: int, key: str) -> dict[str, Tensor] | None:
        """Return the state of a modality's networks; None if it is missing, damaged, or of another key."""
        return in_training(self.folder / NETWORKS / f"{number}.safetensors", key)

    def save_engine(self, key: str, state: Mapping[str, Tensor]) -> None:
        """Write the state of the diffusion engine in training, to go on from."""
        save_in_training(self.folder / NETWORKS / "engine.safetensors", key, state)

    def engine(self, key: str) -> dict[str, Tensor] | None:
        """Return the state of the diffusion engine; None if it is missing, damaged, or of another key."""
        return in_training(self.folder / NETWORKS / "engine.safetensors", key)

    def save_features(self, number: int, feature_maps: NDArray[np.float32]) -> None:
        """Write the feature maps of one modality, (n, C, H, W)."""
        with replacing(self.folder / f"features-{number}.safetensors") as partial:
            partial.write_bytes(safetensors.numpy.save({"feature_maps": np.ascontiguousarray(feature_maps)}))

    def features(self, modality: str) -> NDArray[np.float32]:
        """Return the feature maps of a modality, (n, C, H, W), in the order of `row` in `drawn.csv`.

        Raises:
            DamagedError: the file is not as it was written.
        """
        number = self.facts()["modalities"].index(modality)
        path = self.folder / f"features-{number}.safetensors"
        recorded = (self.manifest or {}).get("files", {}).get(path.name)
        try:
            if recorded is None or file_sha256(path) != recorded:
                raise DamagedError(f"{path} is not as it was written; rerun with --force synthesise")
            found: NDArray[np.float32] = safetensors.numpy.load_file(path)["feature_maps"]
        except (OSError, KeyError, safetensors.SafetensorError) as error:
            raise DamagedError(f"{path} cannot be read: {error}; rerun with --force synthesise") from error
        return found

    def save(self, manifest: pd.DataFrame, drawn: pd.DataFrame, facts: Mapping[str, Any]) -> None:
        """Write the tables, and what the patients were drawn from."""
        self.save_table("manifest.csv", manifest, self.MANIFEST_COLUMNS)
        self.save_table("drawn.csv", drawn, self.DRAWN_COLUMNS)
        write_json(self.folder / "synthesis.json", facts)

    def drawn(self) -> pd.DataFrame:
        """Return one row a patient and modality; all text but `row`."""
        return self.table("drawn.csv", self.DRAWN_COLUMNS).astype({"row": int})

    def rows(self) -> pd.DataFrame:
        """Return the manifest, all text."""
        return self.table("manifest.csv", self.MANIFEST_COLUMNS)

    def facts(self) -> dict[str, Any]:
        """Return the content of `synthesis.json`."""
        return read_json(self.folder / "synthesis.json") or {}

    def image(self, path: str) -> Path:
        """Return the path of an image named in `drawn.csv`.

        Raises:
            DamagedError: it is none of the files in the folder of images.
        """
        name = Path(path).name
        if path != f"{IMAGES}/{name}" or not (self.folder / path).is_file():
            raise DamagedError(f"{self.folder / path} is missing; rerun with --force synthesise")
        return self.folder / path

    def integrity_error(self) -> str:
        """Describe missing or damaged files, or return ""."""
        recorded = (self.manifest or {}).get("images", 0)
        there = len([*(self.folder / IMAGES).glob("*.nii.gz"), *(self.folder / IMAGES).glob("*.png")])
        return super().integrity_error() or (f"{recorded - there} images are missing" if there < recorded else "")

    def contents(self) -> dict[str, Any]:
        """Return the fingerprint of everything drawn, and counts."""
        drawn = self.drawn()
        hashes = [file_sha256(path) for path in sorted(self.folder.glob("features-*.safetensors"))]
        content = [drawn.to_dict("split"), hashes, self.facts()]
        return {
            "fingerprint": digest(content),
            "images": int((drawn["path"] != "").sum()),
            "counts": {"synthetic patients": int(drawn["subject"].nunique()), "scans": len(drawn)},
        }


class JudgementTables(Artifact):
    """`judgement.json` (all figures), `copies.csv` (what copies whom), `manifest.csv` (released or not), walls.

    `transfer.csv` has the predictions for held-out real patients of a classifier trained on real patients and of one
    trained on synthetic ones (`trained_on`: real, generated).
    """

    FILES: ClassVar = ("judgement.json", "copies.csv", "manifest.csv", "transfer.csv")
    COPY_COLUMNS: ClassVar = ("scan", "space", "modality", "training_observation", "distance", "ratio")

    def begin(self) -> None:
        """Remove the manifest of an earlier run, whose verdict is not about what is judged now."""
        (self.folder / "manifest.csv").unlink(missing_ok=True)

    def save_walls(self, walls: Sequence[tuple[str, bytes, bytes]]) -> None:
        """Write pictures of real and of synthetic scans, PNG, for each modality."""
        for old in self.folder.glob("wall-*.png"):
            old.unlink()
        for number, (_, real, synthetic) in enumerate(walls):
            for name, content in ((f"wall-{number}-real.png", real), (f"wall-{number}-synthetic.png", synthetic)):
                with replacing(self.folder / name) as partial:
                    partial.write_bytes(content)

    def walls(self) -> tuple[tuple[str, bytes, bytes], ...]:
        """Return modality, picture of real scans and picture of synthetic ones."""
        return tuple(
            (
                name,
                (self.folder / f"wall-{number}-real.png").read_bytes(),
                (self.folder / f"wall-{number}-synthetic.png").read_bytes(),
            )
            for number, name in enumerate(self.facts().get("walls", ()))
        )

    def save(
        self, facts: Mapping[str, Any], copies: pd.DataFrame, manifest: pd.DataFrame, transfer: pd.DataFrame
    ) -> None:
        """Write all files."""
        self.save_table("transfer.csv", transfer)
        write_json(self.folder / "judgement.json", facts)
        self.save_table("copies.csv", copies, self.COPY_COLUMNS)
        self.save_table("manifest.csv", manifest, SyntheticCohort.MANIFEST_COLUMNS)

    def facts(self) -> dict[str, Any]:
        """Return the content of `judgement.json`."""
        return read_json(self.folder / "judgement.json") or {}

    def has_transfer(self) -> bool:
        """Return whether there are predictions for held-out patients; earlier versions of the stage wrote none."""
        return (self.folder / "transfer.csv").is_file()

    def transfer(self) -> pd.DataFrame:
        """Return the predictions for held-out patients; no row where a class was missing."""
        kept = dict.fromkeys(("trained_on", "subject", "observation"), str)
        return pd.read_csv(self.folder / "transfer.csv", dtype=kept, keep_default_na=False, na_values=[""])

    def copies(self) -> pd.DataFrame:
        """Return the table of copies, all text."""
        return self.table("copies.csv", self.COPY_COLUMNS)

    def contents(self) -> dict[str, Any]:
        """Return the fingerprint; more copies than allowed, unless accepted, are failures (exit code 3)."""
        facts = self.facts()
        failures: Sequence[Mapping[str, Any]] = [
            {"scan": row["scan"], "modality": row["modality"], "retryable": False,
             "reason": f"a copy of {row['training_observation']} ({row['space']}, ratio {float(row['ratio']):.2f})"}
            for row in self.copies().to_dict("records")
        ] if facts.get("refused") else []  # fmt: skip
        hashes = [file_sha256(self.folder / name) for name in self.FILES]
        return {"fingerprint": digest(hashes), "failures": failures}
