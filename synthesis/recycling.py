"""Do synthetic patients help to learn from few labels? Ways to make more of some labelled patients, and their rivals.

Every way adds patients beside the labelled ones, with the same share of the weight in training. Rivals need no
model: real patients alone; real patients with noise of the covariance within classes; mixtures of two real patients of
a class.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold

from models.joint.blocks import FloatArray
from models.joint.model import Features, JointModel
from synthesis.patients import class_offsets, draw_patients

LEAST_OF_CLASS = 2  # labelled patients of a class, however small the share
STRENGTHS = (1e-2, 1e-1, 1.0, 10.0, 100.0)  # inverse penalties to choose from, for rows of length about 1
FOLDS = 5
SMALLEST_SD = 1e-6
BETWEEN = 0.4  # both parameters of the Beta distribution of mixtures, as Zhang et al. 2018 use up to
Modalities = Mapping[str, Features]  # modality → (n, D) float32, rows of NaN where it is missing
Labels = NDArray[np.int64]


def labelled(labels: Labels, share: float, seed: int, owners: Sequence[str]) -> NDArray[np.int64]:
    """Return the rows of patients whose label may be used, sorted; a smaller share is a part of a larger one.

    Patients are chosen, not sessions: all sessions of a patient are labelled, or none. A patient counts in the class of
    the last row.

    Args:
        labels: of all training observations, (n,).
        share: of each class's patients, from 0 (excluded) to 1.
        seed: of the order.
        owners: the patient of each row.
    """
    random = np.random.default_rng([seed, 21])
    patients, of = np.unique(np.asarray(owners), return_inverse=True)
    classes = _classes_of(labels, of)
    chosen = []
    for label in np.unique(classes):
        members = random.permutation(np.flatnonzero(classes == label))
        chosen.append(members[: max(LEAST_OF_CLASS, int(np.ceil(share * len(members) - 1e-9)))])
    wanted = np.zeros(len(patients), dtype=bool)
    wanted[np.concatenate(chosen)] = True
    return np.flatnonzero(wanted[of])


def _classes_of(labels: Labels, of: NDArray[np.int64]) -> Labels:
    """Return the class of each patient, that of the last row."""
    classes = np.zeros(int(of.max()) + 1, dtype=np.int64)
    for patient, label in zip(of, labels, strict=True):
        classes[patient] = label
    return classes


def synthetic(
    model: JointModel, features: Modalities, labels: Labels, count: int, seed: int
) -> tuple[dict[str, Features], Labels]:
    """Draw patients from a joint model of the labelled ones.

    Args:
        model: fitted to these patients alone.
        features: of these patients.
        labels: theirs.
        count: of patients.
        seed: of the draws.
    """
    random = np.random.default_rng([seed, 22])
    modalities = tuple(name for name in features if name in model.bases)
    drawn = draw_patients(model, count, modalities, random)
    made = {}
    for name, rows in features.items():
        made[name] = np.full((count, rows.shape[1]), np.nan, dtype=np.float32)
        if name in model.bases and (members := np.flatnonzero(drawn.has[name])).size:
            offsets = class_offsets(model, name, rows, labels)
            made[name][members] = drawn.features(model, name, members, random, offsets=offsets)
    return made, drawn.classes


def noisy(features: Modalities, labels: Labels, count: int, seed: int) -> tuple[dict[str, Features], Labels]:
    """Return real patients, drawn with replacement, plus noise of the covariance within classes.

    The noise of a modality is a mixture with random weights of what patients show beyond the mean of their class, so
    its covariance is theirs.
    """
    random = np.random.default_rng([seed, 23])
    of = random.integers(len(labels), size=count)
    made = {}
    for name, rows in features.items():
        there = np.flatnonzero(~np.isnan(rows[:, 0]))
        made[name] = rows[of].copy()
        if there.size == 0:
            continue
        beyond = rows[there].copy()
        for label in np.unique(labels[there]):
            beyond[labels[there] == label] -= rows[there[labels[there] == label]].mean(axis=0)
        freedom = max(len(there) - len(np.unique(labels[there])), 1)
        weights = random.standard_normal((count, len(there)), dtype=np.float32)
        made[name] += weights @ beyond / np.float32(np.sqrt(freedom))  # NaN stays where the patient lacks it
    return made, labels[of]


def mixed(features: Modalities, labels: Labels, count: int, seed: int) -> tuple[dict[str, Features], Labels]:
    """Return mixtures of two real patients of a class; a scan that one of them lacks is the other's.

    Source: Zhang et al. 2018 (mixup), within classes, so that labels stay whole.
    """
    random = np.random.default_rng([seed, 24])
    one = random.integers(len(labels), size=count)
    other = np.array([random.choice(np.flatnonzero(labels == labels[i])) for i in one])
    part = random.beta(BETWEEN, BETWEEN, size=(count, 1)).astype(np.float32)
    made = {}
    for name, rows in features.items():
        a, b = rows[one], rows[other]
        both = part * a + (1 - part) * b
        made[name] = np.where(np.isnan(a), b, np.where(np.isnan(b), a, both))
    return made, labels[one]


def design(features: Modalities, scale: Mapping[str, tuple[FloatArray, FloatArray]]) -> FloatArray:
    """Return columns of a classifier, (n, ΣD): standardised, 0 where a scan is missing, as if it were average."""
    columns = []
    for name, rows in features.items():
        mean, sd = scale[name]
        columns.append(np.nan_to_num((rows.astype(np.float64) - mean) / sd, nan=0.0))
    return np.concatenate(columns, axis=1) / np.sqrt(sum(part.shape[1] for part in columns))


def scale_of(features: Modalities) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Return mean and standard deviation of each modality's columns; 0 and 1 of one that nobody has."""
    found = {}
    for name, rows in features.items():
        seen = rows[~np.isnan(rows[:, 0])].astype(np.float64)
        if len(seen) == 0:
            found[name] = (np.zeros(rows.shape[1]), np.ones(rows.shape[1]))
        else:
            sd = seen.std(axis=0)
            found[name] = (seen.mean(axis=0), np.where(sd > SMALLEST_SD, sd, 1.0))
    return found


