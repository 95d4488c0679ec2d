"""The tables `tipping.csv` and `selection.csv`: conclusions if scans are missing for what they would have shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evaluation.intervals import paired_difference, summarise
from evaluation.tipping import ANSWERS, AUC, CHANGE, DIFFERENCE
from models.joint.blocks import FloatArray
from models.joint.gaussian import Parameters
from models.joint.model import JointModel
from models.joint.selection import Reason, Selected, fit_selected
from synthesis.tipping import CannotTipError, Direction, answers, class_difference, direction_of

TIPPING = ("modality", "conclusion", "moved", "delta", "n", "lacking", "value", "low", "high")
SELECTION = ("modality", "slope", "n", "lacking", "delta", "mean", "apart", "converged")


@dataclass(frozen=True)
class RepeatScores:
    """The patients of one repeat in the joint model.

    Attributes:
        repeat: its number.
        model: of the repeat.
        rows: scores of observations, (n, d), NaN where a block is missing; of training those learnt from alone.
        about: subject, observation, split of each row.
        labels: class index of each row, (n,).
        classes: names.
        federated: the model is one of several sites, who keep their training scores.
    """

    repeat: int
    model: JointModel
    rows: FloatArray
    about: pd.DataFrame
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    federated: bool = False

    def part(self, split: str) -> NDArray[np.int64]:
        """Return the rows of a split that have any score."""
        return np.flatnonzero((self.about["split"] == split).to_numpy() & ~np.isnan(self.rows).all(axis=1))

    def lacking(self, modality: str, rows: NDArray[np.int64]) -> int:
        """Return how many of some rows lack a modality."""
        return int(self._lacks(modality, rows).sum())

    def subjects_lacking(self, modality: str, rows: NDArray[np.int64]) -> int:
        """Return how many patients lack a modality in some of their rows."""
        return int(self.about["subject"].iloc[rows[self._lacks(modality, rows)]].nunique())

    def _lacks(self, modality: str, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.isnan(self.rows[rows, self.model.blocks.slice_of(modality).start])


def tipping_table(
    repeats: Sequence[RepeatScores], deltas: Sequence[float], along: str, seed: int
) -> tuple[pd.DataFrame, list[str]]:
    """Return conclusions for each modality and move, columns `TIPPING`, and notes on what cannot be tipped.

    The classes are compared on training patients of the first repeat that has learnt the modality, answers on the test
    patients of all repeats.
    """
    made: list[dict[str, Any]] = []
    notes: list[str] = []
    for modality in dict.fromkeys(name for each in repeats for name in each.model.bases):
        some = [each for each in repeats if modality in each.model.bases]
        if not any(each.lacking(modality, np.arange(len(each.rows))) for each in some):
            continue
        try:
            made += [{"modality": modality, **row} for row in _apart(some[0], modality, deltas, along, seed)]
            made += [{"modality": modality, **row} for row in _answers(some, modality, deltas, along, seed)]
        except CannotTipError as error:
            notes.append(f"no tipping point: {error}")
    return pd.DataFrame(made, columns=list(TIPPING)), notes


def _apart(scores: RepeatScores, modality: str, deltas: Sequence[float], along: str, seed: int) -> list[dict[str, Any]]:
    """Return how far the last class lies from the others, all moved and only its own; `n` is of patients."""
    train, gaussian = scores.part("train"), scores.model.gaussian
    rows, labels = scores.rows[train], scores.labels[train]
    direction, last = direction_of(gaussian, modality, along), len(scores.classes) - 1
    subjects = scores.about["subject"].iloc[train].to_list()
    made = []
    for only in (False, True):
        lacking = scores.subjects_lacking(modality, train[labels == last] if only else train)
        if not lacking:
            continue
        random = np.random.default_rng([seed, 31])
        found = class_difference(
            gaussian, rows, labels, modality, direction, deltas, random, last_only=only, subjects=subjects
        )
        about = {"conclusion": DIFFERENCE, "moved": scores.classes[last] if only else "all", "n": len(set(subjects))}
        made += [
            {**about, "delta": delta, "lacking": lacking, "value": value, "low": low, "high": high}
            for delta, (value, low, high) in zip(deltas, found, strict=True)
        ]
    return made


def directions(repeats: Sequence[RepeatScores], modality: str, along: str) -> list[Direction]:
    """Return the direction of each repeat; principal ones all point as the first does, as feature maps show them.

    Which of its two ways a principal direction points is decided by the classes in the first repeat alone. Decided anew
    in each, it would turn round where the classes hardly differ along it, and one δ would be two moves.

    Raises:
        CannotTipError: as `direction_of`.
    """
    found: list[Direction] = []
    first: FloatArray | None = None
    for each in repeats:
        direction, basis = direction_of(each.model.gaussian, modality, along), each.model.bases[modality]
        shown = direction.unit @ basis.components * basis.scale
        first = shown if first is None else first
        if along == "principal" and shown @ first < 0:
            direction = direction._replace(unit=-direction.unit)
        found.append(direction)
    return found


def _answers(
    repeats: Sequence[RepeatScores], modality: str, deltas: Sequence[float], along: str, seed: int
) -> list[dict[str, Any]]:
    """Return the AUC of the model's answers, its change, and the share of answers that change."""
    tables: list[list[pd.DataFrame]] = [[] for _ in deltas]
    for each, direction in zip(repeats, directions(repeats, modality, along), strict=True):
        test = each.part("test")
        random = np.random.default_rng([seed, each.repeat, 32])
        rows = each.rows[test]
        found = answers(each.model.gaussian, rows, modality, direction, deltas, random)
        lacks = np.isnan(rows[:, each.model.blocks.slice_of(modality).start])
        base = each.about.iloc[test][["subject", "observation"]].assign(repeat=each.repeat, lacks=lacks)
        for i, probabilities in enumerate(found):
            columns = {f"p_{k}": probabilities[:, k] for k in range(probabilities.shape[1])}
            tables[i].append(base.assign(truth=each.labels[test], **columns))
    predictions = [pd.concat(table, ignore_index=True) for table in tables]
    still = predictions[list(deltas).index(0.0)]
    lacks = still["lacks"].to_numpy()
    if not lacks.any():
        return []
    names = [name for name in still if str(name).startswith("p_")]
    decided = still[names].to_numpy().argmax(axis=1)
    made = []
    for delta, here in zip(deltas, predictions, strict=True):
        auc, change = summarise(here)["auc"], paired_difference(here, still, "auc")
        changed = float((here[names].to_numpy().argmax(axis=1) != decided)[lacks].mean())
        about = {"moved": "all", "delta": delta, "n": len(here), "lacking": int(lacks.sum())}
        made += [
            {**about, "conclusion": AUC, "value": auc["mean"], "low": auc["low"], "high": auc["high"]},
            {
                **about,
                "conclusion": CHANGE,
                "value": change["difference"],
                "low": change["low"],
                "high": change["high"],
            },
            {**about, "conclusion": ANSWERS, "value": changed, "low": np.nan, "high": np.nan},
        ]
    return made


