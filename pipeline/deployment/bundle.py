"""An exported model: one folder that is a MONAI Bundle, read and checked here, written by `bundle_writer`.

    configs/metadata.json    what the model is, as MONAI describes models
    configs/inference.json   for `python -m monai.bundle run`
    configs/settings.yaml    for `--stages predict`: how scans are prepared for the model
    configs/model.json       classes, modalities, shape of the network, what its training data were prepared with
    models/model.safetensors weights of φ and ρ
    models/model.onnx        the same network without torch (optional)
    docs/README.md           model card
    calibration.json         temperature, conformal scores, expected changes, distances of calibration scans
    joint.json, models/joint.safetensors  the joint model of all modalities (optional; see `bundle_joint`)
    outliers.safetensors     mean and precision of the training scans' channel means, per modality
    seen.json                hashes of the subjects and scans that the model knows
    checksums.json           SHA-256 of all of these
    checksums.json.sig       a lab's signature of that (optional; see `signing`)

Nothing in it is a pickle, an absolute path or a patient's name. All of it may come from an untrusted source that
rewrote the checksums: all content is checked (`bundle_contents`), and ends in a `BundleError` or a usable model.
"""

import hashlib
import hmac
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cohort.names import canonical
from cohort.table_encoding import TableEncoder
from evaluation.outliers import Reference, distances, share_farther
from models.set_model import SetModel, set_model_from
from pipeline.core.provenance import digest
from pipeline.deployment.bundle_configs import check_configs
from pipeline.deployment.bundle_contents import (
    CalibrationContent,
    ModelContent,
    SeenContent,
    check_calibration,
    content_of,
)
from pipeline.deployment.bundle_joint import ExportedJoint, joint_of
from pipeline.deployment.bundle_layout import (
    CALIBRATION,
    CHECKSUMS,
    JOINT,
    JOINT_WEIGHTS,
    MODEL,
    NEEDED,
    OUTLIERS,
    ROLES,
    SCHEMA,
    SEEN,
    SIGNATURE,
    WEIGHTS,
    BundleError,
    checked,
    listed,
    parsed,
    read,
    shown,
    verified,
)
from pipeline.deployment.bundle_tensors import references_of
from pipeline.deployment.signing import SignatureError, signer, trusted_fingerprints
from pipeline.store.base import Artifact, read_json

ROUNDS = 10_000  # of PBKDF2; some 5 ms a subject


