"""Sets: no order, NumPy loops as oracle, and dropping scans without losing a patient."""

from typing import get_args

import numpy as np
import pytest
import torch

from models.set_classifier import AGGREGATES, SetClassifier, drop_members
from models.settings import Aggregate

HOW = ["sum", "mean", "max"]


def aggregate(features: torch.Tensor, sets: torch.Tensor, count: int, how: str) -> torch.Tensor:
    return AGGREGATES[how](features.shape[1])(features, sets, count)  # type: ignore[index]


def _sets(seed: int, count: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (N, 5) of sets of one to four members, shuffled."""
    generator = np.random.default_rng(seed)
    sets = np.repeat(np.arange(count), generator.integers(1, 5, count))
    generator.shuffle(sets)
    features = generator.normal(-1, 2, (len(sets), 5)).astype(np.float32)  # mostly negative: a zero would show in max
    return torch.from_numpy(features), torch.from_numpy(sets)


def test_the_setting_names_every_aggregate() -> None:
    assert set(get_args(Aggregate)) == set(AGGREGATES)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("seed", range(5))
def test_aggregate_is_a_loop_in_numpy(how: str, seed: int) -> None:
    features, sets = _sets(seed)
    ours = aggregate(features, sets, 7, how).numpy()
    for s in range(7):
        expected = getattr(np, how)(features.numpy()[sets.numpy() == s], axis=0)
        np.testing.assert_allclose(ours[s], expected, atol=1e-5)


@pytest.mark.parametrize("how", AGGREGATES)
def test_no_order_and_no_company(how: str) -> None:
    torch.manual_seed(0)
    network = SetClassifier(5, 3, hidden=(16, 8), how=how).eval()
    generator = torch.Generator().manual_seed(1)
    for seed in range(10):
        features, sets = _sets(seed)
        logits = network(features, sets, 7)
        assert logits.shape == (7, 3)
        order = torch.randperm(len(sets), generator=generator)
        torch.testing.assert_close(network(features[order], sets[order], 7), logits, atol=1e-5, rtol=1e-5)
        renamed = torch.randperm(7, generator=generator)  # the sets themselves in another order
        torch.testing.assert_close(network(features, renamed[sets], 7)[renamed], logits, atol=1e-5, rtol=1e-5)
        alone = network(features[sets == 3], torch.zeros(int((sets == 3).sum()), dtype=torch.int64), 1)
        torch.testing.assert_close(alone[0], logits[3], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("how", HOW)
def test_the_same_scan_twice(how: str) -> None:
    """Mean and max do not care when every scan is there twice; the sum, equation 1, doubles."""
    features, sets = _sets(3)
    once = aggregate(features, sets, 7, how)
    twice = aggregate(features.repeat(2, 1), sets.repeat(2), 7, how)
    torch.testing.assert_close(twice, 2 * once if how == "sum" else once, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("how", ["mean", "max"])
def test_one_scan_is_its_own_aggregate(how: str) -> None:
    features = torch.randn(4, 5)
    torch.testing.assert_close(aggregate(features, torch.arange(4), 4, how), features)


@pytest.mark.parametrize("how", HOW)
def test_gradients_against_finite_differences(how: str) -> None:
    features, sets = _sets(4, count=3)
    features = features.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda f: aggregate(f, sets, 3, how), (features,))


def test_three_layers_with_relu_between() -> None:
    torch.manual_seed(0)
    network = SetClassifier(5, 2, hidden=(7, 6), dropout=0.5, how="mean").eval().double()
    features, sets = _sets(0)
    x = aggregate(features.double(), sets, 7, "mean").numpy()
    p = [v.detach().numpy() for v in network.parameters()]
    assert [v.shape for v in p] == [(7, 5), (7,), (6, 7), (6,), (2, 6), (2,)]
    hidden = np.maximum(np.maximum(x @ p[0].T + p[1], 0) @ p[2].T + p[3], 0)
    np.testing.assert_allclose(network(features.double(), sets, 7).detach().numpy(), hidden @ p[4].T + p[5], atol=1e-12)


@pytest.mark.parametrize("probability", [0.0, 0.3, 0.9, 0.999])
def test_dropping_never_empties_a_set(probability: float) -> None:
    for seed in range(50):
        _, sets = _sets(seed)
        kept = drop_members(sets, probability, torch.Generator().manual_seed(seed))
        assert kept.dtype == torch.bool
        assert set(sets[kept].tolist()) == set(sets.tolist())
        if probability == 0:
            assert kept.all()


@pytest.mark.parametrize("members", [1, 2, 3, 6])
@pytest.mark.parametrize("probability", [0.2, 0.5, 0.8])
def test_dropping_as_often_as_asked(members: int, probability: float) -> None:
    """Each scan goes with p, except that one is spared when all would go: p - p^n / n a scan."""
    count = 20_000
    sets = torch.arange(count).repeat(members)
    kept = drop_members(sets, probability, torch.Generator().manual_seed(0))
    expected = probability - probability**members / members
    error = 4 * np.sqrt(0.25 / (count * members))  # four standard deviations, at most
    assert 1 - float(kept.float().mean()) == pytest.approx(expected, abs=error)
    for share in kept.view(members, count).float().mean(1).tolist():  # no favourite
        assert 1 - share == pytest.approx(expected, abs=4 * np.sqrt(0.25 / count))


def test_dropping_is_seeded() -> None:
    sets = torch.arange(50).repeat(3)
    one, same, other = (drop_members(sets, 0.5, torch.Generator().manual_seed(seed)) for seed in (7, 7, 8))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
