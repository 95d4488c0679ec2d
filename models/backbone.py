"""Frozen pretrained backbones: slices in, feature maps out, each with its own normalisation and weights.

To add one, write a function that returns a `Backbone`, give it a line in `BACKBONES`, and its weights one in
`models.weights.PUBLISHED`.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from devices.out_of_memory import Fallback, copy_on_cpu, run_with_oom_fallback
from devices.precision import Precision, few_multiplications_win, float_type
from devices.winograd import WinogradConv2d
from models.weights import VGG11_IMAGENET, VGG16_IMAGENET, WeightsError, check_timm_name, find_weights

SLICE_SIZE = 224  # pixels, both sides
CPU_BATCH = 4  # slices a pass where the CPU takes over; they fit its caches
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # RGB, of values in [0, 1]
_CAFFE_MEAN = (103.939, 116.779, 123.68)  # BGR, of values in [0, 255]
_VGG11 = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")
_VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")


class Backbone(nn.Module):
    """Slices to feature maps, frozen.

    Attributes:
        feature_map_shape: (C, H, W) of one feature map.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        layers: nn.Module,
        *,
        feature_map_shape: tuple[int, int, int],
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        caffe: bool = False,
    ) -> None:
        super().__init__()
        self.layers = layers
        self.feature_map_shape = feature_map_shape
        self.caffe = caffe
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()
        self.layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def normalise(self, slices: Tensor) -> Tensor:
        """Normalise RGB in [0, 1] as in the training of the weights; Caffe's weights use BGR in [0, 255]."""
        if self.caffe:
            slices = 255 * slices.flip(1)
        return (slices - self.mean) / self.std

    def forward(self, slices: Tensor) -> Tensor:
        """Return feature maps of slices.

        Args:
            slices: (N, 3, 224, 224), float32, RGB in [0, 1].

        Returns:
            (N, C, H, W) in the precision of the layers.
        """
        dtype = next(self.layers.parameters()).dtype
        return self.layers(self.normalise(slices).to(dtype, memory_format=torch.channels_last))


def _vgg_layers(plan: tuple[int | str, ...]) -> nn.Sequential:
    """Return VGG's convolutions under torchvision's names and numbers, so that the official file fits."""
    layers: list[nn.Module] = []
    channels = 3
    for width in plan:
        if isinstance(width, int):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        else:  # before the ReLU, which then has a quarter to do; the result is the same
            layers.insert(len(layers) - 1, HalfMax())
    return nn.Sequential(*layers)


class HalfMax(nn.Module):
    """Maximum over 2×2 pixels, what `nn.MaxPool2d(2)` gives, without the indices that it computes in bfloat16."""

    def forward(self, features: Tensor) -> Tensor:
        """Halve (N, C, H, W), H and W even, to (N, C, H/2, W/2)."""
        rows = torch.maximum(features[:, :, ::2], features[:, :, 1::2])
        return torch.maximum(rows[..., ::2], rows[..., 1::2])


