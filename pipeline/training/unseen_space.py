"""Features of images in a space that no generator has seen: another network than the one whose features are drawn.

Volumes: the bottleneck of HD-BET's first network, trained to find brains. Pictures: VGG11 with weights drawn by a
seed, whose features tell textures apart though it was never trained. Images are those of the common grid, so that real
and synthetic ones differ in nothing but what they show.
"""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.backbone import Backbone, load_backbone
from preprocessing.hd_bet import UNet, load_network
from preprocessing.parameters import ParametersError
from synthesis.grid import box_shape

VOLUMES, PICTURES = "HD-BET's bottleneck", "VGG11 of random weights"  # names of the spaces
SEED = 20_240_115
MULTIPLE = 16  # voxels, that HD-BET halves four times
BATCH = 16  # pictures
MOST = 200  # synthetic images of a modality that pass through a network


class UnseenSpace:
    """The networks, loaded when they are first needed.

    Args:
        spacing_mm: voxel size of volumes.
        pixels: side of pictures.
        parameters: folder of HD-BET's parameter files; None takes those of the package.
    """

    def __init__(self, *, spacing_mm: float, pixels: int, parameters: Path | None) -> None:
        self.spacing_mm, self.pixels, self.parameters = spacing_mm, pixels, parameters

    def why_not(self, kind: str) -> str:
        """Return why images of a kind cannot be seen in this space; "" if they can."""
        if kind == "image":
            return ""
        try:
            _ = self._hd_bet
        except (ParametersError, ImportError) as error:
            return str(error)
        return ""

    def features(self, rows: NDArray[np.float64], kind: str) -> NDArray[np.float64]:
        """Return features of images.

        Args:
            rows: voxels or pixels on the grid, (n, D), in [0, 1]; rows of NaN stay NaN.
            kind: volume or image.

        Returns:
            (n, C).
        """
        there = np.flatnonzero(np.isfinite(rows).all(axis=1))
        seen = self._pictures if kind == "image" else self._volumes
        found = [each for start in range(0, len(there), BATCH) for each in seen(rows[there[start : start + BATCH]])]
        out = np.full((len(rows), len(found[0]) if found else 1), np.nan)
        if found:
            out[there] = np.stack(found)
        return out

    @torch.inference_mode()
    def _pictures(self, rows: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
        pixels = torch.from_numpy(rows.astype(np.float32)).view(-1, self.pixels, self.pixels, 3).permute(0, 3, 1, 2)
        side = max(32, -(-self.pixels // 32) * 32)  # five halvings
        whole = torch.nn.functional.interpolate(pixels, size=(side, side), mode="bilinear", align_corners=False)
        yield from self._vgg(whole).float().mean(dim=(2, 3)).double().numpy()

    @torch.inference_mode()
    def _volumes(self, rows: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
        shape = box_shape(self.spacing_mm)
        frame = [-(-size // MULTIPLE) * MULTIPLE for size in reversed(shape)]
        for row in rows:
            volume = torch.from_numpy(row.astype(np.float32)).view(shape).permute(2, 1, 0)  # (Z, Y, X)
            volume = (volume - volume.mean()) / volume.std(correction=0).clamp_min(1e-6)
            image = torch.zeros(1, 1, *frame)
            z, y, x = volume.shape
            image[0, 0, :z, :y, :x] = volume
            yield self._coarsest(image).double().numpy()

    def _coarsest(self, image: Tensor) -> Tensor:
        return self._hd_bet.bottleneck(image.contiguous(memory_format=torch.channels_last_3d))

    @cached_property
    def _hd_bet(self) -> UNet:
        network = load_network(0, device=torch.device("cpu"), dtype=torch.float32, folder=self.parameters)
        assert isinstance(network, UNet)  # noqa: S101 - for the type checker
        return network

    @cached_property
    def _vgg(self) -> Backbone:
        return load_backbone("vgg11", random_seed=SEED)
