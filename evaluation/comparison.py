"""Compare methods on the same test patients, as the paper's tables 1 and 2 do, with intervals and paired tests.

A table of predictions in long form has the columns of `evaluation.intervals` (`repeat`, `subject`, `observation`,
`truth`, `p_0`, …) and `scenario` and `method` (str), with one row for each of them. A method that cannot take an
observation, such as one that needs both scans, has a row of NaN probabilities for it, or none.

Every method is scored on the rows it could take, and compared with the reference on the rows both could take, for the
scores of two methods on different patients differ by their patients too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from evaluation.calibration import calibration_error
from evaluation.intervals import paired_difference, probability_columns, summarise
from evaluation.metrics import FloatArray, score

COMPARED = ("accuracy", "balanced_accuracy", "auc", "auc_rounded", "f1", "precision", "recall", "log_loss", "brier")
"""The metrics of a comparison."""

TESTED = ("auc", "balanced_accuracy")
"""The metrics whose difference from the reference is tested."""

COIN = "a coin"
"""A method that knows nothing, and gives every class the same probability."""

COSTS = ("imputation_seconds", "classification_seconds", "peak_memory_mb", "trained_parameters")
"""Costs of a method: seconds, seconds, megabytes, trained numbers."""

_KEYS = ("scenario", "method", "repeat", "subject", "observation", "truth")
_POINT = ["method", "hidden_modality", "where", "rate"]
_ENDS = ("mean", "std", "low", "high")
_WHERE = ("test", "both")


def comparison_table(
    predictions: pd.DataFrame,
    *,
    reference: str = "HyperMM",
    costs: pd.DataFrame | None = None,
    reasons: Mapping[tuple[str, str], str] | None = None,
) -> pd.DataFrame:
    """Score every method in every scenario and compare it with the reference.

    Of two classes, the positive one is decided at a probability of 0.5.

    Args:
        predictions: of the test split, in long form as above.
        reference: the method that others are compared with.
        costs: columns `scenario`, `method` and `COSTS`; NaN for what was not measured.
        reasons: (scenario, method) → why it has no predictions.

    Returns:
        One row a scenario and method, in the order in which they first appear (in predictions, costs, reasons):

        - `scenario`, `method`, `note` (what is missing; "" for nothing);
        - `n` test predictions made, out of `n_asked`, of `subjects` out of `subjects_asked`, in `repeats`; what was
          asked is everything that any method of the scenario has a row of;
        - for each of `COMPARED` `_mean`, `_std`, `_low`, `_high`, as `intervals.summarise` gives them; `ece`, the
          calibration error of all predictions of all repeats together;
        - `n_shared` rows that the reference could take too, and for each of `TESTED`, on those, `_difference` (method
          minus reference), `_difference_low`, `_difference_high`, `_p` and `_p_holm`, corrected for the number of
          methods in the scenario; NaN for the reference;
        - `COSTS`, NaN where unknown.

    Raises:
        ValueError: a column is missing, a row appears twice, methods disagree on a subject or a truth, a row has some
            probabilities and lacks others, the reference made no prediction anywhere, or `costs` has two rows for one
            method.
    """
    _check(predictions)
    made = predictions[~predictions[probability_columns(predictions)].isna().any(axis=1)]
    if reference not in set(made["method"]):
        known = ", ".join(map(str, made["method"].unique())) or "nothing"
        raise ValueError(f"the reference {reference!r} made no predictions; there are predictions of {known}")
    cost_of = _costs(costs)
    reasons = dict(reasons or {})
    rows = []
    for scenario, method in _pairs(predictions, [*cost_of, *reasons]):
        asked = predictions.loc[predictions["scenario"] == scenario].drop_duplicates(["repeat", "observation"])
        here = made[made["scenario"] == scenario]
        own, others = here[here["method"] == method], here[here["method"] == reference]
        row: dict[str, Any] = {"scenario": scenario, "method": method}
        row |= {"n": len(own), "n_asked": len(asked), "subjects": own["subject"].nunique()}
        row |= {"subjects_asked": asked["subject"].nunique(), "repeats": own["repeat"].nunique()}
        row |= _scores(own) | {"ece": _ece(own)} | _differences(own, others, same=method == reference)
        row["note"] = _note(row, reference, reasons.get((scenario, method), ""), repeats=asked["repeat"].nunique())
        rows.append(row | cost_of.get((scenario, method), dict.fromkeys(COSTS, np.nan)))
    table = pd.DataFrame(rows)
    for metric in TESTED:
        corrected = table.groupby("scenario", sort=False)[f"{metric}_p"].transform(lambda p: holm(p.to_numpy()))
        table.insert(table.columns.get_loc(f"{metric}_p") + 1, f"{metric}_p_holm", corrected)
    return table


def holm(p_values: npt.ArrayLike) -> FloatArray:
    """Correct p values for their number, so that the chance of any false alarm among them stays at the level.

    The smallest of m is multiplied by m, the next by m - 1, and so on; none becomes smaller than the one before it, or
    larger than 1.

    Args:
        p_values: (m,) floats in [0, 1], in any order. NaN stays NaN and does not count.

    Returns:
        (m,) floats in [0, 1], in the order given.

    Raises:
        ValueError: a value is below 0 or above 1, or there is more than one axis.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6:65.
    """
    values = np.asarray(p_values, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"p values have shape {values.shape}; expected (m,)")
    defined = np.flatnonzero(~np.isnan(values))
    wrong = defined[(values[defined] < 0) | (values[defined] > 1)]
    if wrong.size:
        raise ValueError(f"p value {wrong[0]} is {values[wrong[0]]}; expected one from 0 to 1")
    order = defined[np.argsort(values[defined], kind="stable")]
    stepped = values[order] * np.arange(order.size, 0, -1)
    result = np.full(values.shape, np.nan)
    result[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return result


def robustness_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Compute AUC against the share of scans hidden, one row a point of the curve.

    Args:
        predictions: columns `method`, `hidden_modality` (str), `rate` (share hidden, 0 to below 1), `where` ("test":
            hidden in the test split; "both": in training too), and those of `evaluation.intervals`. NaN probabilities
            where a method could not take the observation.

    Returns:
        Columns `method`, `hidden_modality`, `where`, `rate`, `n` (predictions made), `n_asked`, `auc_mean`, `auc_std`,
        `auc_low`, `auc_high`; curves in the order in which they first appear, each by rising rate.

    Raises:
        ValueError: a column is missing, `where` is neither, a rate is out of range, or a point cannot be scored.
    """
    missing = [name for name in _POINT if name not in predictions.columns]
    if missing:
        raise ValueError(f"predictions lack the column(s) {', '.join(missing)}; found {list(predictions.columns)}")
    if strange := sorted(set(predictions["where"]) - set(_WHERE)):
        raise ValueError(f"where is {strange[0]!r}; expected one of {', '.join(_WHERE)}")
    outside = predictions.loc[~predictions["rate"].between(0, 1, inclusive="left"), "rate"]
    if len(outside):
        raise ValueError(f"rate is {outside.iloc[0]}; expected a share from 0 up to (not including) 1")
    columns = probability_columns(predictions)
    rows = []
    for curve, points in predictions.groupby(_POINT[:3], sort=False):
        for rate, asked in points.groupby("rate"):
            made = asked[~asked[columns].isna().any(axis=1)]
            row = dict(zip(_POINT, (*curve, rate), strict=True)) | {"n": len(made), "n_asked": len(asked)}
            summary = summarise(made)["auc"]
            rows.append(row | {f"auc_{end}": value for end, value in summary.items() if end in _ENDS})
    return pd.DataFrame(rows, columns=[*_POINT, "n", "n_asked", *(f"auc_{end}" for end in _ENDS)])


