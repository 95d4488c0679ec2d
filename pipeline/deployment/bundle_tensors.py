"""The training clouds of an exported model, which flag unusual scans; the file may be untrusted."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from evaluation.outliers import Reference
from pipeline.deployment.bundle_layout import AGAIN, BundleError, shown

ROUNDING = 1e-6  # of a precision matrix in float32, for each of its rows


def references_of(path: Path, content: bytes, outliers: Mapping[str, Any], *, channels: int) -> dict[str, Reference]:
    """Read the training cloud of each modality that has calibration scans.

    Args:
        path: of outliers.safetensors.
        content: its bytes.
        outliers: of calibration.json, checked.
        channels: C of a feature map.

    Raises:
        BundleError: the tensors are not exactly those of these modalities, or describe no cloud.
    """
    compared = {modality: entry["training_scans"] for modality, entry in outliers.items() if entry["distances"]}
    shapes: dict[str, tuple[int, ...]] = {f"mean.{modality}": (channels,) for modality in compared}
    shapes |= {f"precision.{modality}": (channels, channels) for modality in compared}
    try:
        tensors = safetensors.numpy.load(content)
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BundleError(f"{path} is no safetensors file, or has another type than float32. {AGAIN}") from error
    if set(tensors) != set(shapes):
        raise BundleError(f"{path} holds {shown(sorted(tensors))}; expected {shown(sorted(shapes))}. {AGAIN}")
    for name, tensor in tensors.items():
        if tensor.shape != shapes[name] or tensor.dtype != "float32":
            raise BundleError(
                f"{path}: {shown(name)} is {tensor.dtype} {tensor.shape}; expected float32 {shapes[name]}. {AGAIN}"
            )
        if fault := _fault(tensor):
            raise BundleError(f"{path}: {shown(name)} {fault}. {AGAIN}")
    return {m: Reference(tensors[f"mean.{m}"], tensors[f"precision.{m}"], count) for m, count in compared.items()}


def _fault(tensor: NDArray[np.float32]) -> str:
    """Return why an array is no mean or no inverse covariance; "" if it is one."""
    if not np.isfinite(tensor).all():
        return "has numbers that are not finite"
    if tensor.ndim == 1:
        return ""
    precision = tensor.astype(np.float64)
    slack = ROUNDING * len(precision) * max(float(np.abs(precision).max()), 1e-30)
    if np.abs(precision - precision.T).max() > slack:
        return "is not symmetric"
    try:
        np.linalg.cholesky(precision + slack * np.eye(len(precision)))
    except np.linalg.LinAlgError:
        return "is no inverse of a covariance: it has a negative direction"
    return ""
