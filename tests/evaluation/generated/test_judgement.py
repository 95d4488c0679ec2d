"""The whole judgement: four generators, each of which has to be told for what it is; probe and transfer."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from evaluation.generated.judgement import Judgement, judge
from evaluation.generated.usefulness import STRENGTH, real_or_generated, train_on_generated

TRAIN, HELD_OUT, MADE, COLUMNS, HIDDEN = 54, 54, 200, 64, 16
SEEDS = 4
FOUND = {"honest": (), "copies": ("copies", "near"), "half copies": ("copies", "near"), "shrunk": ("near", "narrow")}


def people(count: int, random: np.random.Generator) -> np.ndarray:
    """Draw rows with few directions of large variance, as features of scans have."""
    mix = np.random.default_rng(0).normal(0, 1, (HIDDEN, COLUMNS)) * np.geomspace(1, 0.2, HIDDEN)[:, np.newaxis]
    return random.normal(0, 1, (count, HIDDEN)) @ mix + 0.3 * random.normal(0, 1, (count, COLUMNS))


def generated(name: str, train: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draw from one of the four generators."""
    honest = people(MADE, random)
    copies = train[random.integers(0, len(train), MADE)] + 0.05 * train.std(0) * random.normal(0, 1, (MADE, COLUMNS))
    half = np.vstack([honest[: MADE // 2], copies[MADE // 2 :]])
    return {"honest": honest, "copies": copies, "half copies": half, "shrunk": 0.7 * honest}[name]


@pytest.fixture(scope="module")
def judged() -> dict[str, list[Judgement]]:
    """Judgements of every generator with four seeds."""
    found: dict[str, list[Judgement]] = {name: [] for name in FOUND}
    for seed in range(SEEDS):
        random = np.random.default_rng(seed)
        train, held_out = people(TRAIN, random), people(HELD_OUT, random)
        for name in FOUND:
            found[name].append(judge(train, held_out, generated(name, train, random), seed=seed))
    return found


def means(judged: dict[str, list[Judgement]], get: str) -> Iterator[float]:
    """Yield the mean of a figure for each generator, in order."""
    for each in judged.values():
        values = []
        for value in each:
            for part in get.split("."):
                value = getattr(value, part)
            values.append(value)
        yield float(np.mean(values))


@pytest.mark.slow
@pytest.mark.parametrize("name", FOUND)
def test_every_generator_is_told_for_what_it_is(judged: dict[str, list[Judgement]], name: str) -> None:
    """A generator that is narrow, or draws from a few training rows, differs from held-out rows too, if enough do."""
    found = [each.findings() for each in judged[name]]
    assert [tuple(x for x in each if x != "different" or name == "honest") for each in found] == [FOUND[name]] * SEEDS


@pytest.mark.slow
def test_the_table_of_four_generators(judged: dict[str, list[Judgement]]) -> None:
    honest, copies, half, shrunk = means(judged, "memorisation.authentic")
    assert copies == 0
    assert 0.5 < honest < 0.75
    assert max(half, shrunk) < 0.45
    honest, copies, half, shrunk = means(judged, "memorisation.c_t")
    assert copies < -8
    assert half < -3
    assert shrunk < -3
    assert abs(honest) < 1
    honest, copies, half, shrunk = means(judged, "memorisation.nearer")
    assert copies == 1
    assert honest < 0.12
    assert 0.45 < half < 0.65
    assert 0.2 < shrunk < 0.7  # accused by nearness, and yet no copy
    honest, copies, half, shrunk = means(judged, "memorisation.copied")
    assert copies > 0.99
    assert 0.48 < half < 0.55
    assert max(honest, shrunk) < 0.03


def test_the_frechet_distance_to_training_rewards_copying(judged: dict[str, list[Judgement]]) -> None:
    honest, copies, half, _ = means(judged, "frechet_train.value")
    assert copies < half < honest
    honest, copies, _, _ = means(judged, "frechet_held_out.value")
    assert honest <= copies * 1.02  # against held-out rows there is no gain
    null = next(means(judged, "frechet_held_out.null"))
    assert honest == pytest.approx(null, rel=0.15)


def test_units_of_columns_and_columns_that_never_change_do_not_matter() -> None:
    random = np.random.default_rng(0)
    train, held_out, made = people(30, random), people(20, random), people(40, random)
    units = np.geomspace(0.01, 100, COLUMNS)
    one = judge(train, held_out, made)
    other = judge(*(np.hstack([rows * units, np.full((len(rows), 2), 3.0)]) for rows in (train, held_out, made)))
    assert one.findings() == other.findings()
    assert one.memorisation.authentic == other.memorisation.authentic
    assert one.memorisation.c_t == pytest.approx(other.memorisation.c_t)
    assert one.variance == pytest.approx(other.variance)


def test_a_shifted_generator_is_different_and_told_by_the_probe() -> None:
    random = np.random.default_rng(0)
    train, held_out, made = people(40, random), people(40, random), people(60, random) + 2
    found = judge(train, held_out, made)
    assert "different" in found.findings()
    assert found.probe.low > 0.9
    assert found.kernel.p == pytest.approx(1 / 1001)


def test_too_few_rows_are_named() -> None:
    random = np.random.default_rng(0)
    with pytest.raises(ValueError, match="5 rows, at least 6"):
        judge(people(30, random), people(5, random), people(30, random))


def test_the_probe_knows_nothing_of_alike_rows_and_all_of_different_ones() -> None:
    random = np.random.default_rng(1)
    alike = real_or_generated(people(60, random), people(200, random))
    assert alike.low < 0.5 < alike.high
    assert real_or_generated(people(60, random), people(60, random) + 3).auc > 0.99
    assert np.isnan(real_or_generated(people(9, random), people(60, random)).auc)


def test_transfer_is_that_of_scikit_learn_and_says_what_labels_are_worth() -> None:
    random = np.random.default_rng(2)
    sides = {}
    for name, count in {"train": 80, "made": 120, "held": 60}.items():
        target = random.integers(0, 2, count)
        sides[name] = (people(count, random) + 0.6 * target[:, np.newaxis], target)
    found, tables = train_on_generated(sides["train"], sides["made"], sides["held"], classes=2)
    expected = {}
    for name in ("train", "made"):
        scale = StandardScaler().fit(sides[name][0])
        model = LogisticRegression(C=STRENGTH, max_iter=2000).fit(scale.transform(sides[name][0]), sides[name][1])
        for other in ("held", "made"):
            score = model.predict_proba(scale.transform(sides[other][0]))[:, 1]
            expected[name, other] = roc_auc_score(sides[other][1], score)
    assert found.real_auc == pytest.approx(expected["train", "held"])
    assert found.generated_auc == pytest.approx(expected["made", "held"])
    assert found.coherence == pytest.approx(expected["train", "made"])
    assert found.low < found.difference < found.high
    assert found.difference == pytest.approx(found.generated_auc - found.real_auc)
    twice = tuple(np.repeat(each, 2, axis=0) for each in sides["held"])  # two visits of each patient tell no more
    again, _ = train_on_generated(
        sides["train"], sides["made"], twice, classes=2, subjects=[f"s{i // 2}" for i in range(120)]
    )
    assert again.n == found.n == 60
    assert [again.low, again.high] == pytest.approx([found.low, found.high], abs=0.002)
    wrong = (sides["made"][0], 1 - sides["made"][1])
    assert train_on_generated(sides["train"], wrong, sides["held"], classes=2)[0].generated_auc < 0.5
    one_class = (sides["made"][0], np.zeros(120, dtype=int))
    assert np.isnan(train_on_generated(sides["train"], one_class, sides["held"], classes=2)[0].difference)


def test_a_judgement_is_plain_values() -> None:
    random = np.random.default_rng(0)
    found = judge(people(30, random), people(20, random), people(40, random)).as_dict()
    assert pd.json_normalize(found)["memorisation.authentic"].between(0, 1).all()
