"""Backbones: VGG16's published weights against ONNX's reference, and pooling over slices."""

import logging
import sys
from types import SimpleNamespace

import numpy as np
import onnx
import onnx.reference
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from models.backbone import BACKBONES, Backbone, HalfMax, load_backbone, pool_slices
from models.weights import PUBLISHED, VGG16_IMAGENET, WeightsError, find_weights
from pipeline.specs.features import FeaturesConfig


@pytest.fixture(scope="module")
def vgg16() -> Backbone:
    return load_backbone("vgg16")


def _tiny(size: int = 56) -> Backbone:
    """Four channels, 7x7: a convolution over the image's 8-pixel fields, seeded."""
    generator = torch.Generator().manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, size // 7, stride=size // 7), nn.ReLU())
    nn.init.normal_(layers[0].weight, generator=generator)
    return Backbone(layers, feature_map_shape=(4, 7, 7), mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


# --- VGG16's published weights ---


def test_vgg16_is_configuration_d(vgg16: Backbone) -> None:
    shapes = [tuple(layer.weight.shape) for layer in vgg16.layers if isinstance(layer, nn.Conv2d)]
    widths = [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    assert shapes == [(out, into, 3, 3) for into, out in zip([3, *widths[:-1]], widths, strict=True)]
    assert sum(p.numel() for p in vgg16.parameters()) == 14_714_688  # Keras prints this for include_top=False
    assert not any(p.requires_grad for p in vgg16.parameters())
    assert not vgg16.training


def test_vgg16_holds_the_published_numbers(vgg16: Backbone) -> None:
    """What `keras.applications.VGG16(weights="imagenet")` prints as block1_conv1, as quoted all over the web."""
    kernel = vgg16.layers[0].weight.numpy()  # (out, in, 3, 3); Keras has (3, 3, in, out)
    np.testing.assert_allclose(kernel[:3, 0, 0, 0], (4.29470569e-01, 1.17273867e-01, 3.40129584e-02), rtol=1e-7)
    np.testing.assert_allclose(kernel[-3:, 0, 0, 0], (-1.32241577e-01, -5.33475243e-02, 7.57738389e-03), rtol=1e-7)
    np.testing.assert_allclose(kernel[:3, 1, 0, 0], (5.50379455e-01, 2.08774377e-02, 9.88311544e-02), rtol=1e-7)


def test_vgg16_agrees_with_onnx(vgg16: Backbone) -> None:
    """The published graph up to its last pooling, run by ONNX's own reference on a picture prepared Caffe's way."""
    graph = onnx.load(find_weights(VGG16_IMAGENET)).graph
    end = "functional_1/block5_pool_1/MaxPool2d:0"
    last = next(i for i, node in enumerate(graph.node) if end in node.output)
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.node[: last + 1],
            "convolutions",
            [onnx.helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, (1, 64, 64, 3))],
            [onnx.helper.make_tensor_value_info(end, onnx.TensorProto.FLOAT, None)],
            [item for item in graph.initializer if "/block" in item.name],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 13)],
    )
    rgb = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.float32)
    caffe = rgb[..., ::-1] - np.array([103.939, 116.779, 123.68], np.float32)
    (expected,) = onnx.reference.ReferenceEvaluator(model).run(None, {"input": caffe[None]})
    ours = vgg16(torch.from_numpy(rgb).permute(2, 0, 1)[None] / 255)
    assert ours.shape == expected.shape == (1, 512, 2, 2)
    assert (expected > 0).mean() > 0.1
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-4 * expected.max())


def test_vgg16_feature_map_of_a_slice(vgg16: Backbone) -> None:
    feature_map = pool_slices(
        vgg16, torch.rand(1, 224, 224, generator=torch.Generator().manual_seed(0)), batch_slices=1
    )
    assert feature_map.shape == vgg16.feature_map_shape == (512, 7, 7)
    assert feature_map.dtype == torch.float32
    assert float(feature_map.max()) > 1


# --- normalisation ---


