"""Step 2 without epochs: a penalised linear ρ, its penalty chosen by inner folds (docs/decisions/0017, 0030).

As published, ρ takes gradient steps until the loss of validation sets rises. With some dozen validation patients the
epoch that is kept is chance. Here the loss has a penalty on ρ's weights, and how strong it is, is chosen by inner folds
over training subjects. Validation sets are not looked at. With the sum as aggregate each scan adds its own evidence, so
that a set of few scans is told with less certainty than one of many.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.set_classifier import SetClassifier
from models.sets import Groups, Rows
from models.settings import CHUNK
from models.softmax_regression import Array, Labels, cross_entropies, inner_products, minimise, span

PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
"""L2 penalties to choose from, for rows whose mean squared length is 1, from strong to weak."""

PENALTY = 0.01
"""The one taken where no inner fold can be made."""

FOLDS, ROUNDS = 5, 3
OF_BIAS = 1e-4  # a penalty on b too small to be seen, but for a class without a training set


@dataclass(frozen=True)
class Choice:
    """How the penalty was chosen.

    Attributes:
        penalty: the one with which ρ was fitted on all training sets.
        rows: one dict a penalty: penalty, held_out_loss and its standard_error over sets, and best (bool).
        notes: what was done otherwise than told above.
    """

    penalty: float
    rows: list[dict[str, float | bool]]
    notes: list[str] = field(default_factory=list)

    def facts(self) -> dict[str, float]:
        """Return what a record keeps of it."""
        return {"penalty": self.penalty}


@dataclass(frozen=True)
class _Problem:
    """The regression that is solved again and again: one row a set, B of them.

    Attributes:
        inputs: aggregates less their mean, in the space that they span, (B, r).
        labels: (B,).
        weight: how much each set counts, (B,).
        classes: K.
    """

    inputs: Array
    labels: Labels
    weight: Array
    classes: int

    def solve(self, some: npt.NDArray[np.bool_], penalty: float, start: Array, *, gradient: float = 1e-8) -> Array:
        """Fit on some sets (B,), from `start` until no gradient is larger."""
        weights = self.weight[some] / self.weight[some].sum()
        return minimise(
            self.inputs[some],
            self.labels[some],
            penalty,
            start,
            weights=weights,
            of_bias=OF_BIAS,
            gradient=gradient,
        )

    def nothing(self) -> Array:
        """Return the solution that gives every class the same chance."""
        return np.zeros((self.inputs.shape[1] + 1, self.classes))


def fit_penalised(
    classifier: SetClassifier,
    phi: Rows,
    groups: Groups,
    target: Tensor,
    *,
    subject: Tensor,
    seed: int,
    class_weights: Tensor | None = None,
) -> Choice:
    """Fit a linear ρ in place.

    Args:
        classifier: with a linear ρ and an aggregate without weights of its own.
        phi: of every scan, rows (C·H·W), float32.
        groups: scans of the B training sets, at least one each.
        target: their classes, (B,), int64.
        subject: of each set, (B,), int64; sets of one subject are in one fold.
        seed: of the folds.
        class_weights: (K,), how much a set of each class counts; None: 1.

    Raises:
        ValueError: no training set, or a ρ that is not linear.
    """
    if len(target) == 0:
        raise ValueError("nothing to train on: no training items")
    *hidden, last = (layer for layer in classifier.rho if isinstance(layer, nn.Linear))
    if hidden or next(classifier.pooling.parameters(), None) is not None:
        raise ValueError("fit: folds takes a linear ρ and an aggregate without weights; use fit: epochs")
    groups, labels = groups.to("cpu"), target.cpu().numpy()
    weight = np.ones(len(labels)) if class_weights is None else class_weights.cpu().double().numpy()[labels]
    mean = torch.from_numpy(weight / weight.sum())  # weights of the sets in their mean, which is subtracted
    gram = _gram(classifier, phi, groups)
    of_mean = gram @ mean.to(gram)
    inputs, projection = span(gram - of_mean - of_mean[:, None] + mean.to(gram) @ of_mean)
    problem = _Problem(inputs.cpu().numpy(), labels, weight, classifier.classes)
    choice = _choose(problem, subject.cpu().numpy(), seed)
    solution = problem.solve(np.ones(len(labels), bool), choice.penalty, problem.nothing())
    factors = projection.cpu() @ torch.from_numpy(solution[:-1])  # of the sets without their mean
    both = torch.cat([factors - mean[:, None] * factors.sum(0), mean[:, None]], 1)
    *weights, centre = _combined(classifier, phi, groups, both)
    with torch.no_grad():
        last.weight.copy_(torch.stack(weights))
        last.bias.copy_(torch.from_numpy(solution[-1]) - torch.stack(weights).cpu() @ centre.cpu())
    classifier.eval()
    return choice


@torch.no_grad()
def _aggregates(classifier: SetClassifier, phi: Rows, sets: Groups) -> Iterator[Tensor]:
    """Yield what ρ's first layer is given, (n, D), n of the B sets at a time."""
    for some in torch.arange(len(sets.starts) - 1).split(CHUNK):
        scans, owner = sets.batch(some)
        features = phi[scans]
        yield classifier.pooling(features, owner.to(features.device), len(some))


