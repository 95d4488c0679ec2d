"""How much of a test score's spread is the split, and how much the random start of training?

Runs of one comparison on the same frozen splits with another `baselines.seed` each are given by their workspaces.
A score then has a line a split (repeat) and a column a start. Starts are nested in splits: start 2 of split 1 has
nothing in common with start 2 of split 2. So the components of a one-way random-effects analysis of variance are
those of the split (other training, validation and test patients) and of the start (weights, order, inner folds).

Source: Searle, Casella and McCulloch, Variance Components (1992), sections 3.6 and 3.8 (estimates, exact interval).
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from benchmarks.common import finished_comparison, machine
from evaluation.intervals import LEVEL, probability_columns
from evaluation.metrics import score
from pipeline.store.base import write_json

Array = npt.NDArray[np.float64]
SCORES = ("auc", "log_loss")


@dataclass(frozen=True)
class Components:
    """Where the spread of a score comes from.

    Attributes:
        mean: over all.
        split: standard deviation between splits, starts averaged out; 0 where the estimated variance is negative.
        start: standard deviation between starts within a split.
        share: of the start in the variance of one score, in [0, 1].
        low: of the 95 % interval of the share.
        high: of the same.
    """

    mean: float
    split: float
    start: float
    share: float
    low: float
    high: float


def components(scores_sr: Array) -> Components:
    """Return the components of scores of S splits with R starts each, (S, R).

    Raises:
        ValueError: there are fewer than two splits or starts, or a score is not finite.
    """
    if scores_sr.ndim != 2 or min(scores_sr.shape) < 2 or not np.isfinite(scores_sr).all():
        raise ValueError(f"expected finite scores of two splits and two starts at least; found {scores_sr.shape}")
    splits, starts = scores_sr.shape
    within = float(scores_sr.var(axis=1, ddof=1).mean())
    between = starts * float(scores_sr.mean(axis=1).var(ddof=1))
    split = max(between - within, 0.0) / starts
    whole = split + within
    if whole == 0:  # the same everywhere
        return Components(float(scores_sr.mean()), 0.0, 0.0, np.nan, np.nan, np.nan)
    low, high = 0.0, 0.0
    if within > 0:
        freedom = splits - 1, splits * (starts - 1)
        bounds = (between / within / stats.f.ppf(q, *freedom) for q in ((1 + LEVEL) / 2, (1 - LEVEL) / 2))
        # the share of the split is (F - 1) / (F - 1 + R), with F at the end of its interval
        high, low = (1 - float(np.clip((f - 1) / (f - 1 + starts), 0, 1)) for f in bounds)
    return Components(float(scores_sr.mean()), split**0.5, within**0.5, within / whole, low, high)


def predictions_of(workspaces: Sequence[Path], scenario: str) -> list[pd.DataFrame]:
    """Return the test predictions of each workspace in one scenario.

    Raises:
        ValueError: a workspace has none or did not finish, two have the same seed, or one has other test patients in a
            repeat.
    """
    tables: list[pd.DataFrame] = []
    seeds: list[int] = []
    for workspace in workspaces:
        table, settings = finished_comparison(workspace, scenario)
        seeds.append(settings["seed"])
        tables.append(table[~table[probability_columns(table)].isna().any(axis=1)])
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"baselines.seed is {seeds} in these workspaces; every run needs another one")
    for workspace, table in zip(workspaces, tables, strict=True):
        if _tested(table) != _tested(tables[0]):
            raise ValueError(f"{workspace} and {workspaces[0]} are not tested on the same patients: copy the splits")
    return tables


def rows_of(tables: Sequence[pd.DataFrame], reference: str) -> list[dict[str, Any]]:
    """Return a row a method and score, and one a method for its difference from the reference.

    Each row has the components, and for a method `moves`: the standard deviation over starts of a test patient's
    probability of the last class, its mean over patients and splits.
    """
    common = [name for name in tables[0]["method"].unique() if all(name in set(t["method"]) for t in tables)]
    scores = {(name, metric): _scores(tables, name, metric) for name in common for metric in SCORES}
    rows: list[dict[str, Any]] = []
    for (name, metric), values in scores.items():
        rows.append({"method": name, "score": metric, "moves": _moves(tables, name), **vars(components(values))})
        if name != reference and (reference, metric) in scores:
            found = components(values - scores[reference, metric])
            rows.append({"method": f"{name} minus {reference}", "score": metric, "moves": np.nan, **vars(found)})
    return rows


def _tested(table: pd.DataFrame) -> set[tuple[int, str]]:
    return set(zip(table["repeat"], table["observation"], strict=True))


def _scores(tables: Sequence[pd.DataFrame], method: str, metric: str) -> Array:
    """Return the score of a method, (S, R)."""
    columns = []
    for table in tables:
        repeats = table[table["method"] == method].groupby("repeat", sort=True)
        columns.append([score(t["truth"], t[probability_columns(t)])[metric] for _, t in repeats])
    return np.array(columns).T


def _moves(tables: Sequence[pd.DataFrame], method: str) -> float:
    """Return by how much another start moves a probability: standard deviation, mean over test predictions."""
    last = probability_columns(tables[0])[-1]
    ours = [table[table["method"] == method].set_index(["repeat", "observation"])[last] for table in tables]
    return float(pd.concat(ours, axis=1).std(axis=1, ddof=1).mean())


def main() -> None:
    """Print the components as a Markdown table and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspaces", nargs="+", type=Path, help="the same splits, another baselines.seed each")
    parser.add_argument("--scenario", default="as it is")
    parser.add_argument("--reference", default="HyperMM")
    parser.add_argument("--out", type=Path, help="JSON file")
    arguments = parser.parse_args()
    rows = rows_of(predictions_of(arguments.workspaces, arguments.scenario), arguments.reference)
    print("| method | score | mean | split | start | share of the start [95 %] | a patient's probability |")
    print("|---|---|---:|---:|---:|---|---:|")
    for row in rows:
        share = "–" if np.isnan(row["share"]) else f"{row['share']:.0%} [{row['low']:.0%}, {row['high']:.0%}]"
        moves = "" if np.isnan(row["moves"]) else f"± {row['moves']:.3f}"
        sizes = f"{row['mean']:.3f} | {row['split']:.3f} | {row['start']:.3f}"
        print(f"| {row['method']} | {row['score']} | {sizes} | {share} | {moves} |")
    if arguments.out:
        write_json(arguments.out, {"machine": machine(), "rows": rows})


if __name__ == "__main__":
    main()