def test_normalise_against_numpy(vgg16: Backbone) -> None:
    slices = np.random.default_rng(0).random((2, 3, 8, 8)).astype(np.float32)
    channels = (None, slice(None), None, None)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # torchvision's
    ours = load_backbone("vgg11", random_seed=0).normalise(torch.from_numpy(slices))
    np.testing.assert_allclose(ours.numpy(), (slices - mean[channels]) / std[channels], atol=1e-5)
    bgr = 255 * slices[:, ::-1] - np.array([103.939, 116.779, 123.68])[channels]  # Caffe's
    np.testing.assert_allclose(vgg16.normalise(torch.from_numpy(slices)).numpy(), bgr, atol=1e-4)


# --- random weights, on request only ---


@pytest.mark.parametrize("name", ["vgg11", "vgg16"])
def test_random_weights_are_seeded(name: str) -> None:
    one, same, other = (load_backbone(name, random_seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.layers[0].weight, other.layers[0].weight)
    for layer in one.layers:
        if isinstance(layer, nn.Conv2d):  # He et al. 2015, equation 10
            expected = np.sqrt(2 / (layer.in_channels * 9))
            assert float(layer.weight.std()) == pytest.approx(expected, rel=0.1)
            assert (layer.bias == 0).all()


def test_vgg11_has_torchvisions_names() -> None:
    """The state-dict of torchvision 0.x `vgg11().features`, so that the official file fits."""
    names = [f"{i}.{part}" for i in (0, 3, 6, 8, 11, 13, 16, 18) for part in ("weight", "bias")]
    assert list(load_backbone("vgg11", random_seed=0).layers.state_dict()) == names


def test_official_vgg11_file_is_read(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file laid out as the official one, classifier included; the hash has its own tests."""
    random = load_backbone("vgg11", random_seed=5)
    state = {f"features.{name}": value for name, value in random.layers.state_dict().items()}
    file = tmp_path / "vgg11-8a719046.pth"
    torch.save(state | {"classifier.0.weight": torch.zeros(2, 2), "classifier.0.bias": torch.zeros(2)}, file)
    with pytest.raises(WeightsError, match="is not the published"):
        load_backbone("vgg11", weights=file)
    monkeypatch.setattr("models.weights._verify", lambda *_: None)
    for weights in (file, tmp_path):
        loaded = load_backbone("vgg11", weights=weights)
        assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), random.parameters(), strict=True))


# --- other backbones ---


def test_half_max_is_the_maximum_of_four() -> None:
    features = torch.randn(2, 3, 8, 6).to(memory_format=torch.channels_last)
    assert torch.equal(HalfMax()(features), nn.functional.max_pool2d(features, 2))
    ours = load_backbone("vgg11", random_seed=0)
    layers = [layer for layer in ours.layers if not isinstance(layer, nn.ReLU)]
    pools = [i for i, layer in enumerate(ours.layers) if isinstance(layer, HalfMax)]
    assert len(pools) == 5
    assert all(isinstance(ours.layers[i - 1], nn.Conv2d) and isinstance(ours.layers[i + 1], nn.ReLU) for i in pools)
    assert len(layers) == 8 + 5  # every convolution and every maximum is there once


def test_every_backbone_has_its_weights() -> None:
    assert set(BACKBONES) == set(PUBLISHED)


def test_unknown_backbone() -> None:
    with pytest.raises(ValueError, match=r"no backbone 'vgg12'; there are vgg11, vgg16 and timm:<name>"):
        load_backbone("vgg12")


@pytest.mark.parametrize(
    "name", ["hf-hub:a/b", "hf_hub:a/b", "local-dir:/etc", "http://x/y", "a/b", "", "..", "x y", "x\n", "\x1b[31m"]
)
def test_addresses_are_no_names_of_timm(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(*_: object, **__: object) -> None:
        raise AssertionError("timm was asked")

    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model))
    with pytest.raises(WeightsError, match="is no name of one of timm's own networks.*downloaded.*is refused"):
        load_backbone(f"timm:{name}", random_seed=1)
    with pytest.raises(ValidationError, match="is no name of one of timm's own networks"):
        FeaturesConfig(backbone=f"timm:{name}")
    assert FeaturesConfig(backbone="timm:resnet18.a1_in1k").backbone == "timm:resnet18.a1_in1k"


def test_timm_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(WeightsError, match="backbone timm:resnet18 needs timm: pip install timm"):
        load_backbone("timm:resnet18")


class _Timm(nn.Module):
    """What `timm.create_model(..., num_classes=0, global_pool="")` gives."""

    pretrained_cfg = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.2)}

    def __init__(self, tokens: bool) -> None:
        super().__init__()
        self.layer, self.tokens = nn.Conv2d(3, 6, 32, stride=32), tokens

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).flatten(2).mT if self.tokens else self.layer(x)


def test_timm_by_a_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(name: str, *, pretrained: bool, num_classes: int, global_pool: str) -> nn.Module:
        assert (num_classes, global_pool) == (0, "")
        if pretrained:
            raise RuntimeError("cannot reach the hub")
        return _Timm(tokens=name == "vit")

    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model))
    backbone, same = (load_backbone("timm:net", random_seed=1) for _ in range(2))
    assert backbone.feature_map_shape == (6, 7, 7)
    assert torch.equal(backbone.layers.layer.weight, same.layers.layer.weight)
    assert backbone.mean.flatten().tolist() == pytest.approx([0.5, 0.4, 0.3])
    assert not any(p.requires_grad for p in backbone.parameters())
    with pytest.raises(WeightsError, match=r"features of shape \(1, 49, 6\), not \(N, C, H, W\); use a CNN"):
        load_backbone("timm:vit", random_seed=1)
    with pytest.raises(WeightsError, match="timm could not make net with its weights: cannot reach the hub"):
        load_backbone("timm:net")


# --- pooling over slices ---


@pytest.mark.parametrize("batch_slices", [1, 2, 5, 11, 64])
@pytest.mark.parametrize("colour", [False, True])
def test_pooling_is_the_maximum_of_single_slices(batch_slices: int, colour: bool) -> None:
    backbone = _tiny()
    slices = torch.rand(11, *((3,) if colour else ()), 56, 56, generator=torch.Generator().manual_seed(1))
    singles = []
    for s in slices:
        rgb = s if colour else torch.stack([s, s, s])
        singles.append(backbone(rgb[None])[0].numpy())
    sizes: list[int] = []
    hook = backbone.layers.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    pooled = pool_slices(backbone, slices, batch_slices=batch_slices)
    assert sum(sizes) == 11
    assert max(sizes) <= batch_slices
    hook.remove()
    np.testing.assert_allclose(pooled.numpy(), np.max(singles, axis=0), atol=1e-4)
    kept = pool_slices(backbone, slices, batch_slices=batch_slices, keep_slices=True)
    np.testing.assert_allclose(kept.numpy(), np.stack(singles), atol=1e-4)


def test_slices_in_any_order_and_twice() -> None:
    backbone, slices = _tiny(), torch.rand(6, 56, 56, generator=torch.Generator().manual_seed(2))
    expected = pool_slices(backbone, slices, batch_slices=4)
    for other in (slices.flip(0), slices.repeat(2, 1, 1), slices[[3, 1, 5, 0, 2, 4]]):
        torch.testing.assert_close(pool_slices(backbone, other, batch_slices=4), expected, atol=1e-5, rtol=0)


def test_red_is_not_blue() -> None:
    """The order of colours reaches the layers as the weights want it: BGR for Caffe's."""
    seen: list[Tensor] = []
    red = torch.zeros(1, 3, 224, 224)
    red[:, 0] = 1
    for caffe, place in ((False, 0), (True, 2)):
        backbone = Backbone(
            nn.Conv2d(3, 1, 32, stride=32), feature_map_shape=(1, 7, 7), mean=(0, 0, 0), std=(1, 1, 1), caffe=caffe
        )
        backbone.layers.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        pool_slices(backbone, red, batch_slices=1)
        assert int(seen[-1].mean((0, 2, 3)).argmax()) == place


def test_half_precision_layers_give_float32_feature_maps() -> None:
    backbone = _tiny()
    slices = torch.rand(3, 56, 56, generator=torch.Generator().manual_seed(3))
    full = pool_slices(backbone, slices, batch_slices=2)
    backbone.layers.to(torch.bfloat16)
    half = pool_slices(backbone, slices, batch_slices=2)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, atol=0.05 * float(full.max()), rtol=0)


# --- a GPU that is full; torch's own error, raised on the CPU ---


class _Crowded(Backbone):
    """Has no room for more than `room` slices; its copy on the CPU has."""

    room = 3

    def __init__(self, *, everywhere: bool = False) -> None:
        tiny = _tiny()
        super().__init__(
            tiny.layers, feature_map_shape=tiny.feature_map_shape, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3)
        )
        self.home, self.everywhere, self.asked = id(self), everywhere, []

    def forward(self, slices: Tensor) -> Tensor:
        self.asked.append((id(self) == self.home, len(slices)))
        if (self.everywhere or id(self) == self.home) and len(slices) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().forward(slices)


