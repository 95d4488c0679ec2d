"""Reading the kit that `python -m benchmarks.gpu_kit` packs: what the check needs and a bare machine lacks."""

import contextlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import safetensors.torch
import torch

from preprocessing import hd_bet

PARAMETERS = "hd_bet_0.safetensors"
PACKAGES = "packages"  # HD-BET's network class and its licence
HEADS = "heads"


def heads(kit: Path) -> tuple[Path, ...]:
    """Return the scans of the kit.

    Raises:
        FileNotFoundError: there are none.
    """
    found = tuple(sorted((kit / HEADS).glob("*.nii.gz")))
    if not found:
        raise FileNotFoundError(f"no scan in {kit / HEADS}; pack a kit with: python -m benchmarks.gpu_kit {kit}")
    return found


@contextlib.contextmanager
def hd_bet_of(kit: Path) -> Iterator[None]:
    """Let HD-BET's network come from the kit meanwhile, in whatever way the product asks for it."""

    def read(number: int, folder: Path | None = None) -> bytes:
        if number != 0:
            raise ValueError(f"the kit holds HD-BET's network 0, not {number}")
        state = safetensors.torch.load_file(kit / PARAMETERS)
        file = io.BytesIO()
        torch.save({name: value.float() if value.is_floating_point() else value for name, value in state.items()}, file)
        return file.getvalue()

    packages = str((kit / PACKAGES).resolve())
    sys.path.insert(0, packages)
    try:
        with mock.patch.object(hd_bet, "read_parameters", read):
            yield
    finally:
        sys.path.remove(packages)
