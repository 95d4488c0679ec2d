"""Do the 95 % intervals cover, and do the tests hold their level? Simulated cohorts with a known expected score.

A cohort is drawn, split 6:1:3 by patient again and again, and a shrunken linear discriminant is trained on Gaussian
features in each split, as a run does. The expected score of this way of training is the mean over all cohorts. Counted
is how often the interval of one cohort covers it, and how often methods that are equally good by construction (each
sees its own block of features, all alike) are called different at .05.

"Before" is the percentile bootstrap over patients of the mean over repeats, draws without a class left out; "now" is
`evaluation.intervals`. Scores and influences are computed for many cohorts at once; a test holds them against
`summarise`. It leaves `intervals.md` beside the JSON, the tables of docs/results/intervals.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from benchmarks.common import finish, options
from evaluation.comparison import holm
from evaluation.intervals import error_of_mean, interval
from evaluation.metrics import CLASSWISE, METRICS

Array = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]

SHOWN = ("auc", "accuracy", "balanced_accuracy", "brier", "log_loss")
DRAWS = 200  # of the percentile bootstrap
BEFORE_OF = 200  # cohorts for the columns "before"
METHODS = 6  # of a comparison; five are tested against the first
MOST_VALUES = 4_000_000  # features held at once


@dataclass(frozen=True)
class Setting:
    """A kind of cohort, the number of its repeats, and a learner."""

    patients: int
    repeats: int
    sessions: int = 1
    features: int = 60
    distance: float = 1.0  # between the class means and the middle, in standard deviations
    shrinkage: float = 0.3
    positives: float = 0.5

    @property
    def truth(self) -> Whole:
        """The class of each patient."""
        positives = round(self.positives * self.patients)
        return np.repeat([0, 1], [self.patients - positives, positives])


@dataclass(frozen=True)
class Studies:
    """Test predictions of B cohorts, M methods and R repeats; n test patients a repeat, S sessions each.

    Attributes:
        logits: (B, M, R, n, S), of class 1.
        test: (B, R, n), the test patients; the first are those of class 0.
        truth: (P,), the class of each patient.
    """

    logits: Array
    test: Whole
    truth: Whole


LEARNERS: dict[str, dict[str, Any]] = {
    "60 features": {},
    "10 features, weak": {"features": 10, "distance": 0.4, "shrinkage": 0.1},
    "10 features, strong": {"features": 10, "distance": 1.0, "shrinkage": 0.1},
    "10 features, nothing to learn": {"features": 10, "distance": 0.0, "shrinkage": 0.1},
}
FEW_POSITIVES: dict[str, Any] = {"features": 10, "shrinkage": 0.1, "positives": 7 / 40}


def main() -> None:
    """Run it."""
    parser = options(__doc__ or "")
    parser.add_argument("--cohorts", type=int, default=1000, help="simulated for each row")
    arguments = parser.parse_args()
    cohorts = 40 if arguments.quick else arguments.cohorts
    sizes, repeats = ((40,), (3,)) if arguments.quick else ((40, 90, 300), (3, 5, 20))
    lines: list[str] = []
    found: dict[str, Any] = {}

    def row(*cells: Any) -> None:
        lines.append(f"| {' | '.join(map(str, cells))} |")
        print(lines[-1], flush=True)  # noqa: T201

    def table(title: str, *headers: str) -> None:
        lines.extend([f"\n### {title}\n", f"| {' | '.join(headers)} |", "|---" * len(headers) + "|"])

    shown = [METRICS[name] for name in SHOWN]
    for name, learner in LEARNERS.items():
        table(f"Coverage: {name}", "patients", "repeats", "sessions", "expected AUC", *shown)
        for setting in (
            Setting(n, r, s, **learner) for n in sizes for s in ((1, 2), (1,))[bool(learner)] for r in repeats
        ):
            expected, before, now = coverage(setting, of_row(setting, cohorts))
            cells = [f"{before[m]:.2f} → **{now[m]:.3f}**" for m in SHOWN]
            row(setting.patients, setting.repeats, setting.sessions, f"{expected['auc']:.2f}", *cells)
            found[f"{name}: {setting.patients}, {setting.repeats}, {setting.sessions}"] = now["auc"]
    table("Coverage: 7 positives of 40 patients", "repeats", "expected AUC", *shown)
    for r in repeats:
        expected, before, now = coverage(Setting(40, r, **FEW_POSITIVES), cohorts)
        row(r, f"{expected['auc']:.2f}", *(f"{before[m]:.2f} → **{now[m]:.3f}**" for m in SHOWN))
    headers = ("one test, AUC", "one test, accuracy", "Holm's family of 5, AUC")
    table("Equal methods called different at .05", "patients", "repeats", "sessions", *headers)
    for setting in (Setting(n, r, s, features=10) for n in sizes for s in (1, 2) for r in repeats):
        cells = [f"{before:.3f} → **{now:.3f}**" for before, now in rejections(setting, of_row(setting, cohorts))]
        row(setting.patients, setting.repeats, setting.sessions, *cells)
    arguments.out.mkdir(parents=True, exist_ok=True)
    Path(arguments.out / "intervals.md").write_text("\n".join(lines).strip() + "\n", "utf-8")
    finish("intervals", found, arguments)


def of_row(setting: Setting, cohorts: int) -> int:
    """Return how many cohorts a row gets: fewer, but a fifth at least, where each costs much."""
    cost = setting.patients * setting.repeats * setting.sessions
    return min(cohorts, max(cohorts // 5, cohorts * 3000 // cost))


def coverage(
    setting: Setting, cohorts: int, *, seed: int = 0, before_of: int = BEFORE_OF
) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Return the expected score of each metric, and how often the intervals before and now cover it."""
    means: dict[str, list[Array]] = {name: [] for name in SHOWN}
    ends: dict[str, dict[str, list[Array]]] = {way: {name: [] for name in SHOWN} for way in ("before", "now")}
    done = 0
    for block in studies(setting, cohorts, methods=1, seed=seed):
        drawn = percentiles(block, min(max(0, before_of - done), len(block.test)), seed=done)
        done += len(block.test)
        for name, (values, influence) in scores(block).items():
            mean = values[:, 0].mean(axis=-1)
            error = error_of_mean(values[:, 0], influence[:, 0], members(block, name))
            means[name].append(mean)
            ends["now"][name].append(np.stack(interval(name, mean, *error)))
            if len(drawn[name]):
                ends["before"][name].append(np.nanquantile(drawn[name][:, 0], [0.025, 0.975], axis=-1))
    expected = {name: float(np.concatenate(each).mean()) for name, each in means.items()}
    rates = {way: {name: _inside(of[name], expected[name]) for name in SHOWN} for way, of in ends.items()}
    return expected, rates["before"], rates["now"]


