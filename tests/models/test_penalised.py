"""ρ fitted by folds: scikit-learn as oracle, what a set counts, and what folds and validation promise."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from models import penalised
from models.hypermm import Sets, fit_classifier, new_classifier, predict_sets
from models.penalised import FOLDS, PENALTIES, PENALTY, Choice, fit_penalised, folds_of
from models.set_classifier import AGGREGATES, SetClassifier
from models.sets import Groups
from models.settings import Aggregate, StepTwo, Training

pytestmark = pytest.mark.usefixtures("one_thread")
WIDTH = 6


def study(members: list[list[int]], target: list[int], *, signal: float = 1.0, seed: int = 0) -> tuple[Tensor, Sets]:
    """φ (N, 6) of scans of these modalities, set by set, with a little of the class in each; all are learnt from."""
    random = torch.Generator().manual_seed(seed)
    owner = torch.tensor([number for number, scans in enumerate(members) for _ in scans])
    labels = torch.tensor(target)
    phi = torch.randn(len(owner), WIDTH, generator=random)
    phi[torch.arange(len(owner)), labels[owner]] += signal
    sets = torch.arange(len(labels))
    return phi, Sets(Groups.of(owner, len(labels)), labels, sets, sets[:0], sets)


def linear(classes: int, how: Aggregate = "mean") -> SetClassifier:
    return SetClassifier(WIDTH, classes, hidden=(), how=how)


def fit(
    phi: Tensor, sets: Sets, classifier: SetClassifier | None = None, *, class_weights: Tensor | None = None
) -> tuple[SetClassifier, Choice]:
    classifier = classifier or SetClassifier(phi.shape[1], int(sets.target.max()) + 1, hidden=())
    choice = fit_penalised(
        classifier, phi, sets.groups, sets.target, subject=sets.subject, seed=0, class_weights=class_weights
    )
    return classifier, choice


@pytest.mark.parametrize("how", AGGREGATES)
def test_it_is_scikit_learns_regression_on_aggregates(how: Aggregate) -> None:
    members = [[0, 1, 2], [0, 1], [2], [0, 2], [1]] * 12
    phi, sets = study(members, [n % 3 for n in range(60)])
    phi[:, 5] += 3  # a centre that is not 0
    classifier, choice = fit(phi, sets, linear(3, how))
    scans = [sets.groups.batch(torch.tensor([number]))[0] for number in range(60)]
    x = np.array([getattr(np, how)(phi[items].numpy(), axis=0) for items in scans], dtype=np.float64)
    u = np.square(x - x.mean(0)).sum(1).mean()
    oracle = LogisticRegression(C=1 / (choice.penalty * u), tol=1e-10, max_iter=5000)
    oracle.fit(x, sets.target.numpy(), np.full(60, 1 / 60))
    found = predict_sets(classifier, phi, Groups.of(torch.arange(len(phi)), len(phi)))
    np.testing.assert_allclose(found, oracle.predict_proba(phi.numpy()), atol=2e-3)
    assert PENALTIES[0] > choice.penalty > PENALTIES[-1]
    assert found.std() > 0.1


def test_with_the_sum_few_scans_are_told_with_less_certainty() -> None:
    """Of ten scans of either class, alike in all, each says a tenth of what all say."""
    target = [0, 1] * 30
    owner = torch.arange(60).repeat_interleave(10)
    phi = (torch.tensor(target)[owner] * 2.0 - 1)[:, None].repeat(1, WIDTH)
    sets = torch.arange(60)
    classifier, _ = fit(phi, Sets(Groups.of(owner, 60), torch.tensor(target), sets, sets[:0], sets), linear(2, "sum"))
    alone, together = (
        predict_sets(classifier, phi[rows], Groups.of(torch.zeros(len(rows), dtype=torch.int64), 1))[0].log().diff()
        for rows in (owner.eq(1).nonzero()[:1, 0], owner.eq(1).nonzero()[:, 0])
    )
    assert float(together) > 3
    assert float(alone) == pytest.approx(float(together) / 10, rel=1e-3)


def test_the_penalty_is_the_best_of_the_held_out_losses() -> None:
    phi, sets = study([[0, 1]] * 40, [0, 1] * 20)
    _, choice = fit(phi, sets)
    losses = {row["penalty"]: row["held_out_loss"] for row in choice.rows}
    assert tuple(losses) == PENALTIES
    assert choice.penalty == min(losses, key=lambda p: (losses[p], -p))
    assert [row["penalty"] for row in choice.rows if row["best"]] == [choice.penalty]
    assert all(row["standard_error"] > 0 for row in choice.rows)
    assert choice.facts() == {"penalty": choice.penalty}


def test_a_held_out_loss_is_that_of_scikit_learn_on_the_other_folds() -> None:
    phi, sets = study([[0], [0, 1]] * 15, [n % 3 for n in range(30)])
    _, choice = fit(phi, sets, linear(3, "sum"))
    x = torch.stack([phi[sets.groups.batch(torch.tensor([n]))[0]].sum(0) for n in range(30)]).double().numpy()
    labels = sets.target.numpy()
    u = np.square(x - x.mean(0)).sum(1).mean()
    expected = np.zeros(30)
    for round_ in range(penalised.ROUNDS):
        fold = folds_of(labels, np.arange(30), np.random.default_rng([0, round_]))
        for number in range(FOLDS):
            learnt, held = fold != number, fold == number
            model = LogisticRegression(C=1 / (0.03 * u), tol=1e-8, max_iter=2000)
            model.fit(x[learnt], labels[learnt], np.full(learnt.sum(), 1 / learnt.sum()))
            loss = -model.predict_log_proba(x[held])[np.arange(held.sum()), labels[held]]
            expected[held] += loss / penalised.ROUNDS
    (row,) = (row for row in choice.rows if row["penalty"] == 0.03)
    assert row["held_out_loss"] == pytest.approx(expected.mean(), abs=5e-4)


def test_noise_gets_a_strong_penalty_and_signal_a_weak_one() -> None:
    noise, signal = (fit(*study([[0, 1]] * 60, [0, 1] * 30, signal=s))[1].penalty for s in (0.0, 2.0))
    assert noise >= 10 * signal


def test_a_set_counts_once_however_many_scans_it_has() -> None:
    phi, sets = study([[0, 1, 2], [0]] * 20, [0, 1] * 20)
    phi[:] = 0  # nothing to tell them by
    classifier, choice = fit(phi, sets)
    np.testing.assert_allclose(predict_sets(classifier, phi, sets.groups), 0.5, atol=1e-3)
    assert choice.penalty == PENALTIES[0]  # of equally good ones the strongest
    classifier, choice = fit(phi, sets, class_weights=torch.tensor([3.0, 1.0]))
    np.testing.assert_allclose(predict_sets(classifier, phi, sets.groups)[:, 0], 0.75, atol=1e-3)
    weighted = -(3 * np.log(0.75) + np.log(0.25)) / 4  # a class counts in the choice as it does in the fit
    assert choice.rows[0]["held_out_loss"] == pytest.approx(weighted, abs=2e-3)


def test_scans_have_no_order() -> None:
    phi, sets = study([[0, 1, 2], [2, 0], [1]] * 10, [0, 1, 1, 0, 1, 0] * 5)
    one, _ = fit(phi, sets)
    order = torch.randperm(len(phi), generator=torch.Generator().manual_seed(3))
    place = order.argsort()
    items = Groups(place[sets.groups.items], sets.groups.starts)
    other, _ = fit(phi[order], Sets(items, sets.target, sets.train, sets.validation, sets.subject))
    torch.testing.assert_close(one.rho[-1].weight, other.rho[-1].weight, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("count", [4, 24, 60])
def test_folds_hold_subjects_together_and_classes_apart(count: int) -> None:
    subject = np.arange(count) // 2  # two sessions each
    labels = subject % 2
    folds = [folds_of(labels, subject, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert (folds[0] == folds[1]).all()
    assert count == 4 or (folds[0] != folds[2]).any()
    subjects = len(np.unique(subject))
    assert len(np.unique(folds[0])) == min(FOLDS, subjects)
    for one in np.unique(subject):
        assert len(np.unique(folds[0][subject == one])) == 1
    for label in (0, 1):
        of_class = np.bincount(folds[0][labels == label], minlength=min(FOLDS, subjects))
        assert np.ptp(of_class) <= 2


def test_sessions_of_a_subject_are_not_told_by_one_another() -> None:
    """Every subject has a look of its own, and a class that has nothing to do with it."""
    random = torch.Generator().manual_seed(1)
    looks = 3 * torch.randn(20, 40, generator=random)
    subject = torch.arange(60) % 20
    phi, target = looks[subject] + 0.1 * torch.randn(60, 40, generator=random), (subject * 7 % 20) % 2
    sets = torch.arange(60)
    one_each = Sets(Groups.of(sets, 60), target, sets, sets[:0], sets)
    by_subject = Sets(one_each.groups, target, sets, sets[:0], subject)
    several, none = (
        fit_classifier(SetClassifier(40, 2, hidden=()), phi, each, StepTwo(), Training())
        for each in (by_subject, one_each)
    )
    assert isinstance(several, Choice)
    assert isinstance(none, Choice)
    assert several.penalty > 30 * none.penalty


def test_a_class_without_a_training_set_gets_a_small_chance() -> None:
    phi, sets = study([[0]] * 30, [0, 1] * 15)
    classifier, _ = fit(phi, sets, linear(3))
    probabilities = predict_sets(classifier, phi, sets.groups)
    assert 1e-4 < probabilities[:, 2].max() < 0.05


@pytest.mark.parametrize(
    ("target", "told"),
    [([0, 1], "no inner fold of the training subjects leaves two classes"), ([0, 0, 0], "leaves two classes")],
)
def test_where_no_fold_can_be_made_a_penalty_is_named(target: list[int], told: str) -> None:
    phi, sets = study([[0, 1]] * len(target), target)
    classifier, choice = fit(phi, sets, linear(2))
    assert choice.penalty == PENALTY
    assert told in choice.notes[0]
    assert len(choice.rows) == 1
    assert predict_sets(classifier, phi, sets.groups).isfinite().all()


def test_one_subject_of_a_class_is_never_held_out_unknown() -> None:
    phi, sets = study([[0, 1]] * 13, [0, 1] * 6 + [2])
    _, choice = fit(phi, sets)
    assert choice.rows[0]["held_out_loss"] < 0.9  # of two classes nearly .7; its own would be that of hardly a chance
    assert choice.notes == []


def test_validation_sets_are_not_looked_at() -> None:
    phi, sets = study([[0, 1]] * 40, [0, 1] * 20)
    step, parts = StepTwo(), []
    for noise in (0.0, 100.0):
        sets = Sets(sets.groups, sets.target.clone(), torch.arange(30), torch.arange(30, 40), sets.subject)
        phi[60:] += noise
        sets.target[30:] = int(noise > 0)
        classifier = new_classifier(step, feature_map_shape=(WIDTH, 1, 1), classes=2, seed=0)
        fit_classifier(classifier, phi, sets, step, Training())
        parts.append(classifier.rho[-1].weight.detach().numpy().tobytes())
    assert parts[0] == parts[1]
    assert any(parts[0])


def test_what_it_cannot_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="takes a linear ρ"):
        fit(*study([[0]] * 4, [0, 1, 0, 1]), SetClassifier(WIDTH, 2, hidden=(4,)))
    phi, sets = study([[0]] * 4, [0, 1, 0, 1])
    none = sets.train[:0]
    nobody = Sets(sets.groups, sets.target, none, sets.train, sets.subject)
    with pytest.raises(ValueError, match="no training items"):
        fit_classifier(linear(2), phi, nobody, StepTwo(), Training())


@pytest.mark.parametrize("numbers", [4, 200], ids=["more rows than numbers", "fewer"])
def test_rows_in_several_chunks_and_constants_beside_them_change_nothing(
    monkeypatch: pytest.MonkeyPatch, numbers: int
) -> None:
    phi = torch.randn(40, numbers, generator=torch.Generator().manual_seed(2))
    target = (phi[:, 0] > 0).long()
    sets = torch.arange(40)
    plain = Sets(Groups.of(sets, 40), target, sets, sets[:0], sets)
    one, first = fit(phi, plain)
    monkeypatch.setattr(penalised, "CHUNK", 7)
    two, second = fit(torch.cat([phi, torch.ones(40, 100)], 1), plain)
    assert first.penalty == second.penalty
    torch.testing.assert_close(one.rho[-1].weight, two.rho[-1].weight[:, :numbers], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(two.rho[-1].weight[:, numbers:], torch.zeros(2, 100), atol=1e-6, rtol=0)