def strength_of(rows: FloatArray, labels: Labels, seed: int, owners: Sequence[str]) -> float:
    """Return the inverse penalty with the least held-out loss in inner folds of real, labelled patients.

    Ways that add patients use the one of real patients alone, so that none has a choice of its own. Sessions of a
    patient are in one fold. Too few patients for folds get the strongest penalty.
    """
    of = np.unique(np.asarray(owners), return_inverse=True)[1]
    patients, classes = _classes_of(labels, of), np.unique(labels)
    smallest = min(int((patients == label).sum()) for label in classes)
    if smallest < 2 or len(classes) < 2:
        return STRENGTHS[0]
    folds = StratifiedKFold(min(FOLDS, smallest), shuffle=True, random_state=seed)
    held_out = [np.isin(of, held) for _, held in folds.split(patients, patients)]
    losses = []
    for strength in STRENGTHS:
        chance = np.zeros((len(labels), len(classes)))
        for held in held_out:
            train = ~held
            chance[held] = _fitted(rows[train], labels[train], np.ones(int(train.sum())), strength).predict_proba(
                rows[held]
            )
        losses.append(log_loss(labels, chance, labels=classes))
    return STRENGTHS[int(np.argmin(losses))]


def classify(
    real: tuple[FloatArray, Labels],
    added: tuple[FloatArray, Labels] | None,
    tested: FloatArray,
    *,
    share: float,
    strength: float,
    classes: int,
) -> FloatArray:
    """Return class probabilities of tested patients, (m, K), of a logistic regression.

    Args:
        real: rows and classes of labelled patients.
        added: the same of those that were made; None for none.
        tested: rows.
        share: ρ of the weight that those have, as their share of a training batch.
        strength: inverse penalty, for a weight of 1 a real patient on average.
        classes: K.
    """
    rows, labels = real
    weights = np.ones(len(labels))
    if added is not None:
        count = len(labels)
        weights = np.concatenate([(1 - share) * weights, np.full(len(added[1]), share * count / len(added[1]))])
        rows, labels = np.concatenate([rows, added[0]]), np.concatenate([labels, added[1]])
    model = _fitted(rows, labels, weights, strength)
    chance = np.zeros((len(tested), classes))
    chance[:, model.classes_] = model.predict_proba(tested)
    return chance


def _fitted(rows: FloatArray, labels: Labels, weights: FloatArray, strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=2000).fit(rows, labels, sample_weight=weights)
