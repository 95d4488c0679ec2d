"""Are hypotheses in silico answered right where the truth is known, and are their controls silent?

Phantom-like scores, 300 training patients: among the diseased each of two modalities shows its sign with a chance, but
one of them always, so that the signs go together and do not make each other. Patients whose severity makes both. And
patients who come several times, with nothing that links the two but the class: all visits learnt from, as it was once,
and one visit of each patient, as the pipeline does.
"""

import numpy as np

from benchmarks.common import finish, options
from evaluation.paired import MeanDifference, mean_difference
from models.joint.blocks import Blocks
from models.joint.gaussian import JointGaussian
from models.joint.posterior import fit
from models.joint.sessions import one_session_each
from models.joint.sums import sums_of
from synthesis.hypotheses import displacement, outcomes, permuted, random_moves, shift
from synthesis.questions import CLASS, Along, Question

BLOCKS = Blocks(("MRI", "PET", "covariate severity"), (4, 4, 1))
SIGNS = Blocks(("MRI", "PET", "covariate severity"), (1, 1, 1))
SEVERITY = "covariate severity"
DRAWS, TESTED = 30, 100
VISITS = ((60, 1), (60, 4), (30, 8))  # patients in training, visits of each
LEARNT = ("all visits, permuted by visit", "all visits, permuted by patient", "one visit of each patient")
OWN = 0.9  # share of a score's variance that is the patient's and not the visit's
NOISE = 0.1  # of a sign's score, in which the sign itself is 0 or 1


def main() -> None:
    """Run it."""
    parser = options(__doc__ or "")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--patients", type=int, nargs="+", default=[300], help="in training, half of them diseased")
    parser.add_argument("--only", choices=("conditional", "confounded", "visits"), help="one of the parts")
    arguments = parser.parse_args()
    seeds = 5 if arguments.quick else arguments.seeds
    found: dict[str, float] = {}
    for penetrance in (0.6, 0.7, 0.8) if arguments.only in (None, "conditional") else ():
        truth, limit = (penetrance - 1) / penetrance, limit_of(penetrance)
        found |= {f"penetrance {penetrance}: truth": truth, f"penetrance {penetrance}: endless patients": limit}
        for patients in arguments.patients:
            answers = np.array([conditional(seed, penetrance, patients) for seed in range(seeds)])
            error, name = answers[:, 0] - truth, f"penetrance {penetrance}, {patients} patients"
            inside = (answers[:, 1] <= truth) & (truth <= answers[:, 2])
            found |= {
                f"{name}: seeds within .1": int((np.abs(error) <= 0.1).sum()),
                f"{name}: mean error": float(error.mean()),
                f"{name}: sd between seeds": float(error.std(ddof=1)),
                f"{name}: largest error": float(np.abs(error).max()),
                f"{name}: half of the interval": float((answers[:, 2] - answers[:, 1]).mean() / 2),
                f"{name}: intervals hold the truth": int(inside.sum()),
                f"{name}: shrinkage": float(answers[:, 3].mean()),
            }
            print(name, {key.split(": ")[1]: value for key, value in list(found.items())[-7:]}, flush=True)
    counts = np.zeros(4, dtype=int)
    for seed in range(seeds if arguments.only in (None, "confounded") else 0):
        counts += confounded(seed, arguments.patients[0])
    names = (
        "held: do-effect interval holds 0",
        "not held: interval holds 0",
        "pairings permuted: silent",
        "random: silent",
    )
    if arguments.only in (None, "confounded"):
        found |= {f"{name}, of {seeds} seeds": int(count) for name, count in zip(names, counts, strict=True)}
    for patients, often in VISITS if arguments.only in (None, "visits") else ():
        silent = np.sum([visits(seed, patients, often) for seed in range(seeds)], axis=0)
        for name, count in zip(LEARNT, silent, strict=True):
            found[f"{patients} patients, {often} visits each; {name}: silent, of {seeds}"] = int(count)
    finish("hypotheses", found, arguments)


def limit_of(penetrance: float) -> float:
    """Return what the model says of endlessly many patients: its scores have noise, and one covariance for all.

    Among the diseased the signs have the variance p (1 − p) and the covariance −(1 − p)²; the healthy have neither.
    """
    noise = NOISE**2
    own, shared = penetrance * (1 - penetrance), -((1 - penetrance) ** 2)
    return (shared / 2) / (own / 2 + noise)