def _inside(ends: list[Array], value: float) -> float:
    low, high = np.concatenate(ends, axis=1) if ends else np.empty((2, 0))
    return float(((low <= value) & (value <= high)).mean()) if low.size else float("nan")


def rejections(
    setting: Setting, cohorts: int, *, seed: int = 0, before_of: int = BEFORE_OF
) -> list[tuple[float, float]]:
    """Return the rates before and now at which equal methods differ: tests of AUC, of accuracy, a Holm family."""
    p_values: dict[str, dict[str, list[Array]]] = {way: {"auc": [], "accuracy": []} for way in ("before", "now")}
    done = 0
    for block in studies(setting, cohorts, methods=METHODS, seed=seed):
        drawn = percentiles(block, min(max(0, before_of - done), len(block.test)), seed=done)
        done += len(block.test)
        found = scores(block)
        for name in ("auc", "accuracy"):
            values, influence = found[name]
            values, influence = values[:, 1:] - values[:, :1], influence[:, 1:] - influence[:, :1]
            error, freedom, _ = error_of_mean(values, influence, members(block, name)[:, np.newaxis])
            with np.errstate(divide="ignore", invalid="ignore"):
                p = 2 * stats.t.sf(np.abs(values.mean(axis=-1)) / error, freedom)
            p_values["now"][name].append(np.where(np.isfinite(p), p, 1))
            difference = drawn[name][:, 1:] - drawn[name][:, :1]
            tail = np.minimum((difference <= 0).sum(axis=-1), (difference >= 0).sum(axis=-1))
            p_values["before"][name].append(np.minimum(1, 2 * (1 + tail) / (DRAWS + 1)))
    rates = []
    for way in ("before", "now"):
        if not sum(map(len, p_values[way]["auc"])):
            rates.append([float("nan")] * 3)
            continue
        auc, accuracy = (np.concatenate(p_values[way][name]) for name in ("auc", "accuracy"))
        family = [(holm(each) <= 0.05).any() for each in auc]
        rates.append([float((auc <= 0.05).mean()), float((accuracy <= 0.05).mean()), float(np.mean(family))])
    return list(zip(*rates, strict=True))