def patients_table(predictions: pd.DataFrame, training_patients: Mapping[str, float]) -> pd.DataFrame:
    """Compute AUC against the number of training patients, one row a point of the learning curve.

    Args:
        predictions: columns `scenario`, `method`, and those of `evaluation.intervals`.
        training_patients: scenario → number of training patients.

    Returns:
        Columns `method`, `training_patients`, `n` (predictions made), `n_asked`, `auc_mean`, `auc_std`, `auc_low`,
        `auc_high`; methods in the order in which they first appear, each by rising number.
    """
    columns = probability_columns(predictions)
    points = predictions[predictions["scenario"].isin(training_patients)]
    rows = []
    for method, asked in points.groupby("method", sort=False):
        for scenario in sorted(training_patients, key=training_patients.__getitem__):
            here = asked[asked["scenario"] == scenario]
            made = here[~here[columns].isna().any(axis=1)]
            if len(made):
                row = {"method": method, "training_patients": training_patients[scenario]}
                summary = summarise(made)["auc"]
                row |= {"n": len(made), "n_asked": len(here)}
                rows.append(row | {f"auc_{end}": value for end, value in summary.items() if end in _ENDS})
    names = ["method", "training_patients", "n", "n_asked", *(f"auc_{end}" for end in _ENDS)]
    return pd.DataFrame(rows, columns=names)


