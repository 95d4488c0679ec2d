"""Questions asked in silico: had one modality shown something else, what would the others and the class look like?

Each held-out patient keeps what is its own: a scan is what the model expects of it, given the others, plus a residual.
The source is moved (clamped along a direction) or taken away (ablated), what the model expects of the target changes,
and the residual stays. So a difference is paired. It is an association: what the model expects of patients whose source
looks like that. It is an effect of an intervention only if all that source and target both depend on is held fixed,
which no data of this kind can show; whoever asks may name what is held (`held`), and has to answer for it.

The class of a held-out patient is never used. Where it is not held, its probability moves with the source.

Source: abduction, action, prediction: Pearl 2009, section 1.4, with the conditional of a Gaussian in place of a
structural equation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.joint.blocks import Blocks, FloatArray
from models.joint.gaussian import JointGaussian, Parameters, class_probabilities, regression
from models.joint.model import COVARIATE
from models.joint.posterior import fit
from models.joint.sums import sums_of
from synthesis.questions import CLASS, Question

INSIDE = 0.95  # share of training patients whose source lies in the ellipsoid that no move may leave
FEWEST = 5  # held-out patients of a hypothesis


def class_difference(parameters: Parameters) -> FloatArray:
    """Return the mean of the last class less the mean over all others, (d,)."""
    share = parameters.share[:-1] / max(float(parameters.share[:-1].sum()), np.finfo(float).tiny)
    difference: FloatArray = parameters.mean[-1] - share @ parameters.mean[:-1]
    return difference


def class_axis(model: JointGaussian, block: str) -> FloatArray:
    """Return weights (k,) of a block's scores whose sum points from the other classes to the last one.

    Its standard deviation over patients is 1.
    """
    part = model.blocks.slice_of(block)
    difference = class_difference(model.estimate)[part]
    total = model.estimate.total()[1][part, part]
    return difference / np.sqrt(max(float(difference @ total @ difference), np.finfo(float).tiny))


def displacement(model: JointGaussian, question: Question, *, toward: FloatArray | None = None) -> FloatArray:
    """Return by how much the scores of the source move, (k,).

    Args:
        model: fitted.
        question: with a direction.
        toward: direction in scores, (k,), of a region, which only its basis knows.

    Raises:
        ValueError: there is no such component, or the direction has no length.
    """
    assert question.along is not None
    part = model.blocks.slice_of(question.source)
    size = part.stop - part.start
    if question.along.kind == "component":
        if question.along.component >= size:
            raise ValueError(f"{question.source} has {size} components, not {question.along.component + 1}")
        direction: FloatArray = np.eye(size)[question.along.component]
    elif question.along.kind == "region":
        if toward is None:
            raise ValueError(f"{question.source} has no feature map with positions, so no region")
        direction = toward
    else:
        direction = class_difference(model.estimate)[part]
    if not (length := float(np.linalg.norm(direction))) > 0:
        raise ValueError(f"{question.source}: the direction has no length; classes do not differ there")
    unit = direction / length
    spread = np.sqrt(float(unit @ model.estimate.total()[1][part, part] @ unit))
    return question.by * spread * unit


def distance(model: JointGaussian, scores: FloatArray, block: str) -> FloatArray:
    """Return the squared Mahalanobis distance (n,) of scores (n, k) of a block from the nearest class."""
    part = model.blocks.slice_of(block)
    off = scores[:, None] - model.estimate.mean[None, :, part]
    solved = np.linalg.solve(model.estimate.covariance[part, part], off.reshape(-1, off.shape[2]).T).T
    return np.asarray((off * solved.reshape(off.shape)).sum(axis=2).min(axis=1))


def random_moves(model: JointGaussian, moved: FloatArray, block: str, count: int, seed: int) -> FloatArray:
    """Return a random direction for each patient, (n, k), as long as a move (k,) in the distance of the ellipsoid."""
    part = model.blocks.slice_of(block)
    covariance = model.estimate.covariance[part, part]
    random = np.random.default_rng([seed, 4])
    drawn = random.standard_normal((count, len(moved)))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    length = np.sqrt(float(moved @ np.linalg.solve(covariance, moved)))
    return length * drawn @ np.linalg.cholesky(covariance).T


def permuted(
    rows: FloatArray,
    labels: NDArray[np.int64],
    blocks: Blocks,
    classes: int,
    source: str,
    *,
    subjects: Sequence[str],
    draws: int,
    seed: int,
) -> JointGaussian:
    """Return the model of training patients whose source is somebody else's, of any class: nothing is linked to it.

    Args:
        rows: scores of training sessions, (n, d).
        labels: their classes, (n,).
        blocks: layout of the scores.
        classes: K.
        source: the block that is somebody else's.
        subjects: whose sessions these are, (n,).
        draws: of the parameters.
        seed: of chance.

    Raises:
        TooFewPatientsError: as `fit`.
    """
    part = blocks.slice_of(source)
    there = np.flatnonzero(~np.isnan(rows[:, part.start]))
    mixed = rows.copy()
    random = np.random.default_rng([seed, 5])
    mixed[there, part] = rows[there[of_somebody_else([subjects[int(i)] for i in there], random)], part]
    return fit(sums_of(mixed, labels, blocks, classes), draws=draws, seed=seed)


def of_somebody_else(subjects: Sequence[str], random: np.random.Generator) -> NDArray[np.int64]:
    """Return for each session a session of another subject, (n,); all sessions of a subject get those of the same one.

    Single sessions must not be shuffled: those of a subject are alike, and would be so no more. Then chance links the
    source less than it does among as few subjects. Subjects sit in a ring in random order, and each gets the next one's
    sessions: in their order, from the first again where that one has fewer, the last ones not used where it has more. A
    single subject keeps its own.

    Args:
        subjects: whose sessions these are, (n,).
        random: source of chance.
    """
    names, owner = np.unique(np.asarray(subjects, dtype=object), return_inverse=True)
    own = [np.flatnonzero(owner == number) for number in range(len(names))]
    ring = random.permutation(len(names))
    taken = np.empty(len(owner), dtype=np.int64)
    for number, other in zip(ring, np.roll(ring, -1), strict=True):
        taken[own[number]] = np.resize(own[other], len(own[number]))
    return taken


@dataclass(frozen=True)
class Shift:
    """What changes, for each draw of the parameters and each patient.

    Attributes:
        scores: what the model expects of every block, after less before, (S, n, d); 0 for the source and for
            covariates, and where a patient has no such scan.
        chance: probability of the last class from all scans and the patient's own covariates, after less before,
            (S, n).
        before: probability before, (S, n).
    """

    scores: FloatArray
    chance: FloatArray
    before: FloatArray


def shift(model: JointGaussian, question: Question, rows: FloatArray, moves: FloatArray | None) -> Shift:
    """Return what changes for patients.

    Args:
        model: with draws of its parameters.
        question: what is moved and what is held.
        rows: (n, d); every patient has the source and all blocks that are held.
        moves: of the source, (n, k); None to take it away.
    """
    blocks = model.blocks
    held = [name for name in question.held if name != CLASS]
    part = blocks.slice_of(question.source)
    own = np.arange(part.start, part.stop)
    others = _columns(blocks, held)
    given = np.concatenate([own, others])
    own_facts = _columns(blocks, _covariates(blocks))  # a patient's age does not move with a scan
    targets = np.setdiff1d(np.arange(blocks.width), np.concatenate([given, own_facts]))
    every = model.draws or (model.estimate,)
    scores = np.zeros((len(every), *rows.shape))
    chance, start = np.zeros((len(every), len(rows))), np.zeros((len(every), len(rows)))
    for number, parameters in enumerate(every):
        share = class_probabilities(model, parameters, rows)
        kept = share if CLASS in question.held else None
        one = expected(model, parameters, rows, given, targets, kept)
        if moves is None:
            after = rows.copy()
            after[:, own] = np.nan
            two = expected(model, parameters, after, others, targets, kept)
        else:
            after = rows.copy()
            after[:, own] += moves
            two = expected(model, parameters, after, given, targets, kept)
        scores[number][:, targets] = np.where(np.isnan(rows[:, targets]), 0.0, two - one)
        moved = after if moves is None else after + scores[number]
        chance[number] = class_probabilities(model, parameters, moved)[:, -1] - share[:, -1]
        start[number] = share[:, -1]
    return Shift(scores, chance, start)


def _covariates(blocks: Blocks) -> list[str]:
    return [name for name in blocks.names if name.startswith(COVARIATE)]


def _columns(blocks: Blocks, names: Sequence[str]) -> NDArray[np.int64]:
    found = [np.arange(blocks.slice_of(name).start, blocks.slice_of(name).stop) for name in names]
    return np.concatenate([*found, np.zeros(0, dtype=np.int64)])


def expected(
    model: JointGaussian,
    parameters: Parameters,
    rows: FloatArray,
    given: NDArray[np.int64],
    targets: NDArray[np.int64],
    share: FloatArray | None,
) -> FloatArray:
    """Return what is expected of targets (n, m) given some columns; the class is held if its shares are given.

    Args:
        model: layout and classes.
        parameters: of it.
        rows: (n, d).
        given: columns that are known.
        targets: columns that are asked for.
        share: of each class, (n, K), where the class is held.
    """
    only = np.full_like(rows, np.nan)
    only[:, given] = rows[:, given]
    if share is None:
        share = class_probabilities(model, parameters, only)
    slope, _ = regression(parameters.covariance, given, targets)
    off = rows[:, None, given] - parameters.mean[None, :, given]  # (n, K, o)
    means = parameters.mean[None, :, targets] + off @ slope.T
    return np.asarray(np.einsum("nk,nkm->nm", share, means))


def outcomes(model: JointGaussian, question: Question, rows: FloatArray, moved: Shift) -> Mapping[str, FloatArray]:
    """Return, for each other modality and for the class, differences (S, n), NaN where a patient lacks the target.

    Covariates stay the patient's own. A modality's difference is along its class axis, in standard deviations; that of
    `class` is of a probability. What is held has no difference.
    """
    found: dict[str, FloatArray] = {}
    for name in model.blocks.names:
        if name in (question.source, *question.held, *_covariates(model.blocks)):
            continue
        part = model.blocks.slice_of(name)
        along = moved.scores[:, :, part] @ class_axis(model, name)
        found[name] = np.where(np.isnan(rows[:, part.start]), np.nan, along)
    if CLASS not in question.held:
        found[CLASS] = moved.chance
    return found


def of_subjects(values: FloatArray, subjects: Sequence[str]) -> FloatArray:
    """Return values (S, n, ...) with the sessions of a subject averaged, (S, m, ...): they are no two patients.

    Args:
        values: of sessions.
        subjects: whose sessions these are, (n,).
    """
    owners = np.unique(np.asarray(subjects), return_inverse=True)[1]
    share = (owners[:, None] == np.arange(owners.max() + 1)) / np.bincount(owners)
    return np.einsum("sn...,nm->sm...", values, share)
