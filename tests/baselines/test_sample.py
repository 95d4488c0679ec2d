"""The sample that all baselines learn from, against NumPy loops."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from baselines.sample import Sample

SHAPE = (4, 2, 3)


@pytest.fixture
def sample() -> Sample:
    """Twelve observations with none to three scans of each of three modalities, in no order; number 5 has none."""
    random = np.random.default_rng(0)
    keys = [(i, m) for i in range(12) if i != 5 for m in range(3) for _ in range(random.integers(0, 4))]
    random.shuffle(keys)
    observation, modality = np.array(keys).T
    scale = np.array([1.0, 20.0, 0.1])[modality][:, None, None, None]
    return Sample(
        feature_maps=torch.from_numpy((scale * (3 + random.normal(size=(len(keys), *SHAPE)))).astype(np.float32)),
        modality=torch.from_numpy(modality),
        observation=torch.from_numpy(observation),
        target=torch.from_numpy(random.integers(0, 2, 12)),
        train=torch.tensor([0, 2, 4, 5, 6, 9, 11]),
        validation=torch.tensor([1, 7]),
        test=torch.tensor([3, 8, 10]),
        modalities=3,
        classes=2,
    )


def _members(sample: Sample) -> dict[tuple[int, int], list[int]]:
    out: dict[tuple[int, int], list[int]] = {}
    for k, key in enumerate(zip(sample.observation.tolist(), sample.modality.tolist(), strict=True)):
        out.setdefault(key, []).append(k)
    return out


def test_grid_and_there_against_a_loop(sample: Sample) -> None:
    members, feature_maps = _members(sample), sample.feature_maps.numpy()
    sizes = {len(scans) for scans in members.values()}
    assert {1, 2, 3} <= sizes  # else there is nothing to average
    assert len(members) < 33  # else nothing is missing
    expected = np.zeros((12, 3, *SHAPE), np.float32)
    modality_mask = np.zeros((12, 3), bool)
    for (i, m), scans in members.items():
        expected[i, m], modality_mask[i, m] = feature_maps[scans].mean(0), True
    np.testing.assert_allclose(sample.grid().numpy(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(sample.modality_mask.numpy(), modality_mask)
    assert sample.grid().dtype == torch.float32
    assert not sample.modality_mask[5].any()


def test_scans_of_in_the_order_of_the_feature_maps(sample: Sample) -> None:
    wanted = torch.tensor([8, 0, 5, 3])
    expected = [k for k, i in enumerate(sample.observation.tolist()) if i in (8, 0, 5, 3)]
    assert sample.scans_of(wanted).tolist() == expected
    assert sample.scans_of(torch.tensor([5])).tolist() == []
    assert sample.scans_of(wanted[:0]).tolist() == []


def test_standardised_against_numpy(sample: Sample) -> None:
    ours, feature_maps = sample.standardised().feature_maps.numpy(), sample.feature_maps.numpy().astype(np.float64)
    training = np.isin(sample.observation.numpy(), sample.train.numpy())
    for m in range(3):
        mine = sample.modality.numpy() == m
        centre = feature_maps[mine & training].mean(0)
        spread = np.sqrt(np.mean((feature_maps[mine & training] - centre) ** 2))
        np.testing.assert_allclose(ours[mine], (feature_maps[mine] - centre) / spread, atol=1e-4)


@pytest.mark.parametrize("part", ["validation", "test"])
def test_held_out_feature_maps_do_not_move_the_others(sample: Sample, part: str) -> None:
    touched = torch.isin(sample.observation, getattr(sample, part))
    strange = replace(sample, feature_maps=torch.where(touched[:, None, None, None], 1e5, sample.feature_maps))
    before, after = sample.standardised().feature_maps, strange.standardised().feature_maps
    assert torch.equal(before[~touched], after[~touched])
    assert not torch.equal(before[touched], after[touched])
    a_training_scan = sample.scans_of(sample.train)[0]
    strange.feature_maps[a_training_scan] += 1
    assert not torch.equal(before[~touched], strange.standardised().feature_maps[~touched])


def test_standardised_with_one_or_no_training_scan(sample: Sample) -> None:
    """One scan is centred and not divided; a modality that training lacks stays as it is. The input is not changed."""
    training = torch.isin(sample.observation, sample.train)
    second = (training & (sample.modality == 1)).nonzero().squeeze(1)
    hidden = training & (sample.modality == 2)
    hidden[second[1:]] = True
    few = sample.without(hidden)
    raw = few.feature_maps.clone()
    ours = few.standardised().feature_maps
    torch.testing.assert_close(ours[few.modality == 1], raw[few.modality == 1] - sample.feature_maps[second[0]])
    assert torch.equal(ours[few.modality == 2], raw[few.modality == 2])
    assert torch.isfinite(ours).all()
    assert torch.equal(few.feature_maps, raw)


def test_without_takes_away_scans_and_keeps_numbers(sample: Sample) -> None:
    hidden = (sample.modality == 1) | (sample.observation == 4)
    left = sample.without(hidden)
    kept = [k for k in range(len(sample.feature_maps)) if not hidden[k]]
    for name in ("feature_maps", "modality", "observation"):
        assert torch.equal(getattr(left, name), getattr(sample, name)[kept]), name
    for name in ("target", "train", "validation", "test"):
        assert getattr(left, name) is getattr(sample, name)
    expected = sample.modality_mask.clone()
    expected[:, 1], expected[4] = False, False
    assert torch.equal(left.modality_mask, expected)
    nothing = sample.without(torch.ones_like(hidden))
    assert not nothing.modality_mask.any()
    assert (nothing.grid() == 0).all()
    assert nothing.grid().shape == (12, 3, *SHAPE)


# --- the maker of planted samples, which all tests of baselines rest on ---


def test_planted_parts_classes_and_scale(planted: Callable[..., Sample]) -> None:
    sample = planted(observations=50, modalities=3, classes=2, feature_map=(4, 2, 2))
    assert [len(part) for part in (sample.train, sample.validation, sample.test)] == [30, 10, 10]
    together = torch.cat([sample.train, sample.validation, sample.test])
    assert together.sort().values.equal(torch.arange(50))
    for part in (sample.train, sample.validation, sample.test):
        assert sample.target[part].bincount(minlength=2).tolist() == [len(part) / 2] * 2
    assert sample.modality_mask.all()
    assert torch.equal(
        sample.feature_maps, planted(observations=50, modalities=3, classes=2, feature_map=(4, 2, 2)).feature_maps
    )
    assert not torch.equal(
        sample.feature_maps,
        planted(observations=50, modalities=3, classes=2, feature_map=(4, 2, 2), seed=1).feature_maps,
    )
    training = torch.isin(sample.observation, sample.train)
    for m in range(3):
        mine = sample.feature_maps[training & (sample.modality == m)]
        torch.testing.assert_close(mine.mean(0), torch.zeros(4, 2, 2), atol=1e-5, rtol=0)
        assert float(mine.square().mean()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("missing", [0.3, 0.9])
def test_planted_missing_scans(planted: Callable[..., Sample], missing: float) -> None:
    modality_mask = planted(observations=400, modalities=3, missing=missing, feature_map=(1, 1, 1)).modality_mask
    assert modality_mask.any(1).all()
    # The scan with the largest draw always stays: (1 - q) plus the chance that all three are below q, over three.
    assert float(modality_mask.float().mean()) == pytest.approx(1 - missing + missing**3 / 3, abs=0.04)


def test_planted_signal(planted: Callable[..., Sample]) -> None:
    """Class means differ by the signal and not without it."""

    def apart(signal: float) -> Tensor:
        sample = planted(observations=400, modalities=1, signal=signal)
        label = sample.target[sample.observation]
        return (
            (sample.feature_maps[label == 0].mean(0) - sample.feature_maps[label == 1].mean(0)).square().mean().sqrt()
        )

    assert float(apart(0.0)) < 0.15
    assert float(apart(1.0)) > 0.8
