"""How large a calibration error would perfectly calibrated probabilities have on as many patients?

The error (ECE) of few predictions is never 0, for the share of a class in a bin is off by chance. So every method's
own probabilities of a finished comparison are taken as true: labels are drawn from them again and again, one draw a
patient and all of a patient's predictions by it. An error above most of these is more than chance.
"""

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.common import finished_comparison
from evaluation.calibration import calibration_error
from evaluation.intervals import probability_columns

DRAWS = 2000


def errors_by_chance(
    probabilities: npt.NDArray[np.float64], subjects: npt.NDArray[np.object_], *, draws: int = DRAWS, seed: int = 0
) -> npt.NDArray[np.float64]:
    """Return the calibration error under labels drawn from the probabilities, (draws,).

    Args:
        probabilities: (n, K).
        subjects: (n,), the patient of each row; the rows of one share a draw.
        draws: how many.
        seed: of the draws.
    """
    patients, row = np.unique(subjects, return_inverse=True)
    random, below = np.random.default_rng(seed), np.cumsum(probabilities, axis=1)[:, :-1]
    found = []
    for _ in range(draws):
        truth = (random.uniform(size=len(patients))[row, np.newaxis] >= below).sum(axis=1)
        found.append(calibration_error(probabilities, truth))
    return np.array(found)


def main() -> None:
    """Print a Markdown table, a row a method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path, help="with a finished stage baselines")
    parser.add_argument("--scenario", default="as it is")
    parser.add_argument("--bar", type=float, default=0.08, help="how often is chance above it?")
    arguments = parser.parse_args()
    table, _ = finished_comparison(arguments.workspace, arguments.scenario)
    print(f"| method | ECE | by chance, mean [5 to 95 %] | chance above {arguments.bar:g} | chance above the ECE |")
    print("|---|---:|---|---:|---:|")
    for method, all_rows in table.groupby("method", sort=False):
        rows = all_rows.dropna(subset=probability_columns(table))
        p = rows[probability_columns(table)].to_numpy(dtype=np.float64)
        drawn = errors_by_chance(p, rows["subject"].to_numpy(dtype=object))
        own, (low, high) = calibration_error(p, rows["truth"]), np.quantile(drawn, [0.05, 0.95])
        above, beyond = (drawn > arguments.bar).mean(), (drawn >= own).mean()
        print(f"| {method} | {own:.3f} | {drawn.mean():.3f} [{low:.3f}, {high:.3f}] | {above:.0%} | {beyond:.0%} |")


if __name__ == "__main__":
    main()