def _gram(classifier: SetClassifier, phi: Rows, sets: Groups) -> Tensor:
    """Return the inner products of the aggregates of B sets, (B, B), float64, without holding all aggregates."""
    parts: dict[tuple[int, int], Tensor] = {}
    for i, left in enumerate(_aggregates(classifier, phi, sets)):
        for j, right in zip(range(i + 1), _aggregates(classifier, phi, sets), strict=False):
            parts[i, j] = inner_products(left, right)
            parts[j, i] = parts[i, j].T
    count = max(i for i, _ in parts) + 1
    return torch.cat([torch.cat([parts[i, j] for j in range(count)], 1) for i in range(count)])


def _combined(classifier: SetClassifier, phi: Rows, sets: Groups, factors: Tensor) -> Tensor:
    """Return weighted sums of the aggregates of B sets, (F, D), float64; factors (B, F)."""
    parts = zip(_aggregates(classifier, phi, sets), factors.split(CHUNK), strict=True)
    total: Tensor = sum(some.to(rows).double().T @ rows.double() for rows, some in parts)
    return total


def _choose(problem: _Problem, subject: Labels, seed: int) -> Choice:
    """Return the penalty with the lowest log loss of sets that were held out, the stronger one in a tie."""
    labels = problem.labels
    losses, times = np.zeros((len(PENALTIES), len(labels))), np.zeros(len(labels))
    for round_ in range(ROUNDS):
        fold = folds_of(labels, subject, np.random.default_rng([seed, round_]))
        for number in range(fold.max() + 1):
            learnt = fold != number
            known = np.unique(labels[learnt])
            held = ~learnt & np.isin(labels, known)  # of a class that it has never seen, a model says nothing
            if len(known) < 2 or not held.any():
                continue
            solution = problem.nothing()
            for place, penalty in enumerate(PENALTIES):
                solution = problem.solve(learnt, penalty, solution, gradient=1e-5)
                losses[place, held] += cross_entropies(problem.inputs[held], labels[held], solution)
            times += held
    counted = times > 0
    if not counted.any():
        row: dict[str, float | bool] = {"penalty": PENALTY, "held_out_loss": np.nan, "standard_error": np.nan}
        note = f"no inner fold of the training subjects leaves two classes to learn from; penalty {PENALTY} was taken"
        return Choice(PENALTY, [row | {"best": True}], [note])
    each = losses[:, counted] / times[counted]
    share = problem.weight[counted] / problem.weight[counted].sum()
    mean = each @ share
    error = np.sqrt(np.square(each - mean[:, None]) @ np.square(share))
    best = int(mean.argmin())
    rows = [
        {"penalty": p, "held_out_loss": float(m), "standard_error": float(e), "best": place == best}
        for place, (p, m, e) in enumerate(zip(PENALTIES, mean, error, strict=True))
    ]
    return Choice(PENALTIES[best], rows)


def folds_of(labels: Labels, subject: Labels, random: np.random.Generator) -> Labels:
    """Deal subjects to folds, class by class; those with sets of several classes go with the first.

    Args:
        labels: of B sets, (B,).
        subject: of each, (B,).
        random: source of the order.

    Returns:
        The fold of each set, (B,), in [0, `FOLDS`), or fewer with fewer subjects.
    """
    subjects, first, of_set = np.unique(subject, return_index=True, return_inverse=True)
    order = random.permutation(len(subjects))
    order = order[labels[first][order].argsort(kind="stable")]
    fold = np.empty(len(subjects), np.int64)
    fold[order] = np.arange(len(subjects)) % FOLDS
    return fold[of_set]
