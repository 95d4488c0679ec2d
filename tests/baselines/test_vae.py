"""Multi-VAE: products of normal distributions against NumPy, the loss against loops, and learning from any subset."""

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Normal
from torch.distributions import kl_divergence as reference_kl

from baselines.vae import draw, elbo_terms, fit_multi_vae, kl_divergence, product_of_experts
from models.settings import Training

SHORT = Training(epochs=3, learning_rate=3e-3)


def _experts(seed: int = 0, rows: int = 9, experts: int = 4, latent: int = 5) -> tuple[torch.Tensor, ...]:
    """Means, log-variances, and which there are: at least one a row."""
    generator = torch.Generator().manual_seed(seed)
    mu, logvar = torch.randn(2, rows, experts, latent, generator=generator, dtype=torch.float64) * 2
    modality_mask = torch.rand(rows, experts, generator=generator) < 0.6
    modality_mask[torch.arange(rows), torch.arange(rows) % experts] = True
    return mu, logvar, modality_mask


@pytest.mark.parametrize("prior", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_product_is_the_one_in_numpy(seed: int, prior: bool) -> None:
    mu, logvar, modality_mask = _experts(seed)
    joint_mu, joint_logvar = product_of_experts(mu, logvar, modality_mask, prior=prior)
    for row in range(len(mu)):
        means, variances = mu[row][modality_mask[row]].numpy(), np.exp(logvar[row][modality_mask[row]].numpy())
        if prior:
            means, variances = np.vstack([means, np.zeros(5)]), np.vstack([variances, np.ones(5)])
        variance = 1 / (1 / variances).sum(0)
        np.testing.assert_allclose(joint_logvar[row], np.log(variance), atol=1e-12)
        np.testing.assert_allclose(joint_mu[row], variance * (means / variances).sum(0), atol=1e-12)


def test_density_is_proportional_to_the_product() -> None:
    mu, logvar, modality_mask = _experts()
    joint_mu, joint_logvar = product_of_experts(mu, logvar, modality_mask)
    joint = Normal(joint_mu, (0.5 * joint_logvar).exp())
    points = torch.linspace(-3, 3, 7, dtype=torch.float64).view(-1, 1, 1)
    each = Normal(mu, (0.5 * logvar).exp()).log_prob(points.unsqueeze(3)) * modality_mask.unsqueeze(2)
    product = each.sum(2) + Normal(0.0, 1.0).log_prob(points)
    ratio = joint.log_prob(points) - product
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))


def test_one_expert_without_prior_is_that_expert() -> None:
    mu, logvar, _ = _experts()
    for m in range(4):
        only = torch.zeros(9, 4, dtype=torch.bool)
        only[:, m] = True
        joint_mu, joint_logvar = product_of_experts(mu, logvar, only, prior=False)
        torch.testing.assert_close(joint_mu, mu[:, m])
        torch.testing.assert_close(joint_logvar, logvar[:, m])


@pytest.mark.parametrize("prior", [True, False])
def test_no_order_and_nothing_from_missing_experts(prior: bool) -> None:
    mu, logvar, modality_mask = _experts()
    expected = product_of_experts(mu, logvar, modality_mask, prior=prior)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        product_of_experts(mu[:, order], logvar[:, order], modality_mask[:, order], prior=prior), expected
    )
    for wrong in (torch.nan, 1e6, -1e6):
        spoilt = [x.masked_fill(~modality_mask.unsqueeze(2), wrong).requires_grad_() for x in (mu, logvar)]
        ours = product_of_experts(*spoilt, modality_mask, prior=prior)
        torch.testing.assert_close(ours, expected)
        (ours[0].sum() + ours[1].sum()).backward()
        for x in spoilt:
            assert x.grad.isfinite().all()
            assert (x.grad[~modality_mask] == 0).all()
            assert (x.grad[modality_mask] != 0).any()


def test_nobody_there() -> None:
    mu, logvar, modality_mask = _experts()
    modality_mask[3] = False
    joint_mu, joint_logvar = product_of_experts(mu, logvar, modality_mask)
    assert (joint_mu[3] == 0).all()
    assert (joint_logvar[3] == 0).all()
    with pytest.raises(ValueError, match="row 3 has no expert and the prior is off; give it one expert"):
        product_of_experts(mu, logvar, modality_mask, prior=False)


