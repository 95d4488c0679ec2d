"""The generators and the discriminator: published layers, shapes, receptive field, first weights."""

import pytest
import torch
from torch import nn

from baselines.translation.networks import Discriminator, ResidualBlock, ResNetGenerator, UNet, halvings


@pytest.mark.parametrize(("size", "depth"), [(16, 4), (32, 5), (48, 4), (96, 5), (128, 7), (256, 8), (512, 8)])
def test_the_unet_goes_down_as_far_as_the_size_allows(size: int, depth: int) -> None:
    assert halvings(size) == depth
    network = UNet(size, width=1)
    assert (len(network.down), len(network.up)) == (depth, depth)
    sizes = []
    network.down[-1].register_forward_hook(lambda module, args, out: sizes.append(out.shape[2:]))
    out = network(torch.rand(2, 1, size, size) * 2 - 1)
    assert out.shape == (2, 1, size, size)
    assert sizes == [(size // 2**depth,) * 2]
    assert out.abs().max() <= 1


def test_the_unet_is_the_published_one_at_256_pixels() -> None:
    """Isola et al., appendix 6.1.1: C64-...-C512, CD512-CD1024-CD1024-C1024-C1024-C512-C256-C128."""
    network = UNet(256)
    down = [layer[1].out_channels for layer in network.down]
    assert down == [64, 128, 256, 512, 512, 512, 512, 512]
    up = [layer[1] for layer in reversed(network.up)]
    assert [layer.in_channels for layer in up] == [512, 1024, 1024, 1024, 1024, 512, 256, 128]
    assert [layer.out_channels for layer in up] == [512, 512, 512, 512, 256, 128, 64, 1]
    assert [layer[3].p for layer in reversed(network.up)] == [0.5] * 3 + [0.0] * 5


def test_every_level_of_the_unet_reaches_the_output() -> None:
    network, slices = UNet(64, width=2).eval(), torch.rand(1, 1, 64, 64)
    before = network(slices)
    for layer in network.down:
        kept = layer[1].weight.detach().clone()
        nn.init.zeros_(layer[1].weight)
        assert not torch.equal(network(slices), before)
        layer[1].weight.data = kept


@pytest.mark.parametrize(("size", "blocks"), [(64, 6), (128, 6), (256, 9)])
def test_the_resnet_generator(size: int, blocks: int) -> None:
    network = ResNetGenerator(size, width=2)
    assert sum(isinstance(module, ResidualBlock) for module in network.modules()) == blocks
    out = network(torch.rand(1, 1, size, size) * 2 - 1)
    assert out.shape == (1, 1, size, size)
    assert out.abs().max() <= 1


def test_the_resnet_generator_is_the_published_one() -> None:
    convolutions = [m for m in ResNetGenerator(256).modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert [c.out_channels for c in convolutions] == [64, 128, 256, *[256] * 18, 128, 64, 1]


def test_as_many_weights_as_the_authors_code_prints() -> None:
    """In millions, for three channels in and out, and with biases before cycleGAN's norms, which change nothing."""
    unet, resnet = _count(UNet(256)), _count(ResNetGenerator(256))
    ends = 64 + 512  # biases of the first layer and the innermost, which have no norm; the authors leave them out
    assert unet + 16 * (2 * 64 + 2 * 128) + 2 - ends == pytest.approx(54.414e6, abs=500)
    before_norms = 64 + 128 + 256 + 18 * 256 + 128 + 64
    assert resnet + 49 * (2 * 64 + 2 * 64) + 2 + before_norms == pytest.approx(11.378e6, abs=500)
    assert _count(Discriminator(6, affine=True)) == pytest.approx(2.769e6, abs=500)
    assert _count(Discriminator(3)) + 128 + 256 + 512 == pytest.approx(2.765e6, abs=500)


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_a_residual_block_adds_and_reflects_at_the_border() -> None:
    """A flat slice stays flat behind a convolution only with reflection; the norm turns it to 0, and the rest is x."""
    torch.manual_seed(0)
    flat = torch.randn(2, 3, 1, 1).expand(2, 3, 8, 8)
    torch.testing.assert_close(ResidualBlock(3)(flat), flat, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("layers", "pixels"), [(1, 16), (2, 34), (3, 70)])
def test_a_patch_has_the_published_size(layers: int, pixels: int) -> None:
    """Gradient of one logit in the middle; without the norm, which looks at the whole slice."""
    network = Discriminator(1, width=2, layers=layers).double()
    for module in network.modules():
        if hasattr(module, "N"):
            module.N = nn.Identity()
    slices = torch.rand(1, 1, 160, 160, dtype=torch.float64, requires_grad=True)
    logits = network(slices)
    logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2].backward()
    rows, columns = slices.grad[0, 0].nonzero(as_tuple=True)
    assert int(rows.max() - rows.min()) + 1 == pixels
    assert int(columns.max() - columns.min()) + 1 == pixels


def test_initial_weights_are_those_of_the_papers() -> None:
    for network in (UNet(64, width=16), ResNetGenerator(64, width=16), Discriminator(2, width=16)):
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.weight.numel() > 4000:
                weight = module.weight.detach()
                assert float(weight.std()) == pytest.approx(0.02, rel=0.1)
                assert abs(float(weight.mean())) < 0.002


def test_sizes_that_do_not_fit() -> None:
    for size in (0, 8, 100, 225):
        with pytest.raises(ValueError, match=rf"slices of {size} pixels: pix2pix' U-Net needs a multiple of 16"):
            UNet(size)
    for size in (12, 65):
        with pytest.raises(ValueError, match=rf"slices of {size} pixels: cycleGAN's generator needs a multiple of 4"):
            ResNetGenerator(size)