def vgg11(weights: Path | None, *, random_seed: int | None) -> Backbone:
    """Return VGG11, as the paper. Source: Simonyan and Zisserman 2014, configuration A; weights: torchvision."""
    layers = _vgg_layers(_VGG11)
    if random_seed is None:
        state = torch.load(find_weights(VGG11_IMAGENET, weights), map_location="cpu", weights_only=True)
        layers.load_state_dict({k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")})
    else:
        _draw_kaiming(layers, random_seed)
    return Backbone(layers, feature_map_shape=(512, 7, 7), mean=_IMAGENET_MEAN, std=_IMAGENET_STD)


def vgg16(weights: Path | None, *, random_seed: int | None) -> Backbone:
    """Return VGG16 with Oxford's own weights. Source: Simonyan and Zisserman 2014, configuration D."""
    layers = _vgg_layers(_VGG16)
    if random_seed is None:
        convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
        for layer, (kernel, bias) in zip(convolutions, _read_onnx_vgg16(weights), strict=True):
            layer.weight.data.copy_(kernel)
            layer.bias.data.copy_(bias)  # type: ignore[union-attr]
    else:
        _draw_kaiming(layers, random_seed)
    return Backbone(layers, feature_map_shape=(512, 7, 7), mean=_CAFFE_MEAN, std=(1.0, 1.0, 1.0), caffe=True)


def _read_onnx_vgg16(weights: Path | None) -> list[tuple[Tensor, Tensor]]:
    """Kernel (out, in, 3, 3) and bias (out) of the 13 convolutions, in order. Only data is read, no code is run."""
    import onnx  # part of the extra "demo"; the paper's backbone does without

    graph = onnx.load(find_weights(VGG16_IMAGENET, weights)).graph
    arrays = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
    names = [f"functional_1/block{b}_conv{c}_1" for b, n in enumerate((2, 2, 3, 3, 3), 1) for c in range(1, n + 1)]
    return [
        (
            torch.from_numpy(arrays[f"{name}/convolution/ReadVariableOp:0"].copy()),
            torch.from_numpy(arrays[f"{name}/Squeeze:0"].copy()),
        )
        for name in names
    ]


def _draw_kaiming(layers: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for layer in layers.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


def timm_backbone(name: str, *, random_seed: int | None) -> Backbone:
    """Any convolutional network of timm; its last feature map is the feature map.

    Raises:
        WeightsError: timm is not installed, knows no such network, cannot get its weights, or the name is an address.
    """
    check_timm_name(name)
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that does not fit this torch
        raise WeightsError(f"backbone timm:{name} needs timm: pip install timm ({error})") from error
    try:
        if random_seed is not None:
            torch.manual_seed(random_seed)
        layers = timm.create_model(name, pretrained=random_seed is None, num_classes=0, global_pool="")
    except (RuntimeError, OSError, ValueError) as error:
        raise WeightsError(f"timm could not make {name} with its weights: {error}") from error
    with torch.inference_mode():
        feature_map = layers.eval()(torch.zeros(1, 3, SLICE_SIZE, SLICE_SIZE))
    if feature_map.ndim != 4:
        raise WeightsError(
            f"timm:{name} gives features of shape {tuple(feature_map.shape)}, not (N, C, H, W); use a CNN"
        )
    configured = layers.pretrained_cfg
    return Backbone(
        layers,
        feature_map_shape=tuple(feature_map.shape[1:]),
        mean=tuple(configured["mean"]),
        std=tuple(configured["std"]),
    )


BACKBONES: dict[str, Callable[..., Backbone]] = {"vgg11": vgg11, "vgg16": vgg16}


def load_backbone(name: str, *, weights: Path | None = None, random_seed: int | None = None) -> Backbone:
    """Return a frozen backbone by name: one of `BACKBONES`, or "timm:<name>".

    Args:
        name: which.
        weights: explicit weights file or folder; None looks where the backbone's source says.
        random_seed: draw seeded Kaiming weights instead of the published ones; never done unasked.

    Raises:
        WeightsError: the weights are missing or not the published ones.
        ValueError: no such backbone.
    """
    if name.startswith("timm:"):
        return timm_backbone(name.removeprefix("timm:"), random_seed=random_seed)
    if name not in BACKBONES:
        raise ValueError(f"no backbone {name!r}; there are {', '.join(BACKBONES)} and timm:<name>")
    return BACKBONES[name](weights, random_seed=random_seed)


def make_ready(backbone: Backbone, device: torch.device, precision: Precision = "auto") -> Backbone:
    """Move a backbone to a device, with the precision and the convolutions that are fast there.

    Args:
        backbone: is changed.
        device: where it will run.
        precision: as `devices.precision.float_type`.

    Returns:
        The same backbone.
    """
    dtype = float_type(device, precision)
    backbone.layers.to(dtype)
    if few_multiplications_win(device, dtype):
        for name, layer in backbone.layers.named_children():
            if _suits_winograd(layer):
                setattr(backbone.layers, name, WinogradConv2d(layer))  # type: ignore[arg-type]
    return backbone.to(device)


def _suits_winograd(layer: nn.Module) -> bool:
    """Whether it is one of VGG's convolutions with so many channels that the transforms do not cost more."""
    if type(layer) is not nn.Conv2d or layer.in_channels < 64 or layer.out_channels < 128:
        return False
    form = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups, layer.padding_mode)
    return form == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")


def pool_slices(
    backbone: Backbone, slices: Tensor, *, batch_slices: int, keep_slices: bool = False, name: str = "a scan"
) -> Tensor:
    """Element-wise maximum of the feature maps of all slices of one scan.

    No more than `batch_slices` slices are in the network at once, whatever the scan; memory is bounded by that. Where a
    GPU has no room for so many, half of them, and so on down to one; after that this scan is done on the CPU in
    float32. The next scan starts with `batch_slices` on the GPU again.

    Args:
        backbone: frozen backbone.
        slices: (S, 224, 224) grey or (S, 3, 224, 224) RGB, float32 in [0, 1], S >= 1.
        batch_slices: slices per forward pass.
        keep_slices: return the feature map of every slice instead of their maximum.
        name: of the scan, for the log.

    Returns:
        (C, H, W) float32, or (S, C, H, W) with `keep_slices`; on the device of the backbone, or on the CPU if that had
        to take over.

    Source:
        HyperMM, figure 2: "1D max pooling on the slice dimension".
    """
    device = next(backbone.parameters()).device
    pool = partial(_pool, slices=slices, keep_slices=keep_slices)
    sizes = [min(batch_slices, len(slices))]
    while sizes[-1] > 1:
        sizes.append(sizes[-1] // 2)
    attempts = [
        Fallback(f"{size} slices a pass on {device}", partial(pool, backbone, batch_slices=size)) for size in sizes
    ]
    attempts.append(Fallback("the CPU", lambda: pool(copy_on_cpu(backbone), batch_slices=CPU_BATCH)))
    return run_with_oom_fallback(f"feature maps of {name}", attempts)


def _pool(backbone: Backbone, *, slices: Tensor, batch_slices: int, keep_slices: bool) -> Tensor:
    device = next(backbone.parameters()).device
    feature_maps, pooled = [], None
    with torch.inference_mode():
        for batch in slices.split(batch_slices):
            batch = batch.to(device)
            rgb = batch if batch.ndim == 4 else batch.unsqueeze(1).expand(-1, 3, -1, -1)
            feature_map = backbone(rgb).float()
            if keep_slices:
                feature_maps.append(feature_map)
            else:
                top = feature_map.amax(0)
                pooled = top if pooled is None else torch.maximum(pooled, top)
    return torch.cat(feature_maps) if keep_slices else pooled  # type: ignore[return-value]
