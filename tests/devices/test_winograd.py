"""Winograd's convolutions give what the direct sum gives, and stand in the backbone where they are faster."""

import re

import pytest
import torch
from torch import nn

from devices import precision as precisions
from devices import winograd
from devices.precision import few_multiplications_win
from devices.winograd import WinogradConv2d, WinogradConv3d
from models import backbone as backbones
from models.backbone import load_backbone, make_ready, pool_slices

CPU = torch.device("cpu")


def _layer(channels: int, out: int, *, bias: bool = True) -> nn.Conv2d:
    torch.manual_seed(channels)
    return nn.Conv2d(channels, out, 3, padding=1, bias=bias).requires_grad_(False)


@pytest.mark.parametrize(
    ("images", "height", "width"),
    [(1, 1, 1), (2, 4, 4), (3, 7, 5), (1, 14, 14), (2, 40, 9), (1, 9, 41), (5, 16, 20)],
)
@pytest.mark.parametrize("tiles", [1, 7, 200])
def test_equals_the_direct_sum_in_float64(
    images: int, height: int, width: int, tiles: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "TILES", tiles)
    layer = _layer(6, 5)
    features = torch.randn(images, 6, height, width, generator=torch.Generator().manual_seed(1))
    found = WinogradConv2d(layer)(features)
    exact = layer.double()(features.double())
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-5 * float(exact.abs().max()))


def test_channels_last_or_first_and_no_bias() -> None:
    layer = _layer(8, 4, bias=False)
    features = torch.randn(2, 8, 12, 12, generator=torch.Generator().manual_seed(2))
    found = WinogradConv2d(layer)(features.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, WinogradConv2d(layer)(features), rtol=0, atol=0)
    torch.testing.assert_close(found, layer(features), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 9), (3, 8, 8), (5, 17, 6), (4, 20, 40)])
@pytest.mark.parametrize("tiles", [1, 200])
def test_volumes_equal_the_direct_sum_in_float64(
    shape: tuple[int, int, int], tiles: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "TILES", tiles)
    torch.manual_seed(5)
    layer = nn.Conv3d(6, 5, 3, padding=1).requires_grad_(False)
    volume = torch.randn(1, 6, *shape)
    found = WinogradConv3d(layer)(volume)
    exact = layer.double()(volume.double())
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-5 * float(exact.abs().max()))


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_share_the_work_and_change_nothing(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "TILES", 8)
    pages, volume = torch.randn(3, 6, 20, 12), torch.randn(1, 6, 5, 20, 12)
    flat, solid = WinogradConv2d(_layer(6, 5)), WinogradConv3d(nn.Conv3d(6, 5, 3, padding=1))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = flat(pages), solid(volume)
        torch.set_num_threads(threads)
        assert torch.equal(flat(pages), expected[0])
        assert torch.equal(solid(volume), expected[1])
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_products_start_no_threads_of_their_own_and_a_failure_restores_the_number() -> None:
    for_products: list[str] = []

    def compute(part: int) -> None:
        for_products.append(_threads_of_mkl())
        if part == 3:
            raise ValueError

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        outside = _threads_of_mkl()
        with pytest.raises(ValueError, match=r"^$"):
            winograd._side_by_side(compute, [(part,) for part in range(4)])
        assert torch.get_num_threads() == 2
        assert _threads_of_mkl() == outside
    finally:
        torch.set_num_threads(before)
    assert set(for_products) <= {"1", "none"}


def _threads_of_mkl() -> str:
    """Read how many threads MKL takes; a torch without MKL has none."""
    found = re.search(r"mkl_get_max_threads\(\) : (\d+)", torch.__config__.parallel_info())
    return found.group(1) if found else "none"


def test_takes_one_volume_only() -> None:
    with pytest.raises(ValueError, match="too many values"):
        WinogradConv3d(nn.Conv3d(2, 2, 3, padding=1))(torch.zeros(2, 2, 4, 4, 4))


@pytest.mark.parametrize(
    ("capability", "half_in_hardware", "device", "dtype", "wins"),
    [
        ("AVX2", False, "cpu", torch.float32, True),
        ("AVX2", False, "cpu", torch.bfloat16, False),
        ("AVX2", False, "cuda", torch.float32, False),
        ("AVX2", True, "cpu", torch.float32, False),  # AVX-512 held back in torch's own kernels alone
        ("AVX512", False, "cpu", torch.float32, False),
        ("AVX512", True, "cpu", torch.float32, False),
        ("DEFAULT", False, "cpu", torch.float32, False),
    ],
)
def test_wins_on_a_cpu_that_ends_at_avx2(
    capability: str,
    half_in_hardware: bool,
    device: str,
    dtype: torch.dtype,
    wins: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: half_in_hardware)
    assert few_multiplications_win(torch.device(device), dtype) is wins


@pytest.mark.parametrize("wins", [True, False])
def test_vgg11_gives_the_same_feature_map(wins: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "few_multiplications_win", lambda *_: wins)
    slices = torch.rand(2, 224, 224, generator=torch.Generator().manual_seed(3))
    expected = pool_slices(load_backbone("vgg11", random_seed=0), slices, batch_slices=2)
    ready = make_ready(load_backbone("vgg11", random_seed=0), CPU, "fp32")
    found = pool_slices(ready, slices, batch_slices=2)
    kinds = [type(layer) for layer in ready.layers if not isinstance(layer, nn.ReLU | backbones.HalfMax)]
    assert kinds == [nn.Conv2d] + [WinogradConv2d if wins else nn.Conv2d] * 7
    assert float((found - expected).norm() / expected.norm()) < (1e-5 if wins else 1e-12)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(64, 64, 3, padding=1),
        nn.Conv2d(32, 128, 3, padding=1),
        nn.Conv2d(64, 128, 3, padding=1, stride=2),
        nn.Conv2d(64, 128, 3),
        nn.Conv2d(64, 128, 5, padding=1),
        nn.Conv2d(64, 128, 3, padding=1, groups=2),
        nn.Conv2d(64, 128, 3, padding=1, dilation=2),
        nn.Conv2d(64, 128, 3, padding=1, padding_mode="reflect"),
        nn.ReLU(),
    ],
)
def test_other_layers_stay(layer: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "few_multiplications_win", lambda *_: True)
    layers = nn.Sequential(layer, nn.Conv2d(64, 128, 3, padding=1))
    backbone = backbones.Backbone(layers, feature_map_shape=(128, 7, 7), mean=(0, 0, 0), std=(1, 1, 1))
    make_ready(backbone, CPU, "fp32")
    assert [type(one) for one in backbone.layers] == [type(layer), WinogradConv2d]


def test_half_precision_where_it_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precisions, "half_precision", lambda _: torch.bfloat16)
    monkeypatch.setattr(backbones, "few_multiplications_win", lambda _, dtype: dtype == torch.float32)
    for precision, dtype, kind in (("auto", torch.bfloat16, nn.Conv2d), ("fp32", torch.float32, WinogradConv2d)):
        layers = nn.Sequential(nn.Conv2d(3, 64, 1), nn.Conv2d(64, 128, 3, padding=1))
        backbone = backbones.Backbone(layers, feature_map_shape=(128, 7, 7), mean=(0, 0, 0), std=(1, 1, 1))
        make_ready(backbone, CPU, precision)
        assert layers[0].weight.dtype == dtype
        assert type(layers[1]) is kind
