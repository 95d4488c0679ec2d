"""Step 2 without epochs: a penalised linear ρ on every subset of each set's modalities (docs/decisions/0017).

As published, ρ takes gradient steps on whole sets until the loss of validation sets rises. With some dozen validation
patients the epoch that is kept is chance, and a ρ that has seen whole sets only is over-confident on single scans. Here
every set stands there once with each subset of its modalities, the loss has a penalty on ρ's weights, and how strong it
is, is chosen by inner folds over training subjects. Validation sets are not looked at.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.set_classifier import SetClassifier
from models.sets import Groups, Rows, subsets_of
from models.settings import CHUNK
from models.softmax_regression import Array, Labels, cross_entropies, inner_products, minimise, span

PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
"""L2 penalties to choose from, for rows whose mean squared length is 1, from strong to weak."""

PENALTY = 0.01
"""The one taken where no inner fold can be made."""

FOLDS, ROUNDS = 5, 3
MOST_SUBSETS = 15  # of a set's modalities, as 4 have; of more: each alone, all but one, and all
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
class _Rows:
    """Subsets of sets, as the regression sees them: R rows of B sets.

    Attributes:
        inputs: in the space that they span, (R, r).
        labels: (R,).
        owner: the set of each, (R,), in [0, B).
        share: weight of each; those of a set sum to the weight of its class, (R,).
    """

    inputs: Array
    labels: Labels
    owner: Labels
    share: Array

    def solve(self, some: npt.NDArray[np.bool_], penalty: float, start: Array, *, gradient: float = 1e-8) -> Array:
        """Fit on the rows of some sets (B,), from `start` until no gradient is larger."""
        rows = some[self.owner]
        weights = self.share[rows] / self.share[rows].sum()
        return minimise(
            self.inputs[rows],
            self.labels[rows],
            penalty,
            start,
            weights=weights,
            of_bias=OF_BIAS,
            gradient=gradient,
        )


def fit_penalised(
    classifier: SetClassifier,
    phi: Rows,
    groups: Groups,
    target: Tensor,
    *,
    modality: Tensor,
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
        modality: of every scan in `phi`, (N,), int64.
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
    subsets, owner, cut = every_subset(groups, modality)
    labels, sets = target.cpu().numpy(), owner.numpy()
    weight = np.ones(len(labels)) if class_weights is None else class_weights.cpu().double().numpy()[labels]
    share = (weight / np.bincount(sets))[sets]
    mean = torch.from_numpy(share / share.sum())  # weights of the rows in their mean, which is subtracted
    gram = _gram(classifier, phi, subsets)
    of_mean = gram @ mean.to(gram)
    inputs, projection = span(gram - of_mean - of_mean[:, None] + mean.to(gram) @ of_mean)
    problem = _Rows(inputs.cpu().numpy(), labels[sets], sets, share)
    choice = _choose(problem, labels, subject.cpu().numpy(), weight, classifier.classes, seed)
    if cut:
        choice.notes.append(
            f"{cut} training sets have more than {MOST_SUBSETS} subsets of modalities: single ones, all but one, and "
            "all were learnt from"
        )
    solution = problem.solve(np.ones(len(labels), bool), choice.penalty, _nothing(problem, classifier.classes))
    factors = projection.cpu() @ torch.from_numpy(solution[:-1])  # of the rows without their mean
    both = torch.cat([factors - mean[:, None] * factors.sum(0), mean[:, None]], 1)
    *weights, centre = _combined(classifier, phi, subsets, both)
    with torch.no_grad():
        last.weight.copy_(torch.stack(weights))
        last.bias.copy_(torch.from_numpy(solution[-1]) - torch.stack(weights).cpu() @ centre.cpu())
    classifier.eval()
    return choice


def every_subset(groups: Groups, modality: Tensor) -> tuple[Groups, Tensor, int]:
    """Return every set with each subset of its modalities; all scans of a modality go together.

    Args:
        groups: scans of B sets.
        modality: of every scan, (N,), int64.

    Returns:
        The scans of R subsets, on the CPU; the set of each, (R,), int64; and the number of sets that have too many.
    """
    items, of_scan = groups.items.cpu(), modality.cpu()
    scans: list[Tensor] = []
    owner: list[int] = []
    cut = 0
    starts = groups.starts.tolist()
    for number, (start, end) in enumerate(zip(starts, starts[1:], strict=False)):
        of_set = items[start:end]
        present = tuple(of_scan[of_set].unique().tolist())
        subsets = subsets_of(present, most=MOST_SUBSETS)
        cut += len(subsets) < 2 ** len(present) - 1
        scans += [of_set[torch.isin(of_scan[of_set], torch.tensor(subset))] for subset in subsets]
        owner += [number] * len(subsets)
    sizes = torch.tensor([0, *(len(some) for some in scans)])
    return Groups(torch.cat(scans), sizes.cumsum(0)), torch.tensor(owner), cut


@torch.no_grad()
def _aggregates(classifier: SetClassifier, phi: Rows, sets: Groups) -> Iterator[Tensor]:
    """Yield what ρ's first layer is given, (n, D), n of the R sets at a time."""
    for some in torch.arange(len(sets.starts) - 1).split(CHUNK):
        scans, owner = sets.batch(some)
        features = phi[scans]
        yield classifier.pooling(features, owner.to(features.device), len(some))