def conditional(seed: int, penetrance: float, patients: int) -> tuple[float, float, float, float]:
    """Return the change of PET's sign when MRI's sign appears, in diseased test patients; its interval; and λ."""
    random = np.random.default_rng([seed, 177])

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count) % 2
        which = random.random(count)  # P(both) = 2 penetrance - 1, each alone 1 - penetrance
        signs = np.stack([which < penetrance, (which < 2 * penetrance - 1) | (which >= penetrance)], axis=1)
        signs &= labels[:, None] == 1
        rows = np.column_stack([signs + NOISE * random.standard_normal((count, 2)), random.standard_normal(count)])
        return rows, labels

    rows, labels = draw(patients)
    model = fit(sums_of(rows, labels, SIGNS, 2), draws=DRAWS, seed=seed)
    tested, truth = draw(TESTED)
    tested = tested[truth == 1]
    moves = np.ones((len(tested), 1))
    question = Question("MRI", Along("component", 0), 1.0, (CLASS,))
    found = mean_difference([shift(model, question, tested, moves).scores[:, :, 1]])
    return found.mean, found.low, found.high, model.shrinkage


def confounded(seed: int, patients: int) -> np.ndarray:
    """Return whether four intervals hold 0: severity held, not held, and both controls of the latter."""
    random = np.random.default_rng([seed, 178])

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count) % 2
        severity = random.standard_normal(count) + labels
        rows = random.standard_normal((count, BLOCKS.width))
        rows[:, [0, 4]] += severity[:, None]
        rows[:, 8] = severity
        return rows, labels

    rows, labels = draw(patients)
    model = fit(sums_of(rows, labels, BLOCKS, 2), draws=DRAWS, seed=seed)
    tested = draw(TESTED)[0]
    free = Question("MRI", Along("component", 0))
    held = Question("MRI", Along("component", 0), 1.0, (SEVERITY, CLASS))
    move = displacement(model, free)
    same = np.repeat(move[None], len(tested), axis=0)
    once = [str(number) for number in range(len(rows))]
    mixed = permuted(rows, labels, BLOCKS, 2, "MRI", subjects=once, draws=DRAWS, seed=seed)
    aside = random_moves(model, move, "MRI", len(tested), seed)
    asked = ((model, held, same), (model, free, same), (mixed, free, same), (model, free, aside))
    return np.array([_holds_0(_effect(model, *each, tested)) for each in asked], dtype=int)


def visits(seed: int, patients: int, often: int) -> np.ndarray:
    """Return whether the control of permuted pairings is silent.

    All visits learnt from, pairings permuted by visit and by patient; and one visit of each patient learnt from.
    """
    random = np.random.default_rng([seed, 179])

    def draw(count: int, times: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.repeat(np.arange(count) % 2, times)
        own = np.sqrt(OWN) * random.standard_normal((count, BLOCKS.width))
        rows = np.repeat(own, times, axis=0)
        rows += np.sqrt(1 - OWN) * random.standard_normal(rows.shape)
        rows[:, [0, 4]] += labels[:, None]
        return rows, labels

    rows, labels = draw(patients, often)
    tested = draw(TESTED, 1)[0]
    owner, visit = np.repeat(np.arange(patients), often), np.tile(np.arange(often), patients)
    once = one_session_each(owner, np.full(len(rows), 2), visit)
    every, question = np.arange(len(rows)), Question("MRI", Along("component", 0))
    silent = []
    for learnt, subjects in ((every, every), (every, owner), (once, owner)):
        of = rows[learnt], labels[learnt], BLOCKS, 2
        model = fit(sums_of(*of), draws=0, seed=seed)
        moves = np.repeat(displacement(model, question)[None], len(tested), axis=0)
        mixed = permuted(*of, "MRI", subjects=[str(s) for s in subjects[learnt]], draws=DRAWS, seed=seed)
        silent.append(_holds_0(_effect(model, mixed, question, moves, tested)))
    return np.array(silent, dtype=int)


def _effect(
    axes: JointGaussian, model: JointGaussian, question: Question, moves: np.ndarray, tested: np.ndarray
) -> MeanDifference:
    return mean_difference([outcomes(axes, question, tested, shift(model, question, tested, moves))["PET"]])


def _holds_0(found: MeanDifference) -> bool:
    return found.low <= 0 <= found.high


if __name__ == "__main__":
    main()
