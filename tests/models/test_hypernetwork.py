"""The hypernetwork against a convolution written by hand, and the size of what it generates at the start."""

import numpy as np
import pytest
import torch

from models.hypernetwork import HyperNetwork


def _by_hand(network: HyperNetwork, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Embedding → Linear → ReLU → Linear in NumPy, float64: weight (C, C) and bias (C)."""
    p = {name: value.detach().numpy().astype(np.float64) for name, value in network.named_parameters()}
    hidden = np.maximum(p["hidden.weight"] @ p["embedding.weight"][m] + p["hidden.bias"], 0)
    weight = p["weight.weight"] @ hidden + p["weight.bias"]
    return weight.reshape(network.channels, network.channels), p["bias.weight"] @ hidden + p["bias.bias"]


@pytest.mark.parametrize("initialisation", ["principled", "default"])
def test_generated_layer_is_the_one_written_by_hand(initialisation: str) -> None:
    torch.manual_seed(0)
    network = HyperNetwork(3, 8, initialisation=initialisation).double()
    with torch.no_grad():  # a bias of zero would prove little
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    weights, biases = network()
    assert weights.shape == (3, 8, 8)
    assert biases.shape == (3, 8)
    z = np.random.default_rng(0).normal(size=(4, 8, 5, 6))
    for m in range(3):
        weight, bias = _by_hand(network, m)
        np.testing.assert_allclose(weights[m].detach().numpy(), weight, atol=1e-12)
        expected = np.einsum("oc,nchw->nohw", weight, z) + bias[:, None, None]  # a 1x1 convolution
        ours = torch.nn.functional.conv2d(torch.from_numpy(z), weights[m][..., None, None], biases[m])
        np.testing.assert_allclose(ours.detach().numpy(), expected, atol=1e-12)


def test_as_large_as_published() -> None:
    network = HyperNetwork(2, 512)
    assert network.embedding.weight.shape == (2, 5)
    assert network.hidden.weight.shape == (20, 5)
    assert network.weight.weight.shape == (512 * 512, 20)
    assert network.bias.weight.shape == (512, 20)


def _gains(initialisation: str, modalities: int, seeds: int, channels: int = 48) -> np.ndarray:
    """Mean square of W_m z over that of z, z standard normal: (seeds, modalities)."""
    gains = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        weights, _ = HyperNetwork(modalities, channels, initialisation=initialisation)()
        # the expectation over z: the sum of squares of the weights over the channels
        gains.append(weights.square().sum((1, 2)).detach().numpy() / channels)
    return np.array(gains)


@pytest.mark.parametrize("modalities", [1, 2, 4])
def test_principled_start_keeps_the_mean_square(modalities: int) -> None:
    """The mean over the modalities of one network is 1 to a tenth; single modalities lie between 0.06 and 3.3."""
    gains = _gains("principled", modalities, 40)
    np.testing.assert_allclose(gains.mean(1), 1, atol=0.12)
    assert gains.mean() == pytest.approx(1, abs=0.015)
    assert 0.02 < gains.min() <= gains.max() < 6


def test_principled_start_on_a_real_z() -> None:
    """The same by passing a z that is not standard normal through W_m, one draw."""
    torch.manual_seed(3)
    weights, biases = HyperNetwork(2, 128)()
    z = torch.rand(6, 128, 7, 7, generator=torch.Generator().manual_seed(0)) * 9  # positive, as after a ReLU
    out = torch.einsum("moc,nchw->mnohw", weights, z)
    assert float((out.square().mean() / z.square().mean()).detach()) == pytest.approx(1, abs=0.25)
    assert (biases == 0).all()


def test_default_start_is_far_too_large() -> None:
    """Why the principled start is the default: torch's own gives W_m z the wrong energy, more so with more channels.

    Measured over seeds: 4.0 times at 48 channels, 8.1 at 96, 41 (from 16 to 83) at VGG's 512.
    """
    small, large = (_gains("default", 2, 20, channels).mean() for channels in (48, 96))
    assert small == pytest.approx(4.0, rel=0.25)
    assert large / small == pytest.approx(2, rel=0.3)
    full = _gains("default", 2, 2, 512).mean()
    assert full > 10


def test_modalities_get_different_layers_and_gradients_reach_everything() -> None:
    torch.manual_seed(0)
    network = HyperNetwork(3, 16)
    weights, biases = network()
    for a, b in ((0, 1), (0, 2), (1, 2)):
        difference = (weights[a] - weights[b]).detach()
        assert float(difference.square().mean() / weights[a].detach().square().mean()) > 0.01
    (weights.square().sum() + biases.sum()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
