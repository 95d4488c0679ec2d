"""Ways to make more of some labelled patients: they keep covariance, classes and what is missing."""

import numpy as np
import pytest

from models.joint.model import JointConfig, Patients, fit_model
from synthesis.recycling import (
    STRENGTHS,
    classify,
    design,
    labelled,
    mixed,
    noisy,
    scale_of,
    strength_of,
    synthetic,
)


def patients(count: int = 60, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3 // 2
    own = random.standard_normal((count, 2)) @ np.array([[2.0, 1.0, 0.0, 0.0, 0.0], [0.0, 0.5, 1.0, 0.0, 0.0]])
    made = {
        name: (own + random.standard_normal((count, 5)) + labels[:, None]).astype(np.float32) for name in ("a", "b")
    }
    made["b"][random.random(count) < 0.3] = np.nan
    return made, labels


def test_smaller_shares_are_parts_of_larger_ones_and_keep_the_classes() -> None:
    labels = np.repeat([0, 1], [70, 30])
    names = [f"s{i:03d}" for i in range(100)]
    chosen = [labelled(labels, share, 3, names) for share in (0.1, 0.25, 0.5, 1.0)]
    assert [len(each) for each in chosen] == [10, 26, 50, 100]
    for small, large in zip(chosen, chosen[1:], strict=False):
        assert set(small) < set(large)
    assert np.bincount(labels[chosen[0]]).tolist() == [7, 3]
    assert np.bincount(labels[labelled(labels, 0.001, 0, names)]).tolist() == [2, 2]
    assert set(chosen[0]) != set(labelled(labels, 0.1, 4, names))


def test_all_sessions_of_a_patient_are_labelled_or_none_and_lie_in_one_fold() -> None:
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(40) % 2, 3)
    names = [f"s{i // 3:02d}" for i in range(120)]
    chosen = labelled(labels, 0.25, 0, names)
    assert len(chosen) == 30
    assert len({names[i] for i in chosen}) == 10
    # each patient's own pattern says nothing of others; with a session of it in training it would say everything
    own = np.repeat(np.eye(40), 3, axis=0) + 0.01 * random.standard_normal((120, 40))
    assert strength_of(own, labels, 0, names) < strength_of(own, labels, 0, [f"{i}" for i in range(120)])


def test_noise_has_the_covariance_within_classes() -> None:
    features, labels = patients(300)
    made, of = noisy(features, labels, 4000, 1)
    for name in features:
        here, there = features[name], made[name]
        for label in (0, 1):
            rows = there[(of == label) & ~np.isnan(there[:, 0])]
            real = here[(labels == label) & ~np.isnan(here[:, 0])]
            np.testing.assert_allclose(rows.mean(0), real.mean(0), atol=0.25)
            np.testing.assert_allclose(np.cov(rows.T), 2 * np.cov(real.T), atol=1.5)  # the patient's own, and the noise
    assert 0.2 < np.isnan(made["b"][:, 0]).mean() < 0.4


def test_mixtures_lie_between_two_patients_of_a_class() -> None:
    features, labels = patients(30)
    made, of = mixed(features, labels, 200, 1)
    for label in (0, 1):
        real = features["a"][labels == label]
        rows = made["a"][of == label]
        assert (rows >= real.min(0) - 1e-5).all()
        assert (rows <= real.max(0) + 1e-5).all()
    assert np.isnan(made["b"][:, 0]).mean() < np.isnan(features["b"][:, 0]).mean()


def test_synthetic_patients_have_the_classes_and_gaps_of_those_they_are_drawn_from() -> None:
    features, labels = patients(120)
    model, _ = fit_model(Patients(features, {}), labels, 2, JointConfig(draws=3))
    made, of = synthetic(model, features, labels, 400, 0)
    assert np.bincount(of) / 400 == pytest.approx(np.bincount(labels) / 120, abs=0.08)
    assert np.isnan(made["b"][:, 0]).mean() == pytest.approx(np.isnan(features["b"][:, 0]).mean(), abs=0.08)
    means = [rows[of == 1][~np.isnan(rows[of == 1][:, 0])].mean() for rows in made.values()]
    assert min(means) > 0.7
    other, _ = synthetic(model, features, labels, 400, 1)
    assert not np.array_equal(made["a"], other["a"])


def test_missing_scans_are_as_if_average_and_scales_are_of_real_patients() -> None:
    features, labels = patients()
    scale = scale_of(features)
    rows = design(features, scale)
    assert rows.shape == (60, 10)
    missing = np.isnan(features["b"][:, 0])
    assert not rows[missing, 5:].any()
    np.testing.assert_allclose(rows[:, :5].std(0), 1 / np.sqrt(10), rtol=1e-6)


def test_the_share_is_that_of_the_weight() -> None:
    """Added patients of a share near 0 change nothing; of a share near 1 nothing else counts."""
    features, labels = patients()
    rows = design(features, scale_of(features))
    against = (rows, 1 - labels)
    plain, little, much = (
        classify((rows, labels), added, rows, share=share, strength=10.0, classes=2)
        for added, share in ((None, 0.0), (against, 1e-4), (against, 0.999))
    )
    np.testing.assert_allclose(little, plain, atol=1e-2)
    right = [(each.argmax(1) == labels).mean() for each in (plain, much)]
    assert right[0] > 0.8
    assert right[1] < 0.3
    np.testing.assert_allclose(much.sum(1), 1)


def test_the_penalty_is_strong_where_there_is_nothing_to_learn() -> None:
    features, labels = patients(60)
    rows = design(features, scale_of(features))
    blind = np.random.default_rng(0).standard_normal(rows.shape) / np.sqrt(10)
    names = [f"s{i:03d}" for i in range(60)]
    assert strength_of(blind, labels, 0, names) < strength_of(rows, labels, 0, names)
    assert strength_of(rows[:3], np.array([0, 0, 1]), 0, names[:3]) == STRENGTHS[0]
