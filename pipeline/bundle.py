"""An exported model: one folder that is a MONAI Bundle, read and checked here, written by `pipeline.bundle_files`.

    configs/metadata.json    what the model is, as MONAI describes models
    configs/inference.json   for `python -m monai.bundle run`
    configs/settings.yaml    for `--stages predict`: how scans become what the model reads
    configs/model.json       classes, modalities, shape of the network, what its training data were prepared with
    models/model.safetensors weights of φ and ρ
    models/model.onnx        the same network without torch (not always there)
    docs/README.md           model card
    calibration.json         temperature, conformal scores, expected changes, distances of held-out scans
    outliers.safetensors     mean and precision of the training scans' channel means, a modality
    seen.json                hashes of the subjects and scans that the model knows
    checksums.json           SHA-256 of all of these

Nothing in it is a pickle, an absolute path or a patient's name.
"""

import hashlib
import hmac
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pipeline.artifacts import Artifact, read_json
from pipeline.provenance import digest
from pipeline.runtime import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from evaluation.outliers import Reference
    from models.set_model import SetModel

SCHEMA = "hypermm-bundle/1"
METADATA, INFERENCE, SETTINGS = "configs/metadata.json", "configs/inference.json", "configs/settings.yaml"
MODEL, WEIGHTS, ONNX, CARD = "configs/model.json", "models/model.safetensors", "models/model.onnx", "docs/README.md"
CALIBRATION, OUTLIERS, SEEN, CHECKSUMS = "calibration.json", "outliers.safetensors", "seen.json", "checksums.json"
NEEDED = (METADATA, INFERENCE, SETTINGS, MODEL, WEIGHTS, CARD, CALIBRATION, OUTLIERS, SEEN)
ROLES = ("train", "validation", "calibration")  # what a model knows a subject from, the strictest first
ROUNDS = 10_000  # of PBKDF2; some 5 ms a subject


class BundleError(InputError):
    """The folder is no exported model, or not as it was exported."""