def studies(setting: Setting, cohorts: int, *, methods: int, seed: int) -> Iterator[Studies]:
    """Yield the test predictions of as many cohorts as there are, some at a time."""
    generator = np.random.default_rng([seed, setting.patients, setting.repeats, setting.sessions])
    truth, width = setting.truth, setting.features
    size = setting.patients * setting.sessions * methods * max(width, 5 * setting.repeats)
    noise = (0.7**0.5, 0.3**0.5) if setting.sessions > 1 else (1.0, 0.0)
    while cohorts > 0:
        block = min(cohorts, max(1, MOST_VALUES // size))
        cohorts -= block
        shape = (block, setting.patients, setting.sessions, methods * width)
        x = noise[0] * generator.standard_normal((*shape[:2], 1, shape[3]), dtype=np.float32)
        x = x + noise[1] * generator.standard_normal(shape, dtype=np.float32) if setting.sessions > 1 else x
        x += (setting.distance / np.sqrt(width) * (2 * truth - 1))[:, np.newaxis, np.newaxis]
        rows, logits, tests = np.arange(block)[:, np.newaxis], [], []
        for _ in range(setting.repeats):
            train, test = split(truth, block, generator)
            parts = [slice(m * width, (m + 1) * width) for m in range(methods)]
            known, new = x[rows, train], x[rows, test]
            of = truth[train[0]]
            logits.append([trained(known[..., part], of, new[..., part], setting.shrinkage) for part in parts])
            tests.append(test)
        yield Studies(np.moveaxis(np.array(logits, dtype=np.float64), 2, 0).swapaxes(1, 2), np.stack(tests, 1), truth)


def split(truth: Whole, cohorts: int, generator: np.random.Generator) -> tuple[Whole, Whole]:
    """Return the patients of train and test of each cohort, 6:1:3 within each class."""
    train, test = [], []
    for k in (0, 1):
        members_ = np.flatnonzero(truth == k)
        order = members_[generator.random((cohorts, members_.size)).argsort(axis=1)]
        first = round(0.6 * members_.size)
        train.append(order[:, :first])
        test.append(order[:, first + max(1, round(0.1 * members_.size)) :])
    return np.concatenate(train, axis=1), np.concatenate(test, axis=1)


def trained(x: Array, truth: Whole, tested: Array, shrinkage: float) -> Array:
    """Train shrunken linear discriminants on (B, patients, S, F); return the test logits of class 1."""
    rows, y = x.reshape(len(x), -1, x.shape[3]), np.repeat(truth, x.shape[2])
    means = np.stack([rows[:, y == k].mean(axis=1) for k in (0, 1)], axis=1)
    deviations = rows - means[:, y]
    covariance = deviations.swapaxes(1, 2) @ deviations / (len(y) - 2)
    spread = np.trace(covariance, axis1=1, axis2=2) / covariance.shape[1]
    shrunken = (1 - shrinkage) * covariance
    shrunken += shrinkage * spread[:, None, None] * np.eye(covariance.shape[1], dtype=x.dtype)
    weights = np.linalg.solve(shrunken, (means[:, 1] - means[:, 0])[..., np.newaxis])[..., 0]
    offset = (means.mean(axis=1) * weights).sum(axis=1) - np.log(y.mean() / (1 - y.mean()))
    return np.clip(np.einsum("bnsf,bf->bns", tested, weights) - offset[:, None, None], -12, 12)


def scores(block: Studies) -> dict[str, tuple[Array, Array]]:
    """Return for each metric its values (B, M, R) and corrected influences (B, M, R, P), by their formulas."""
    n_sessions = block.logits.shape[-1]
    z = block.logits.reshape(*block.logits.shape[:3], -1)
    of = block.truth[block.test[0, 0]]
    y = np.repeat(of, n_sessions)
    right = (z >= 0) == (y == 1)
    losses = {
        "accuracy": right.astype(np.float64),
        "brier": (1 / (1 + np.exp(-z)) - y) ** 2,
        "log_loss": np.logaddexp(0, np.where(y == 1, -z, z)),
    }
    found = {name: (loss.mean(axis=-1), loss, np.ones(y.size) / y.size) for name, loss in losses.items()}
    won = z[..., y == 1][..., :, np.newaxis] > z[..., y == 0][..., np.newaxis, :]
    area = np.concatenate([won.mean(axis=-2), won.mean(axis=-1)], axis=-1)  # rows of class 0 come first
    sizes = np.bincount(y)[y]
    found["auc"] = (won.mean(axis=(-2, -1)), area, 1 / sizes)
    recall = np.stack([losses["accuracy"][..., y == k].mean(axis=-1) for k in (0, 1)], axis=-1)
    values = recall.mean(axis=-1)
    centred = losses["accuracy"] - recall[..., y] + values[..., np.newaxis]
    found["balanced_accuracy"] = (values, centred, 1 / sizes / 2)
    rows = np.arange(len(block.test))[:, None, None, None], np.arange(z.shape[1])[:, None, None]
    cells = (*rows, np.arange(z.shape[2])[:, None], block.test[:, np.newaxis])
    result = {}
    for name, (values, row_values, weight) in found.items():
        one = (row_values - values[..., np.newaxis]) * weight
        size = np.bincount(of)[of] if name in CLASSWISE else np.array(of.size)
        influence = np.zeros((*z.shape[:3], block.truth.size))
        influence[cells] = one.reshape(*one.shape[:3], of.size, n_sessions).sum(axis=-1) * np.sqrt(size / (size - 1))
        result[name] = (values, influence)
    return {name: result[name] for name in SHOWN}


def members(block: Studies, metric: str) -> npt.NDArray[np.bool_]:
    """Return the tested patients of each cohort (B, K, P), by class where the metric looks at classes."""
    tested = np.zeros((len(block.test), block.truth.size), dtype=bool)
    np.put_along_axis(tested, block.test.reshape(len(tested), -1), True, axis=1)
    classes = [block.truth == k for k in (0, 1)] if metric in CLASSWISE else [block.truth >= 0]
    return np.stack([tested & of for of in classes], axis=1)


def percentiles(block: Studies, cohorts: int, *, seed: int) -> dict[str, Array]:
    """Return the bootstrap's draws of the first cohorts (b, M, draws), NaN where a class is missing in a repeat."""
    n_sessions = block.logits.shape[-1]
    of = block.truth[block.test[0, 0]]
    y = np.repeat(of, n_sessions)
    shape = (cohorts, block.logits.shape[1], DRAWS)
    result = {name: np.zeros(shape) for name in SHOWN}
    generator = np.random.default_rng([seed, 1])
    for b, test in enumerate(block.test[:cohorts]):
        known, place = np.unique(test, return_inverse=True)
        counts = generator.multinomial(known.size, np.full(known.size, 1 / known.size), DRAWS).astype(np.float64)
        for r, patients in enumerate(place.reshape(test.shape)):
            weights = np.repeat(counts[:, patients], n_sessions, axis=1)
            share = [weights[:, y == k] for k in (0, 1)]
            with np.errstate(divide="ignore", invalid="ignore"):
                share = [each / each.sum(axis=1, keepdims=True) for each in share]
                weights = weights / weights.sum(axis=1, keepdims=True)
            for m, z in enumerate(block.logits[b, :, r].reshape(shape[1], -1)):
                right = ((z >= 0) == (y == 1)).astype(np.float64)
                won = (z[y == 1][:, np.newaxis] > z[y == 0]).astype(np.float64)
                result["auc"][b, m] += ((share[1] @ won) * share[0]).sum(axis=1)
                result["accuracy"][b, m] += weights @ right
                result["balanced_accuracy"][b, m] += (share[0] @ right[y == 0] + share[1] @ right[y == 1]) / 2
                result["brier"][b, m] += weights @ (1 / (1 + np.exp(-z)) - y) ** 2
                result["log_loss"][b, m] += weights @ np.logaddexp(0, np.where(y == 1, -z, z))
    return {name: drawn / block.test.shape[1] for name, drawn in result.items()}


if __name__ == "__main__":
    main()