def _gram(classifier: SetClassifier, phi: Rows, sets: Groups) -> Tensor:
    """Return the inner products of the aggregates of R sets, (R, R), float64, without holding all aggregates."""
    parts: dict[tuple[int, int], Tensor] = {}
    for i, left in enumerate(_aggregates(classifier, phi, sets)):
        for j, right in zip(range(i + 1), _aggregates(classifier, phi, sets), strict=False):
            parts[i, j] = inner_products(left, right)
            parts[j, i] = parts[i, j].T
    count = max(i for i, _ in parts) + 1
    return torch.cat([torch.cat([parts[i, j] for j in range(count)], 1) for i in range(count)])


def _combined(classifier: SetClassifier, phi: Rows, sets: Groups, factors: Tensor) -> Tensor:
    """Return weighted sums of the aggregates of R sets, (F, D), float64; factors (R, F)."""
    parts = zip(_aggregates(classifier, phi, sets), factors.split(CHUNK), strict=True)
    total: Tensor = sum(some.to(rows).double().T @ rows.double() for rows, some in parts)
    return total


def _choose(problem: _Rows, labels: Labels, subject: Labels, weight: Array, classes: int, seed: int) -> Choice:
    """Return the penalty with the lowest log loss of sets that were held out, the stronger one in a tie."""
    losses, times = np.zeros((len(PENALTIES), len(labels))), np.zeros(len(labels))
    rows_of_set = np.bincount(problem.owner)
    for round_ in range(ROUNDS):
        fold = folds_of(labels, subject, np.random.default_rng([seed, round_]))
        for number in range(fold.max() + 1):
            learnt = fold != number
            known = np.unique(labels[learnt])
            held = ~learnt & np.isin(labels, known)  # of a class that it has never seen, a model says nothing
            if len(known) < 2 or not held.any():
                continue
            rows = held[problem.owner]
            solution = _nothing(problem, classes)
            for place, penalty in enumerate(PENALTIES):
                solution = problem.solve(learnt, penalty, solution, gradient=1e-5)
                each = cross_entropies(problem.inputs[rows], problem.labels[rows], solution)
                losses[place] += np.bincount(problem.owner[rows], each, minlength=len(labels)) / rows_of_set
            times += held
    counted = times > 0
    if not counted.any():
        row: dict[str, float | bool] = {"penalty": PENALTY, "held_out_loss": np.nan, "standard_error": np.nan}
        note = f"no inner fold of the training subjects leaves two classes to learn from; penalty {PENALTY} was taken"
        return Choice(PENALTY, [row | {"best": True}], [note])
    each = losses[:, counted] / times[counted]
    share = weight[counted] / weight[counted].sum()
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


def _nothing(problem: _Rows, classes: int) -> Array:
    return np.zeros((problem.inputs.shape[1] + 1, classes))
