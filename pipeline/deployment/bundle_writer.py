"""Write an exported model: the files that `pipeline.deployment.bundle` reads, and those that MONAI reads."""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.numpy
import safetensors.torch
import yaml

from cohort.names import canonical
from evaluation.outliers import Reference
from files.reading import file_sha256
from models.set_model import SetModel
from pipeline.core.provenance import versions
from pipeline.deployment.bundle import ROUNDS, scan_hash, subject_hash
from pipeline.deployment.bundle_configs import for_monai, inference, settings
from pipeline.deployment.bundle_joint import ExportedJoint, joint_files
from pipeline.deployment.bundle_layout import (
    CALIBRATION,
    CARD,
    CHECKSUMS,
    INFERENCE,
    JOINT,
    JOINT_WEIGHTS,
    METADATA,
    MODEL,
    ONNX,
    OUTLIERS,
    SCHEMA,
    SEEN,
    SETTINGS,
    SIGNATURE,
    WEIGHTS,
    BundleError,
)
from pipeline.deployment.signing import signature
from pipeline.store.base import write_json

INTENDED_USE = "Research only. Not a medical device; not for diagnosis or for decisions on patients."
MONAI_SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
)


@dataclass(frozen=True)
class Export:
    """The content of an exported model.

    Attributes:
        name: of the model.
        version: of the model.
        authors: as they want to be named.
        copyright: owner and licence of the weights.
        classes: names, in order.
        modalities: names, in the order of φ's layers.
        trained: those that φ was trained on.
        network: arguments of `models.set_model.SetModel`.
        kinds: modality → kind, columns, skull_strip, normalise, trust and bits, as in cohort.modalities.
        settings: sections preprocess and features, as recorded by these stages.
        weights: of the stages preprocess and features, identity of their frozen networks' weights.
        stage_versions: of the same stages.
        calibration: content of calibration.json.
        references: training cloud of each modality.
        test: metric → mean, low, high of the exported model on its test split.
        subjects: subject → role.
        scans: SHA-256 of a scan's file → role.
        tables: modality → columns with what they are coded with, as `cohort.table_encoding` gives them.
        most_scans: modality → the most scans of it that a training patient had at one time.
        joint: the joint model of all modalities; None for none.
        cohort: fingerprint of the cohort that it was made from.
    """

    name: str
    version: str
    authors: str
    copyright: str
    classes: tuple[str, ...]
    modalities: tuple[str, ...]
    trained: tuple[str, ...]
    network: Mapping[str, Any]
    kinds: Mapping[str, Any]
    settings: Mapping[str, dict[str, Any]]
    weights: Mapping[str, Any]
    stage_versions: Mapping[str, int]
    calibration: Mapping[str, Any]
    references: Mapping[str, Reference]
    test: Mapping[str, Mapping[str, Any]]
    subjects: Mapping[str, str]
    scans: Mapping[str, str]
    tables: Mapping[str, list[dict[str, Any]]] = dataclasses.field(default_factory=dict)
    most_scans: Mapping[str, int] = dataclasses.field(default_factory=dict)
    joint: ExportedJoint | None = None
    cohort: str = ""