def mechanisms_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Compute AUC for each reason why scans are missing in training, and each in the test.

    Args:
        predictions: columns `method`, `training`, `tested` (reasons), and those of `evaluation.intervals`; NaN
            probabilities where a method could not take the observation.

    Returns:
        Columns `method`, `training`, `tested`, `n` (predictions made), `n_asked`, `auc_mean`, `auc_std`, `auc_low`,
        `auc_high`; in the order in which they first appear, `n` 0 and no AUC where a method could take nobody.
    """
    return _points(predictions, ["method", "training", "tested"], ("auc",))


def subsets_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Score every method on every subset of modalities that it was tested with.

    Args:
        predictions: columns `method`, `modalities` (a subset, joined by +), and those of `evaluation.intervals`; NaN
            probabilities where a method could not take the observation.

    Returns:
        Columns `modalities`, `method`, `n` (predictions made), `n_asked`; `_mean`, `_std`, `_low`, `_high` of `auc`,
        `log_loss` (nats) and `brier`; in the order in which they first appear, `n` 0 and no score where a method could
        take nobody. The first row is `COIN`, of every observation, with the scores of equal probabilities.
    """
    table = _points(predictions, ["modalities", "method"], ("auc", "log_loss", "brier"))
    columns = probability_columns(predictions)
    rows = predictions.drop_duplicates(["repeat", "observation"])
    coin = {
        f"{name}_mean": value
        for name, value in score(rows["truth"], np.full((len(rows), len(columns)), 1 / len(columns))).items()
    }
    first = pd.DataFrame([{"modalities": "", "method": COIN, "n": len(rows), "n_asked": len(rows)} | coin])
    return pd.concat([first, table], ignore_index=True)[table.columns]


def _points(predictions: pd.DataFrame, by: list[str], metrics: tuple[str, ...]) -> pd.DataFrame:
    """Score each group of predictions."""
    columns = probability_columns(predictions)
    scores = [f"{metric}_{end}" for metric in metrics for end in _ENDS]
    rows = []
    for group, asked in predictions.groupby(by, sort=False):
        made = asked[~asked[columns].isna().any(axis=1)]
        row = dict(zip(by, group, strict=True)) | {"n": len(made), "n_asked": len(asked)}
        summary = summarise(made) if len(made) else {}
        found = {f"{m}_{end}": value for m in metrics for end, value in summary.get(m, {}).items() if end in _ENDS}
        rows.append(row | dict.fromkeys(scores, np.nan) | found)
    return pd.DataFrame(rows, columns=[*by, "n", "n_asked", *scores])


def _scores(made: pd.DataFrame) -> dict[str, object]:
    summary = summarise(made)
    return {f"{name}_{end}": value for name in COMPARED for end, value in summary[name].items() if end in _ENDS}


