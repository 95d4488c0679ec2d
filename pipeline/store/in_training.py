"""The state of a network in training, in a file, so that a run that was stopped goes on from there."""

from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from files.writing import real_folder, replacing


def save_in_training(path: Path, key: str, state: Mapping[str, Tensor]) -> None:
    """Write a state; the folder, which is made, lies in the artifact's."""
    real_folder(path.parent, below=path.parent.parent.parent)
    with replacing(path) as partial:
        partial.write_bytes(safetensors.torch.save(dict(state), metadata={"key": key}))


def in_training(path: Path, key: str) -> dict[str, Tensor] | None:
    """Return the state; None if it is missing, damaged, or of another key."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("key") != key:
                return None
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (OSError, safetensors.SafetensorError):
        return None
    return state if all(bool(value.isfinite().all()) for value in state.values()) else None
