"""φ against convolutions written by hand, in mixed batches and any order."""

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models.extractor import PretrainNetwork, UniversalExtractor

SHAPE = (6, 3, 4)


@pytest.fixture
def extractor() -> UniversalExtractor:
    """Three modalities; centre, spread and bias not at their neutral values."""
    torch.manual_seed(0)
    network = UniversalExtractor(3, SHAPE)
    with torch.no_grad():
        for parameter in network.hypernetwork.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        network.centre.normal_()
        network.spread.uniform_(0.5, 3)
    return network


def _by_hand(extractor: UniversalExtractor, feature_map: np.ndarray, m: int) -> np.ndarray:
    weights, biases = (t.detach().numpy().astype(np.float64) for t in extractor.hypernetwork())
    z = (feature_map - extractor.centre[m].numpy()) / extractor.spread[m].item()
    return np.einsum("oc,chw->ohw", weights[m], z) + biases[m][:, None, None]


def test_mixed_batch_is_one_convolution_a_scan(extractor: UniversalExtractor) -> None:
    generator = np.random.default_rng(1)
    feature_maps = generator.normal(size=(9, *SHAPE)).astype(np.float32)
    modality = generator.integers(0, 3, 9)
    modality[:3] = (2, 0, 2)
    ours = extractor(torch.from_numpy(feature_maps), torch.from_numpy(modality)).detach().numpy()
    for feature_map, m, features in zip(feature_maps, modality, ours, strict=True):
        np.testing.assert_allclose(features, _by_hand(extractor, feature_map, m), atol=1e-5)


def test_order_and_company_do_not_matter(extractor: UniversalExtractor) -> None:
    generator = torch.Generator().manual_seed(2)
    feature_maps, modality = torch.randn(8, *SHAPE, generator=generator), torch.tensor([0, 1, 2, 1, 1, 0, 2, 2])
    together = extractor(feature_maps, modality)
    for _ in range(5):
        order = torch.randperm(8, generator=generator)
        torch.testing.assert_close(extractor(feature_maps[order], modality[order]), together[order], atol=1e-6, rtol=0)
    for i in range(8):
        torch.testing.assert_close(
            extractor(feature_maps[i : i + 1], modality[i : i + 1])[0], together[i], atol=1e-6, rtol=0
        )


def test_gradients_are_those_of_single_scans(extractor: UniversalExtractor) -> None:
    feature_maps, modality = torch.randn(5, *SHAPE), torch.tensor([2, 0, 0, 2, 1])
    extractor(feature_maps, modality).square().sum().backward()
    together = extractor.hypernetwork.weight.weight.grad.clone()
    extractor.zero_grad()
    for i in range(5):
        extractor(feature_maps[i : i + 1], modality[i : i + 1]).square().sum().backward()
    torch.testing.assert_close(extractor.hypernetwork.weight.weight.grad, together, rtol=1e-4, atol=1e-4)


def test_scale_none_is_the_paper(extractor: UniversalExtractor) -> None:
    feature_maps, modality = torch.randn(4, *SHAPE), torch.tensor([0, 1, 2, 0])
    extractor.fit_normalisation(lambda: [(feature_maps, modality)], "none")
    assert torch.equal(extractor.standardised(feature_maps, modality), feature_maps)


def test_scale_against_numpy(extractor: UniversalExtractor) -> None:
    generator = np.random.default_rng(3)
    modality = np.array([0, 0, 0, 2, 2, 2, 2])
    feature_maps = (5 + np.array([1, 9, 30])[modality][:, None, None, None] * generator.random((7, *SHAPE))).astype(
        np.float32
    )
    tensors = torch.from_numpy(feature_maps), torch.from_numpy(modality)

    extractor.fit_normalisation(lambda: [tensors], "scale")
    expected = feature_maps / np.sqrt(np.mean(feature_maps.astype(np.float64) ** 2))
    np.testing.assert_allclose(extractor.standardised(*tensors).numpy(), expected, rtol=1e-5)

    extractor.fit_normalisation(lambda: [tensors], "standardise")
    ours = extractor.standardised(*tensors).numpy()
    for m in (0, 2):
        mine = feature_maps[modality == m].astype(np.float64)
        left = mine - mine.mean(0)
        np.testing.assert_allclose(ours[modality == m], left / np.sqrt(np.mean(left**2)), atol=1e-5)
    assert (extractor.centre[1] == 0).all()  # not seen: left as it is
    assert extractor.spread[1].item() == 1