@pytest.mark.parametrize("keep_slices", [False, True])
@pytest.mark.parametrize(("room", "sizes"), [(11, {11}), (5, {11, 5, 1}), (3, {11, 5, 2, 1}), (1, {11, 5, 2, 1})])
def test_a_full_gpu_gets_fewer_slices(keep_slices: bool, room: int, sizes: set[int]) -> None:
    slices = torch.rand(11, 56, 56, generator=torch.Generator().manual_seed(4))
    crowded = _Crowded()
    crowded.room = 11
    expected = pool_slices(crowded, slices, batch_slices=64, keep_slices=keep_slices)
    crowded.room = room
    for _ in range(2):  # the second scan starts with all of them again
        crowded.asked.clear()
        found = pool_slices(crowded, slices, batch_slices=64, keep_slices=keep_slices)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        assert crowded.asked[0] == (True, 11)
        assert {size for _, size in crowded.asked} == sizes


def test_a_gpu_without_any_room_hands_the_scan_to_the_cpu(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("hypermm"), "propagate", True)
    slices = torch.rand(6, 56, 56, generator=torch.Generator().manual_seed(5))
    crowded = _Crowded()
    crowded.room = 6
    expected = pool_slices(crowded, slices, batch_slices=6)
    crowded.room = 0
    found = pool_slices(crowded, slices, batch_slices=6, name="p01_MRI")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert [at_home for at_home, _ in crowded.asked] == [True] * 4  # 6, 6, 3, 1; then its copy was asked
    assert [message.split(" (")[0] for message in caplog.messages] == [
        "feature maps of p01_MRI: out of memory with 6 slices a pass on cpu; "
        "this scan goes on with 3 slices a pass on cpu",
        "feature maps of p01_MRI: out of memory with 3 slices a pass on cpu; "
        "this scan goes on with 1 slices a pass on cpu",
        "feature maps of p01_MRI: out of memory with 1 slices a pass on cpu; this scan goes on with the CPU",
    ]


def test_when_nothing_has_room_the_scan_fails() -> None:
    crowded = _Crowded(everywhere=True)
    crowded.room = 0
    with pytest.raises(torch.OutOfMemoryError):
        pool_slices(crowded, torch.rand(2, 56, 56), batch_slices=2)


def test_half_precision_becomes_single_on_the_cpu() -> None:
    slices = torch.rand(3, 56, 56, generator=torch.Generator().manual_seed(6))
    crowded = _Crowded()
    crowded.room = 0
    crowded.layers.to(torch.bfloat16)
    found = pool_slices(crowded, slices, batch_slices=3)
    assert found.dtype == torch.float32
    assert next(crowded.layers.parameters()).dtype == torch.bfloat16
    crowded.room = 3
    crowded.layers.to(torch.float32)  # the rounded weights, exactly
    torch.testing.assert_close(found, pool_slices(crowded, slices, batch_slices=3), rtol=0, atol=1e-6)