def write_bundle(
    folder: Path, export: Export, model: SetModel, *, card: str, onnx: bytes | None, signing_key: Path | None = None
) -> None:
    """Write all files to a new folder beside the bundle, then swap; an incomplete model is never read.

    The old model is renamed to `.old-<name>`, the new one is renamed to the folder, and the old one is deleted. If the
    export is killed between the two renames, both models are complete under their temporary names; the next export
    restores the old one first, and removes other leftovers.

    Args:
        folder: of the bundle; an existing one is replaced.
        export: content of the model.
        model: on the CPU.
        card: Markdown.
        onnx: the same network in ONNX, or None.
        signing_key: file of the key to sign with; None: it is not signed.

    Raises:
        SignatureError: the key cannot be used.
        BundleError: the old model, or the leftovers of an earlier export cannot be removed.
    """
    new, old = (folder.with_name(f".{prefix}-{folder.name}") for prefix in ("new", "old"))
    if old.exists() and not folder.exists():
        os.replace(old, folder)
    _remove(new)
    _remove(old)
    try:
        for name in (METADATA, WEIGHTS, CARD):
            (new / name).parent.mkdir(parents=True, exist_ok=True)
        weights = safetensors.torch.save({k: v.cpu().contiguous() for k, v in model.state_dict().items()})
        (new / WEIGHTS).write_bytes(weights)
        if onnx is not None:
            (new / ONNX).write_bytes(onnx)
        if export.joint is not None:
            facts, arrays = joint_files(export.joint)
            write_json(new / JOINT, facts)
            (new / JOINT_WEIGHTS).write_bytes(arrays)
        (new / OUTLIERS).write_bytes(_outliers(export))
        (new / CARD).write_text(card, "utf-8")
        (new / SETTINGS).write_text(_settings(export), "utf-8")
        for name, content in (
            (METADATA, metadata(export)),
            (INFERENCE, inference(export.name, export.network)),
            (MODEL, _model(export)),
            (CALIBRATION, export.calibration),
            (SEEN, seen_table(export.subjects, export.scans, hashlib.sha256(weights).digest()[:16])),
        ):
            write_json(new / name, content)
        files = sorted(path for path in new.rglob("*") if path.is_file())
        write_json(new / CHECKSUMS, {path.relative_to(new).as_posix(): file_sha256(path) for path in files})
        if signing_key is not None:
            (new / SIGNATURE).write_text(signature((new / CHECKSUMS).read_bytes(), signing_key), "ascii")
        _swap(new, folder, old)
    finally:
        shutil.rmtree(new, ignore_errors=True)  # after an error; the next export reports it if it still exists
    _remove(old)


def _swap(new: Path, folder: Path, old: Path) -> None:
    """Rename `folder` to `old` and `new` to `folder`; undo the first if the second fails."""
    if folder.exists():
        os.replace(folder, old)
    try:
        os.replace(new, folder)
    except BaseException:
        if old.exists():
            os.replace(old, folder)
        raise