def _ece(made: pd.DataFrame) -> float:
    return calibration_error(made[probability_columns(made)].to_numpy(dtype=np.float64), made["truth"].to_numpy())


def _differences(own: pd.DataFrame, others: pd.DataFrame, *, same: bool) -> dict[str, float]:
    """Compare a method with the reference on the rows that both could take."""
    key = ["repeat", "observation"]
    shared = own[key].merge(others[key], on=key)
    result: dict[str, float] = {"n_shared": len(shared)}
    if same or shared.empty:
        names = ("difference", "difference_low", "difference_high", "p")
        return result | {f"{metric}_{name}": np.nan for metric in TESTED for name in names}
    ours, reference = (table.merge(shared, on=key) for table in (own, others))
    for metric in TESTED:
        difference = paired_difference(ours, reference, metric)
        result |= {f"{metric}_difference": difference["difference"], f"{metric}_difference_low": difference["low"]}
        result |= {f"{metric}_difference_high": difference["high"], f"{metric}_p": difference["p"]}
    return result


def _note(row: dict[str, Any], reference: str, reason: str, *, repeats: int) -> str:
    """Say what is missing from a row."""
    if row["n"] == 0:
        return f"no predictions: {reason}" if reason else "no predictions"
    notes = [reason] if reason else []
    if row["repeats"] < repeats:
        notes.append(f"predictions of {row['repeats']} of {repeats} repeats")
    if missing := row["n_asked"] - row["n"]:
        notes.append(f"{missing} of {row['n_asked']} test predictions could not be made")
    if row["method"] != reference and row["n_shared"] == 0:
        notes.append(f"no test prediction in common with {reference}")
    return "; ".join(notes)


def _pairs(predictions: pd.DataFrame, more: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield every scenario and method, scenarios together, both in the order in which they first appear."""
    given = predictions[["scenario", "method"]].drop_duplicates().itertuples(index=False, name=None)
    pairs = list(dict.fromkeys([*given, *more]))
    for scenario in dict.fromkeys(scenario for scenario, _ in pairs):
        yield from (pair for pair in pairs if pair[0] == scenario)


def _costs(costs: pd.DataFrame | None) -> dict[tuple[str, str], dict[str, float]]:
    if costs is None:
        return {}
    missing = [name for name in ("scenario", "method", *COSTS) if name not in costs.columns]
    if missing:
        raise ValueError(f"costs lack the column(s) {', '.join(missing)}; found {list(costs.columns)}")
    twice = costs[costs.duplicated(["scenario", "method"])]
    if len(twice):
        raise ValueError(f"costs have two rows for {twice['method'].iloc[0]!r} in {twice['scenario'].iloc[0]!r}")
    return {
        (row["scenario"], row["method"]): {name: float(row[name]) for name in COSTS} for row in costs.to_dict("records")
    }


def _check(predictions: pd.DataFrame) -> None:
    """Refuse a table that cannot be compared, naming scenario, method and row."""
    missing = [name for name in _KEYS if name not in predictions.columns]
    if missing:
        raise ValueError(f"predictions lack the column(s) {', '.join(missing)}; found {list(predictions.columns)}")
    twice = predictions[predictions.duplicated(["scenario", "method", "repeat", "observation"])]
    if len(twice):
        raise ValueError(f"{_row_name(twice.iloc[0])} is predicted twice")
    empty = predictions[probability_columns(predictions)].isna()
    partly = predictions[empty.any(axis=1) & ~empty.all(axis=1)]
    if len(partly):
        raise ValueError(f"{_row_name(partly.iloc[0])} has some probabilities and lacks others; give all or none")
    for column in ("subject", "truth"):
        values = predictions.groupby(["scenario", "repeat", "observation"])[column].transform("nunique")
        if (values > 1).any():
            raise ValueError(f"{_row_name(predictions[values > 1].iloc[0])} has another {column} in another method")


def _row_name(row: pd.Series) -> str:
    return f"{row['scenario']}, {row['method']}: repeat {row['repeat']}, observation {row['observation']!r}"
