"""ShaSpec: fusion and losses against NumPy loops, hiding at random, and learning from any subset."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from baselines.shaspec import ShaSpec, alignment, fit_shaspec, hide_some
from models.settings import Training

TRAINING = Training(epochs=25, learning_rate=3e-3)
SHORT = Training(epochs=3, learning_rate=3e-3)


def _features(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Shared and specific features of 9 observations with 1 to 4 modalities, 5 numbers each."""
    generator = torch.Generator().manual_seed(seed)
    shared, specific = torch.randn(2, 9, 4, 5, generator=generator)
    modality_mask = torch.rand(9, 4, generator=generator) < 0.6
    modality_mask[torch.arange(9), torch.arange(9) % 4] = True
    modality_mask[0], modality_mask[1] = True, torch.tensor([False, True, False, False])
    return shared, specific, modality_mask


def test_fusion_and_what_stands_in_are_loops_in_numpy() -> None:
    shared, specific, modality_mask = _features()
    torch.manual_seed(0)
    network = ShaSpec(4, (8, 3, 3), 2, features=5, narrow=2)
    ours = network.fuse(shared, specific, modality_mask).detach().numpy()
    weight, bias = (x.detach().numpy() for x in network.project.parameters())
    r, s = shared.numpy(), specific.numpy()
    for b in range(9):
        present = [m for m in range(4) if modality_mask[b, m]]
        for m in range(4):
            if m in present:
                expected = r[b, m] + weight @ np.concatenate([r[b, m], s[b, m]]) + bias
            else:
                expected = np.mean([r[b, i] for i in present], axis=0)
            np.testing.assert_allclose(ours[b, m], expected, atol=1e-5)


def test_missing_feature_maps_have_no_influence() -> None:
    torch.manual_seed(0)
    network, modality_mask = ShaSpec(4, (8, 3, 3), 3), _features()[2]
    torch.nn.init.normal_(network.classifier.weight)
    grid = torch.randn(9, 4, 8, 3, 3)
    logits, r, s = network(grid, modality_mask)
    assert logits.shape == (9, 3)
    assert r.shape == s.shape == (9, 4, 64)
    spoilt = torch.where(modality_mask.view(9, 4, 1, 1, 1), grid, torch.nan)
    torch.testing.assert_close(network(spoilt, modality_mask)[0], logits)
    alone = torch.cat([network(grid[b : b + 1], modality_mask[b : b + 1])[0] for b in range(9)])
    torch.testing.assert_close(alone, logits, atol=1e-4, rtol=1e-4)


def test_encoders_are_shared_and_specific() -> None:
    """The same feature map in two modalities has the same shared features, and others of its own."""
    torch.manual_seed(0)
    network = ShaSpec(2, (8, 3, 3), 2)
    grid = torch.randn(3, 1, 8, 3, 3).expand(-1, 2, -1, -1, -1)
    _, r, s = network(grid, torch.ones(3, 2, dtype=torch.bool))
    torch.testing.assert_close(r[:, 0], r[:, 1])
    assert (s[:, 0] - s[:, 1]).abs().mean() > 0.1


def test_alignment_is_a_loop_over_pairs() -> None:
    shared, _, modality_mask = _features()
    ours, shared = alignment(shared, modality_mask), shared.numpy()
    for b in range(9):
        present = [m for m in range(4) if modality_mask[b, m]]
        pairs = [(i, j) for i in present for j in present if i < j]
        expected = np.mean([np.abs(shared[b, i] - shared[b, j]).mean() for i, j in pairs]) if pairs else 0.0
        assert ours[b].item() == pytest.approx(float(expected), abs=1e-6)
    assert ours[1] == 0  # one modality
    assert ours[0] > 0.5


def test_hiding_leaves_every_number_as_often_and_never_none() -> None:
    modality_mask = _features()[2].repeat(500, 1)
    generator = torch.Generator().manual_seed(0)
    seen = hide_some(modality_mask, 1.0, generator)
    assert not (seen & ~modality_mask).any()
    assert seen.any(1).all()
    full = modality_mask.all(1)
    sizes = seen[full].sum(1).bincount(minlength=5)[1:] / full.sum()
    np.testing.assert_allclose(sizes, 0.25, atol=0.06)
    np.testing.assert_allclose(seen[full].double().mean(0), 2.5 / 4, atol=0.06)  # no modality is preferred
    assert torch.equal(hide_some(modality_mask, 0.0, generator), modality_mask)
    touched = (hide_some(modality_mask, 0.5, generator)[full] != modality_mask[full]).any(1).double().mean().item()
    assert touched == pytest.approx(0.5 * 3 / 4, abs=0.06)


def test_validation_loss_is_the_one_described(planted: Callable) -> None:
    """Observation by observation, with the network's own parts; nothing is hidden."""
    sample = planted(modalities=3, missing=0.4, seed=2)
    fitted = fit_shaspec(sample, SHORT, features=6, narrow=4, alpha=0.3, beta=0.7)
    network, grid = fitted.network, sample.grid()
    parts = {"ce": 0.0, "alignment": 0.0, "domain": 0.0}
    with torch.no_grad():
        for b in sample.validation.tolist():
            present = sample.modality_mask[b].nonzero().flatten().tolist()
            r = {m: network.shared(grid[b, m][None])[0] for m in present}
            s = {m: network.specific[m](grid[b, m][None])[0] for m in present}
            mean = sum(r.values()) / len(present)
            fused = [r[m] + network.project(torch.cat([r[m], s[m]])) if m in r else mean for m in range(3)]
            parts["ce"] -= network.classifier(torch.cat(fused)).log_softmax(0)[sample.target[b]].item()
            gaps = [(r[i] - r[j]).abs().mean().item() for i in present for j in present if i < j]
            parts["alignment"] += 0.3 * float(np.mean(gaps or [0.0]))
            told = [-network.domain(s[m]).log_softmax(0)[m].item() for m in present]
            parts["domain"] += 0.7 * float(np.mean(told))
    row = next(row for row in fitted.history.rows if row["best"])
    for name, value in parts.items():
        assert row[f"validation_{name}"] == pytest.approx(value / len(sample.validation), rel=1e-4)
    encoder = (8 * 4 + 4) + (36 * 6 + 6)
    assert fitted.parameters == 4 * encoder + (12 * 6 + 6) + (6 * 3 + 3) + (18 * 2 + 2)


def test_auxiliary_losses_do_what_they_are_for(planted: Callable) -> None:
    """Alignment draws shared features together; domain classification makes specific ones tell the modality."""
    sample, lasts = planted(), []
    for weight in (0.0, 1.0):
        fitted = fit_shaspec(sample, replace(TRAINING, patience=100), alpha=weight, beta=weight)
        with torch.no_grad():
            _, r, s = fitted.network(sample.grid()[sample.test], sample.modality_mask[sample.test])
            gap = alignment(r, sample.modality_mask[sample.test]).mean()
            told = fitted.network.domain(s).argmax(2) == torch.arange(2)
        lasts.append((gap.item(), told.double().mean().item()))
    assert lasts[1][0] < 0.3 * lasts[0][0]
    assert lasts[0][1] < 0.9 < lasts[1][1]