@dataclass(frozen=True)
class Bundle:
    """An exported model, its files checked against their checksums.

    All but the weights is in memory, and the weights are checked again when they are loaded: a model that is replaced
    while a night runs is noticed, not mixed with the one before.

    Attributes:
        folder: where it lies.
        name: of the model.
        version: of the model.
        classes: names, in the order of the outputs; of two classes the positive one is last.
        modalities: names, in the order of φ's layers.
        trained: the modalities that φ was trained on; it can read no others.
        settings: sections `preprocess` and `features`, the settings that results depend on, as they were in training.
        weights: of the same stages, what tells the weights of their frozen networks from others.
        stage_versions: of the same stages, in training.
        kinds: modality → kind and skull_strip, as in cohort.modalities.
        temperature: T of the calibrated probabilities softmax(logits / T).
        fingerprint: hash of the whole content.
        network_arguments: of `models.set_model.SetModel`.
        calibration: the content of calibration.json.
        known: the content of seen.json.
        references: modality → the cloud of its training scans, where scans can be compared with it.
        checksums: file → SHA-256, hex.
    """

    folder: Path
    name: str
    version: str
    classes: tuple[str, ...]
    modalities: tuple[str, ...]
    trained: tuple[str, ...]
    settings: dict[str, dict[str, Any]]
    weights: dict[str, Any]
    stage_versions: dict[str, int]
    kinds: dict[str, dict[str, Any]]
    temperature: float
    fingerprint: str
    network_arguments: dict[str, Any]
    calibration: dict[str, Any]
    known: dict[str, Any]
    references: "dict[str, Reference]"
    checksums: dict[str, str]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read an exported model.

        Raises:
            BundleError: there is none, a file is missing or changed, or it is of another version of this program.
        """
        folder = Path(folder).resolve()
        sums = checked(folder)
        model, calibration, known = (
            json.loads(verified(folder / name, sums[name])) for name in (MODEL, CALIBRATION, SEEN)
        )
        if model.get("schema") != SCHEMA:
            raise BundleError(
                f"{folder} is a model of format {model.get('schema')}, this program reads {SCHEMA}; export it again "
                "with this version, or use the version that exported it"
            )
        try:
            return cls(
                folder=folder,
                name=model["name"],
                version=model["version"],
                classes=tuple(model["classes"]),
                modalities=tuple(model["modalities"]),
                trained=tuple(model["trained"]),
                settings=model["settings"],
                weights=model["weights"],
                stage_versions={name: stage["version"] for name, stage in model["made_with"].items()},
                kinds=model["kinds"],
                temperature=float(calibration["temperature"]["value"]),
                fingerprint=digest(sums),
                network_arguments=model["network"],
                calibration=calibration,
                known=known,
                references=_references(verified(folder / OUTLIERS, sums[OUTLIERS]), calibration["outliers"]),
                checksums=sums,
            )
        except KeyError as error:
            raise BundleError(
                f"{folder} was exported by another version: it says nothing of {error}. Type --stages export --force "
                "export where it was trained"
            ) from error

    def network(self) -> "SetModel":
        """φ and ρ with their weights, in eval mode, on the CPU.

        Raises:
            BundleError: the weights are not those of when the model was read.
        """
        import safetensors.torch

        from models.set_model import SetModel

        weights = verified(self.folder / WEIGHTS, self.checksums[WEIGHTS])
        model = SetModel(**self.network_arguments)
        model.load_state_dict(safetensors.torch.load(weights))
        return model.eval()

    def conformal_scores(self, subset: frozenset[str]) -> "NDArray[np.float64] | None":
        """Sorted scores of the held-out subjects who have these modalities, with these alone; None if there are none.

        Args:
            subset: modalities.
        """
        import numpy as np

        for entry in self.calibration["conformal"]["subsets"]:
            if frozenset(entry["modalities"]) == subset:
                return np.asarray(entry["scores"], dtype=np.float64)
        return None

    def expected_changes(self, subset: frozenset[str]) -> list[dict[str, Any]]:
        """What each other modality did to the answers for held-out subjects who have it beside these.

        Args:
            subset: modalities.

        Returns:
            For each modality for which there was such a subject: modality, n, mean_absolute_change, decisions_changed,
            abstentions_resolved, error_rate; see `evaluation.expected_change`.
        """
        return [
            {name: value for name, value in entry.items() if name != "modalities"}
            for entry in self.calibration["expected_changes"]
            if frozenset(entry["modalities"]) == subset
        ]

    def outlier(self, modality: str, block: "Tensor") -> dict[str, Any] | None:
        """How far a scan lies from the training scans of its modality; None if too few were there to say.

        Args:
            modality: name.
            block: (C, H, W), float32.

        Returns:
            distance (Mahalanobis), share_farther (conformal p-value, (0, 1]), n (held-out subjects compared with).
        """
        from evaluation.outliers import distances, share_farther

        reference = self.references.get(modality)
        if reference is None:
            return None
        means = block.detach().cpu().double().mean(dim=(1, 2)).numpy()[None]
        distance = float(distances(reference, means)[0])
        held_out = self.calibration["outliers"][modality]["distances"]
        return {"distance": distance, "share_farther": share_farther(distance, held_out), "n": len(held_out)}

    def seen(self, subject: str, scan_hashes: Sequence[str]) -> str:
        """Whether the model knows this subject, by its id or by the content of a scan.

        Args:
            subject: id, as in the manifest.
            scan_hashes: SHA-256 of the scans' files, hex.

        Returns:
            The strictest of all that it is known from, as in `ROLES`; "" if it is not known.
        """
        salt = bytes.fromhex(self.known["salt"])
        by_id = self.known["subjects"].get(subject_hash(subject, salt, self.known["rounds"]), "")
        return strictest([by_id, *(self.known["scans"].get(scan_hash(each, salt), "") for each in scan_hashes)])


def strictest(roles: Iterable[str]) -> str:
    """The first in the order of `ROLES`; "" if none is given, or only ""."""
    return min(filter(None, roles), key=ROLES.index, default="")


def _references(content: bytes, outliers: dict[str, Any]) -> "dict[str, Reference]":
    """Modality → training cloud, of modalities with scans held out."""
    import safetensors.numpy

    from evaluation.outliers import Reference

    tensors = safetensors.numpy.load(content)
    return {
        modality: Reference(tensors[f"mean.{modality}"], tensors[f"precision.{modality}"], entry["training_scans"])
        for modality, entry in outliers.items()
        if entry["distances"]
    }


def checked(folder: Path) -> dict[str, str]:
    """File → SHA-256, after comparing them with the files.

    Raises:
        BundleError: a file is missing or differs.
    """
    sums = read_json(folder / CHECKSUMS)
    if not isinstance(sums, dict):
        raise BundleError(f"{folder} is no exported model: it has no {CHECKSUMS}. --stages export makes one")
    if missing := [name for name in NEEDED if name not in sums]:
        raise BundleError(f"{folder / CHECKSUMS} does not name {', '.join(missing)}; copy or export the model again")
    for name, expected in sums.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise BundleError(f"{folder / CHECKSUMS} names {name}, which lies outside of the model; do not trust it")
        verified(path, expected)
    return sums


def verified(path: Path, expected: str) -> bytes:
    """The content of a model's file, if that has this SHA-256 (hex).

    Raises:
        BundleError: it cannot be read, or has another.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"{path} of the exported model cannot be read ({error.strerror}); copy or export the model again"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise BundleError(
            f"{path} is not as it was exported: its SHA-256 is {found}, expected {expected}. Copy or export the model "
            "again; do not edit its files. If the model was replaced meanwhile, start again"
        )
    return content


def subject_hash(subject: str, salt: bytes, rounds: int = ROUNDS) -> str:
    """PBKDF2-HMAC-SHA256 of a subject id, hex; slow on purpose, so that trying all ids out takes time."""
    return hashlib.pbkdf2_hmac("sha256", subject.encode("utf-8", "surrogateescape"), salt, rounds).hex()


def scan_hash(sha256: str, salt: bytes) -> str:
    """HMAC-SHA256 of a scan's hash, hex: whoever has the scan can check it, others cannot compare two models by it."""
    return hmac.new(salt, sha256.encode("ascii"), hashlib.sha256).hexdigest()


class BundleFolder(Artifact):
    """The exported model, in the folder `bundle`."""

    FILES: ClassVar = tuple(f"bundle/{name}" for name in (*NEEDED, CHECKSUMS))

    @property
    def bundle(self) -> Path:
        """Its folder, to be given to --model."""
        return self.folder / "bundle"

    def contents(self) -> dict[str, Any]:
        """The fingerprint is that of all its files."""
        return {"fingerprint": digest(read_json(self.bundle / CHECKSUMS))}