@dataclass(frozen=True)
class Bundle:
    """An exported model, its files checked against their checksums.

    All but the weights is in memory, and the weights are checked again when they are loaded: a model that is replaced
    during a run is noticed, not mixed with the one before.

    Attributes:
        folder: of the model.
        name: of the model.
        version: of the model.
        classes: names, in the order of the outputs; of two classes the positive one is last.
        modalities: names, in the order of φ's layers.
        trained: the modalities that φ was trained on; it accepts no others.
        settings: sections `preprocess` and `features`, the settings that results depend on, as they were in training.
        weights: of the same stages, identity of the weights of their frozen networks.
        stage_versions: of the same stages, in training.
        kinds: modality → kind, columns, skull_strip, normalise, trust and bits, as in cohort.modalities.
        tables: modality → what its values are coded with, of modalities that are tables.
        most_scans: modality → the most scans of it that a training patient had at one time; empty in older models.
        temperature: T of the calibrated probabilities softmax(logits / T).
        fingerprint: SHA-256 of its checksums.json, and so of the whole content, hex.
        network_arguments: of `models.set_model.SetModel`.
        calibration: the content of calibration.json.
        known: the content of seen.json.
        references: modality → the cloud of its training scans, where scans can be compared with it.
        joint: the joint model of all modalities; None without.
        checksums: file → SHA-256, hex.
        signed_by: fingerprint of the key that signed it, trusted or not; "" if it is not signed.
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
    tables: dict[str, TableEncoder]
    most_scans: dict[str, int]
    temperature: float
    fingerprint: str
    network_arguments: dict[str, Any]
    calibration: dict[str, Any]
    known: dict[str, Any]
    references: dict[str, Reference]
    joint: ExportedJoint | None
    checksums: dict[str, str]
    signed_by: str

    @classmethod
    def read(cls, folder: Path, trusted: Sequence[Path] = ()) -> Self:
        """Read an exported model.

        Args:
            folder: of the model.
            trusted: public keys, or folders of them; one of them must have signed it, which is checked first. If
                empty, an unsigned model is accepted too.

        Raises:
            BundleError: the folder holds no model, a file is missing or changed, or it is of another program version.
            SignatureError: no trusted key signed it, or it was changed since.
        """
        folder = Path(os.path.realpath(folder))
        listing = listed(folder)
        signed_by = _signed_by(folder, listing, trusted)
        sums = checked(folder, listing)
        contents = {name: verified(folder, name, sums) for name in NEEDED if name != WEIGHTS}
        model = parsed(folder / MODEL, contents[MODEL])
        schema = model.get("schema") if isinstance(model, dict) else model
        if schema != SCHEMA:
            raise BundleError(
                f"{folder} is a model of format {schema if isinstance(schema, str) else shown(schema)}, this program "
                f"reads {SCHEMA}; export it again with this version, or use the version that exported it"
            )
        model = content_of(folder / MODEL, contents[MODEL], ModelContent)
        check_configs(folder, model, contents)
        calibration = content_of(folder / CALIBRATION, contents[CALIBRATION], CalibrationContent)
        check_calibration(folder / CALIBRATION, calibration, model["trained"])
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
            tables={name: TableEncoder.from_json(columns) for name, columns in model.get("tables", {}).items()},
            most_scans=model.get("most_scans", {}),
            temperature=float(calibration["temperature"]["value"]),
            fingerprint=hashlib.sha256(listing).hexdigest(),
            network_arguments=model["network"],
            calibration=calibration,
            known=content_of(folder / SEEN, contents[SEEN], SeenContent),
            references=references_of(
                folder / OUTLIERS,
                contents[OUTLIERS],
                calibration["outliers"],
                channels=model["network"]["feature_map_shape"][0],
            ),
            joint=_joint(folder, sums, model),
            checksums=sums,
            signed_by=signed_by,
        )

    def network(self) -> SetModel:
        """Load φ and ρ with their weights, in eval mode, on the CPU.

        Raises:
            BundleError: the weights are not those of when the model was read, not of such a network, or not finite.
        """
        content = verified(self.folder, WEIGHTS, self.checksums)
        try:
            return set_model_from(content, **self.network_arguments)
        except ValueError as error:
            raise BundleError(f"{self.folder / WEIGHTS}: {error}. The model cannot be used") from error

    def beyond_training(self, modality: Sequence[str]) -> list[str]:
        """Say of which modalities a patient has more scans than any training patient; nothing unless ρ adds them up.

        Args:
            modality: of each of the patient's scans.
        """
        if self.network_arguments["aggregate"] != "sum":
            return []
        return [
            f"{count} scans are {name}, and no training patient had more than {most}: every scan adds certainty, so "
            "the probabilities may be too far from one half"
            for name, count in Counter(modality).items()
            if (most := self.most_scans.get(name)) is not None and count > most
        ]

    def conformal_scores(self, subset: frozenset[str]) -> NDArray[np.float64] | None:
        """Return sorted scores of calibration subjects, predicted from exactly these modalities; None without any.

        Args:
            subset: modalities.
        """
        for entry in self.calibration["conformal"]["subsets"]:
            if frozenset(entry["modalities"]) == subset:
                return np.asarray(entry["scores"], dtype=np.float64)
        return None

    def expected_changes(self, subset: frozenset[str]) -> list[dict[str, Any]]:
        """Return how each other modality changed predictions for calibration subjects who have it beside these.

        Args:
            subset: modalities.

        Returns:
            For each modality with such a subject: modality, n, mean_absolute_change, decisions_changed,
            abstentions_resolved, error_rate; see `evaluation.expected_change`.
        """
        return [
            {name: value for name, value in entry.items() if name != "modalities"}
            for entry in self.calibration["expected_changes"]
            if frozenset(entry["modalities"]) == subset
        ]

    def outlier(self, modality: str, feature_map: Tensor) -> dict[str, Any] | None:
        """Return the distance of a scan from the training scans of its modality; None if these were too few.

        Args:
            modality: name.
            feature_map: (C, H, W), float32.

        Returns:
            distance (Mahalanobis), share_farther (conformal p-value, (0, 1]), n (calibration subjects compared with).
        """
        reference = self.references.get(modality)
        if reference is None:
            return None
        means = feature_map.detach().cpu().double().mean(dim=(1, 2)).numpy()[None]
        distance = float(distances(reference, means)[0])
        calibration_distances = self.calibration["outliers"][modality]["distances"]
        return {
            "distance": distance,
            "share_farther": share_farther(distance, calibration_distances),
            "n": len(calibration_distances),
        }

    def seen(self, subject: str, scan_hashes: Sequence[str]) -> str:
        """Return the role of a subject that the model knows, by its id in any spelling or by the content of a scan.

        Args:
            subject: id, as in the manifest.
            scan_hashes: SHA-256 of the scans' files, hex.

        Returns:
            The strictest role of its id and scans, as in `ROLES`; "" if it is not known.
        """
        salt = bytes.fromhex(self.known["salt"])
        hashes = {subject_hash(name, salt, self.known["rounds"]) for name in (subject, canonical(subject))}
        by_id = [self.known["subjects"].get(each, "") for each in hashes]
        return strictest([*by_id, *(self.known["scans"].get(scan_hash(each, salt), "") for each in scan_hashes)])


def _joint(folder: Path, sums: dict[str, str], model: dict[str, Any]) -> ExportedJoint | None:
    if JOINT not in sums:
        return None
    return joint_of(
        (folder / JOINT, folder / JOINT_WEIGHTS),
        (verified(folder, JOINT, sums), verified(folder, JOINT_WEIGHTS, sums)),
        trained=tuple(model["trained"]),
        classes=len(model["classes"]),
        feature_map_shape=model["network"]["feature_map_shape"],
    )


def strictest(roles: Iterable[str]) -> str:
    """Return the first role in the order of `ROLES`; "" if none is given, or only ""."""
    return min(filter(None, roles), key=ROLES.index, default="")


def _signed_by(folder: Path, listing: bytes, trusted: Sequence[Path]) -> str:
    """Return the fingerprint of the key that signed the model, "" for none, before anything else is read."""
    keys = trusted_fingerprints(trusted)
    signed = os.path.lexists(folder / SIGNATURE)
    if not signed and keys:
        raise SignatureError(f"the model {folder} is not signed; --trusted needs a signature of one of its keys")
    try:
        signed_by = signer(listing, read(folder, SIGNATURE)) if signed else ""
    except SignatureError as error:
        raise SignatureError(f"{folder / SIGNATURE}: {error}") from error
    if keys and signed_by not in keys:
        raise SignatureError(
            f"the model {folder} is signed by the key {signed_by}, which is none of those given with --trusted "
            f"({', '.join(sorted(keys))}); do not trust it"
        )
    return signed_by


def subject_hash(subject: str, salt: bytes, rounds: int = ROUNDS) -> str:
    """Return the PBKDF2-HMAC-SHA256 of a subject id, hex; it is slow to hinder trying all ids."""
    return hashlib.pbkdf2_hmac("sha256", subject.encode("utf-8", "surrogateescape"), salt, rounds).hex()


def scan_hash(sha256: str, salt: bytes) -> str:
    """Return the HMAC-SHA256 of a scan's hash, hex: it can be checked only with the scan."""
    return hmac.new(salt, sha256.encode("ascii"), hashlib.sha256).hexdigest()


class BundleFolder(Artifact):
    """The artifact of the stage export: the exported model in the folder `bundle`."""

    FILES: ClassVar = tuple(f"bundle/{name}" for name in (*NEEDED, CHECKSUMS))

    @property
    def bundle(self) -> Path:
        """The folder of the exported model, for --model."""
        return self.folder / "bundle"

    def contents(self) -> dict[str, Any]:
        """Return the fingerprint of all its files."""
        return {"fingerprint": digest(read_json(self.bundle / CHECKSUMS))}