def test_scale_uses_only_what_it_is_given(extractor: UniversalExtractor) -> None:
    """Held-out scans, however strange, change nothing once the scale is fitted; and it forgets an earlier fit."""
    train, modality = torch.randn(6, *SHAPE), torch.tensor([0, 1, 0, 1, 0, 1])
    extractor.fit_normalisation(lambda: [(1e4 + torch.randn(3, *SHAPE), torch.tensor([2, 1, 0]))], "standardise")
    extractor.fit_normalisation(lambda: [(train, modality)], "standardise")
    kept = {name: value.clone() for name, value in extractor.state_dict().items()}
    with torch.no_grad():
        extractor(1e6 * torch.rand(4, *SHAPE), torch.tensor([0, 1, 2, 0]))
    for name, value in extractor.state_dict().items():
        assert torch.equal(value, kept[name]), name
    fresh = UniversalExtractor(3, SHAPE)
    fresh.fit_normalisation(lambda: [(train, modality)], "standardise")
    assert torch.equal(fresh.centre, extractor.centre)
    assert torch.equal(fresh.spread, extractor.spread)
    assert not any(b.requires_grad for b in (extractor.centre, extractor.spread))


@pytest.mark.parametrize("how", ["scale", "standardise"])
def test_scale_of_one_scan_or_of_nothing_but_zeros(extractor: UniversalExtractor, how: str) -> None:
    one, modality = torch.rand(1, *SHAPE), torch.tensor([1])
    for feature_maps in (one, torch.zeros_like(one)):
        extractor.fit_normalisation(lambda z=feature_maps: [(z, modality)], how)
        assert torch.isfinite(extractor(feature_maps, modality)).all()


def test_round_trip_through_a_file(extractor: UniversalExtractor) -> None:
    feature_maps, modality = torch.randn(4, *SHAPE), torch.tensor([0, 1, 2, 0])
    extractor.fit_normalisation(lambda: [(feature_maps, modality)], "standardise")
    expected = extractor(feature_maps, modality)
    file = io.BytesIO()
    torch.save(extractor.state_dict(), file)
    file.seek(0)
    other = UniversalExtractor(3, SHAPE)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(feature_maps, modality), expected)


def test_heads_of_step_1(extractor: UniversalExtractor) -> None:
    network = PretrainNetwork(extractor, classes=4, hidden=10)
    feature_maps, modality = torch.randn(5, *SHAPE), torch.tensor([0, 1, 2, 0, 1])
    z, rebuilt, logits = network(feature_maps, modality)
    features = extractor(feature_maps, modality)
    torch.testing.assert_close(z, extractor.standardised(feature_maps, modality))
    weight, bias = network.decoder.weight[:, :, 0, 0], network.decoder.bias
    expected = torch.einsum("oc,nchw->nohw", weight, features) + bias[:, None, None]
    torch.testing.assert_close(rebuilt, expected, atol=1e-5, rtol=1e-5)
    first, last = network.classifier[1], network.classifier[3]
    hidden = F.relu(features.flatten(1) @ first.weight.T + first.bias)
    torch.testing.assert_close(logits, hidden @ last.weight.T + last.bias, atol=1e-5, rtol=1e-5)
    assert logits.shape == (5, 4)
    assert hidden.shape == (5, 10)