def selection_table(scores: RepeatScores, slopes: Sequence[float], along: str) -> tuple[pd.DataFrame, list[str]]:
    """Return what each stated slope does to each modality that a training patient lacks, columns `SELECTION`.

    Figures are in standard deviations along the direction: `delta`, how much higher the lost scores are than if they
    were missing at random; `mean`, how much higher everybody's mean; `apart`, the last class against the others. They
    are NaN where the fit has not converged: then they say no more than where it was stopped.
    """
    made: list[dict[str, Any]] = []
    notes: list[str] = []
    if scores.federated:
        return pd.DataFrame(columns=list(SELECTION)), [
            "no stated reason for missing: it needs the scores of every training patient, and a joint model of several "
            "sites has their sums"
        ]
    train = scores.part("train")
    for modality in scores.model.bases:
        if not (lacking := scores.lacking(modality, train)):
            continue
        try:
            direction = direction_of(scores.model.gaussian, modality, along)
        except CannotTipError:
            continue
        for slope, found, at_random in _stated(scores, train, modality, direction, slopes):
            rest = found.converged and at_random.converged
            if not rest:
                steps = max(found.iterations, at_random.iterations)
                notes.append(
                    f"{modality}, stated slope {slope:g}: not converged after {steps} steps, so it gives no figures; "
                    "a class all of whom lack the scan is one reason"
                )
            spread, part = at_random.spread, scores.model.blocks.slice_of(modality)
            moved = _mean(found.parameters, part, direction) - _mean(at_random.parameters, part, direction)
            figures = {
                "delta": float((found.lost - at_random.lost).mean()) / spread,
                "mean": moved / spread,
                "apart": _last(found.parameters, part, direction) / spread,
            }
            about = {"modality": modality, "slope": slope, "n": len(train), "lacking": lacking}
            made.append(about | (figures if rest else dict.fromkeys(figures, np.nan)) | {"converged": rest})
    return pd.DataFrame(made, columns=list(SELECTION)), notes


def _stated(
    scores: RepeatScores, train: NDArray[np.int64], modality: str, direction: Direction, slopes: Sequence[float]
) -> list[tuple[float, Selected, Selected]]:
    """Return each slope, the parameters under it, and those under a slope of 0."""

    def fit(slope: float) -> Selected:
        reason = Reason(modality, direction.unit, slope)
        return fit_selected(scores.rows[train], scores.labels[train], scores.model.blocks, len(scores.classes), reason)

    at_random = fit(0.0)
    return [(slope, at_random if slope == 0 else fit(slope), at_random) for slope in slopes]


def _mean(parameters: Parameters, part: slice, direction: Direction) -> float:
    """Return the mean of everybody along a direction."""
    return float(parameters.share @ parameters.mean[:, part] @ direction.unit)


def _last(parameters: Parameters, part: slice, direction: Direction) -> float:
    """Return how far the last class lies from the others along a direction."""
    means, rest = parameters.mean[:, part] @ direction.unit, parameters.share[:-1]
    return float(means[-1] - rest @ means[:-1] / rest.sum())