def test_extreme_variances_stay_finite() -> None:
    mu, logvar = torch.tensor([[[1.0], [2.0]]]), torch.tensor([[[-200.0], [200.0]]])
    joint_mu, joint_logvar = product_of_experts(mu, logvar, torch.ones(1, 2, dtype=torch.bool))
    assert (joint_mu.item(), joint_logvar.item()) == pytest.approx((1.0, -200.0))


def test_kl_is_the_one_of_torch() -> None:
    mu, logvar, _ = _experts()
    expected = reference_kl(Normal(mu[:, 0], (0.5 * logvar[:, 0]).exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(kl_divergence(mu[:, 0], logvar[:, 0]), expected)


def test_draws_have_mean_variance_and_gradient() -> None:
    mu = torch.tensor([[-2.0, 0.0, 3.0]]).expand(20000, -1).requires_grad_()
    logvar = torch.tensor([[-4.0, 0.0, 2.0]]).expand(20000, -1).requires_grad_()
    z = draw(mu, logvar, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(z.mean(0).detach(), [-2, 0, 3], atol=0.06)
    np.testing.assert_allclose(z.var(0).detach(), np.exp([-4, 0, 2]), rtol=0.05)
    by_mu, by_logvar = torch.autograd.grad(z.sum(), [mu, logvar])
    assert (by_mu == 1).all()
    torch.testing.assert_close(by_logvar, (z - mu) / 2)


def test_terms_are_the_whole_each_alone_and_some_between() -> None:
    modality_mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 1, 1, 0, 1]]).bool()
    generator, seen = torch.Generator().manual_seed(0), [set(), set(), set(), set()]
    for _ in range(200):
        owner, subset = elbo_terms(modality_mask, 2, generator)
        for row in range(4):
            whole = frozenset(modality_mask[row].nonzero().flatten().tolist())
            mine = [frozenset(s.nonzero().flatten().tolist()) for s in subset[owner == row]]
            always = [whole] if len(whole) == 1 else [whole, *(frozenset({m}) for m in sorted(whole))]
            assert mine[: len(always)] == always
            assert len(mine) == len(always) + (2 if len(whole) > 2 else 0)
            seen[row] |= set(mine[len(always) :])
    between = [
        {frozenset(s) for n in sizes for s in combinations(whole, n)}
        for whole, sizes in (((0, 1, 2, 3, 4), (2, 3, 4)), ((), ()), ((), ()), ((1, 2, 4), (2,)))
    ]
    assert seen == between  # every subset in between turns up, and no other
    assert len(elbo_terms(modality_mask, 0, generator)[0]) == 6 + 3 + 1 + 4


def test_validation_loss_is_the_one_described(planted: Callable) -> None:
    """Observation by observation, with the network's own parts, at the mean of the latent."""
    sample = planted(missing=0.4, seed=2)
    fitted = fit_multi_vae(sample, SHORT, latent=6, narrow=4, beta=0.5)
    network, grid, modality_mask = fitted.network, sample.grid(), sample.modality_mask
    parts = {"mse": 0.0, "kl": 0.0, "ce": 0.0}
    with torch.no_grad():
        for b in sample.validation.tolist():
            present = modality_mask[b].nonzero().flatten().tolist()
            outputs = [network.encoders[m](grid[b, m][None])[0] for m in present]
            precisions = [torch.exp(-output[6:]) for output in outputs]
            variance = 1 / (1 + sum(precisions))
            mean = variance * sum(output[:6] * p for output, p in zip(outputs, precisions, strict=True))
            rebuilt = [network.decoders[m](mean[None])[0] for m in present]
            parts["mse"] += sum(F.mse_loss(x, grid[b, m]) for x, m in zip(rebuilt, present, strict=True)).item()
            kl = reference_kl(Normal(mean, variance.sqrt()), Normal(0.0, 1.0)).sum().item()
            parts["kl"] += 0.5 * 2 / 72 * kl
            parts["ce"] -= network.classifier(mean).log_softmax(0)[sample.target[b]].item()
    row = next(row for row in fitted.history.rows if row["best"])
    for name, value in parts.items():
        assert row[f"validation_{name}"] == pytest.approx(value / len(sample.validation), rel=1e-4)
    per_modality = (8 * 4 + 4) + (36 * 12 + 12) + (6 * 36 + 36) + (4 * 8 + 8)
    assert fitted.parameters == 2 * per_modality + 6 * 2 + 2