def _remove(folder: Path) -> None:
    """Delete a folder, if it exists."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise BundleError(
            f"{folder}, left by an export, cannot be removed ({error.strerror or error}); remove it by hand, then "
            "export again"
        ) from error


def seen_table(subjects: Mapping[str, str], scans: Mapping[str, str], salt: bytes) -> dict[str, Any]:
    """Return the content of seen.json: hashes of subject ids and of scans, with their roles.

    The salt is made from the weights. A salt is not secret: it only has to differ between models, so that their tables
    cannot be compared, and the same model exported twice gives the same bytes. It does not prevent trying all ids if
    they are few: short running numbers are no pseudonyms.
    """
    return {
        "what": "subjects: PBKDF2-HMAC-SHA256 of the id, spelt canonically; scans: HMAC-SHA256 of the file's "
        "SHA-256; both with this salt",
        "salt": salt.hex(),
        "rounds": ROUNDS,
        "subjects": dict(sorted((subject_hash(canonical(name), salt), role) for name, role in subjects.items())),
        "scans": dict(sorted((scan_hash(content, salt), role) for content, role in scans.items())),
    }


def metadata(export: Export) -> dict[str, Any]:
    """Return the content of metadata.json. Source: MONAI Bundle Specification, section metadata.json."""
    return dict(for_monai(_facts(export)))


def _facts(export: Export) -> dict[str, Any]:
    installed = versions()
    needed = ("nibabel", "SimpleITK", "safetensors", "pandas", "scikit-learn", "scipy", "pydantic", "pydantic-settings")
    return {
        "schema": MONAI_SCHEMA,
        "version": export.version,
        "changelog": {export.version: "exported by hypermm-pipeline"},
        "monai_version": installed["monai"],
        "pytorch_version": installed["torch"],
        "numpy_version": installed["numpy"],
        "required_packages_version": {name: installed[name] for name in needed if name in installed},
        "name": export.name,
        "task": f"Classify patients as {' or '.join(export.classes)} from any of: {', '.join(export.trained)}",
        "description": "HyperMM: features of each scan from a frozen network pass through a layer that a hypernetwork "
        "makes for the scan's modality, are aggregated over the scans of a patient, and classified.",
        "authors": export.authors,
        "copyright": export.copyright,
        "intended_use": INTENDED_USE,
        "data_type": "volumes (NIfTI), pictures or tables, by modality; see docs/README.md",
        "image_classes": "feature maps of the frozen network, one a scan, of any number of scans",
        "label_classes": " | ".join(f"{k} is {name}" for k, name in enumerate(export.classes)),
        "pred_classes": "logits, one a class; softmax(logits / temperature) are calibrated probabilities",
        "eval_metrics": {
            name: round(float(values["mean"]), 4)
            for name, values in export.test.items()
            if values["mean"] == values["mean"]
        },
        "references": ["HyperMM: Robust Multimodal Learning with Varying-sized Inputs (2024)"],
        "network_data_format": _tensors(export),
    }


def _tensors(export: Export) -> dict[str, Any]:
    """Describe inputs, in the order of `SetModel.forward`, and outputs of the network."""

    def tensor(kind: str, form: str, channels: int, shape: list[Any], values: list[int], meaning: Any) -> Any:
        return {
            "type": kind,
            "format": form,
            "modality": "n/a",
            "num_channels": channels,
            "spatial_shape": shape,
            "dtype": "float32" if kind != "tuples" else "int64",
            "value_range": values,
            "is_patch_data": False,
            "channel_def": meaning if isinstance(meaning, dict) else {"0": meaning},
        }

    channels, height, width = export.network["feature_map_shape"]
    modalities = ", ".join(f"{i} is {name}" for i, name in enumerate(export.modalities))
    classes = {str(k): name for k, name in enumerate(export.classes)}
    return {
        "inputs": {
            "feature_maps": tensor(
                "image", "latent", channels, [height, width], [], "first feature map of the backbone"
            ),
            "modality": tensor("tuples", "classes", 1, ["n"], [0, len(export.modalities) - 1], modalities),
            "sets": tensor("tuples", "indices", 1, ["n"], [], "the patient that each of the n scans belongs to"),
            "count": "number of patients",
        },
        "outputs": {"pred": tensor("probabilities", "classes", len(classes), [1], [], classes)},
    }


def _settings(export: Export) -> str:
    """Return the settings of preparation alone: no path of this machine, in particular not that of the weights."""
    content = settings(export.name, export.kinds, _without_paths(export), export.weights)
    return yaml.safe_dump(json.loads(json.dumps(content)), sort_keys=False, allow_unicode=True)


def _without_paths(export: Export) -> dict[str, dict[str, Any]]:
    return {
        name: {key: value for key, value in section.items() if key != "weights"}
        for name, section in export.settings.items()
    }


def _model(export: Export) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "name": export.name,
        "version": export.version,
        "classes": export.classes,
        "modalities": export.modalities,
        "trained": export.trained,
        "network": dict(export.network),
        "kinds": dict(export.kinds),
        "tables": dict(export.tables),
        "settings": _without_paths(export),
        "weights": dict(export.weights),
        "most_scans": dict(export.most_scans),
        "made_with": {name: {"version": version} for name, version in export.stage_versions.items()},
    }


def _outliers(export: Export) -> bytes:
    tensors: dict[str, Any] = {}
    for modality, reference in sorted(export.references.items()):
        tensors |= {f"mean.{modality}": reference.mean, f"precision.{modality}": reference.precision}
    return safetensors.numpy.save(tensors)
