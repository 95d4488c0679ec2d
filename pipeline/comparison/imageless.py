"""Tasks of methods that see no image, and of HyperMM's probabilities on top of the covariates'."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from baselines.covariates import fit_table, fused, fusion_weight
from baselines.names import SIMPLE_NAMES, TABLE_BASELINES
from baselines.sample import CannotFit
from cohort.covariates import availability_of
from devices.threads import one_thread
from pipeline.comparison.scenarios import Scenario, Tests
from pipeline.comparison.tasks import ComparisonTasks, TaskResult, predictions_of
from pipeline.training.repeat_data import RepeatData


def imageless(
    run: ComparisonTasks,
    scenario: Scenario,
    repeat: int,
    method: str,
    data: RepeatData,
    *,
    covariates: pd.DataFrame,
    wanted: bool,
    tests: Tests = (),
) -> None:
    """Do the task of one such method, unless it is finished or not wanted.

    HyperMM has to be fitted before: its probabilities are read from its folder.

    Args:
        run: what all tasks share; the key is noted in it.
        scenario: which.
        repeat: its number.
        method: in `baselines.names.TABLE_BASELINES`.
        data: as `ComparisonTasks.left` gives it.
        covariates: text columns, one row an observation; no columns where the manifest has none.
        wanted: whether to fit it.
        tests: as in `Unit`.
    """
    everybody = data.scans.drop_duplicates("observation").set_index("observation")
    rows = _known(method, covariates, data.scans)
    hypermm = run.out.folder_of(scenario.name, SIMPLE_NAMES["hypermm"], repeat)
    images = run.keys.get(hypermm) if method == "covariates_images" else None
    if images and "reason" in (run.out.record(hypermm, images) or {"reason": "not fitted"}):
        images = None  # once it is fitted, this is done again
    key = run.key(scenario, repeat, data, method, rows.to_dict("split"), images, *([tests] if tests else []))
    name = TABLE_BASELINES[method]
    folder = run.out.folder_of(scenario.name, name, repeat)
    run.keys[folder] = key
    if not wanted or run.out.record(folder, key) is not None:
        return

    @one_thread()
    def fit() -> TaskResult:
        if covariates.columns.empty and method != "availability":
            raise CannotFit("the manifest has none of the columns of cohort.covariates")
        started = time.monotonic()
        target = np.array([data.classes.index(label) for label in everybody["label"]])
        train = (everybody["split"] == "train").to_numpy()
        fitted = fit_table(rows, target, everybody["subject"].reset_index(drop=True), train, classes=len(data.classes))
        probabilities, notes, parameters = fitted.probabilities(rows), [], fitted.parameters
        if method == "covariates_images":
            seen = _probabilities_of(run, hypermm, images, everybody.index, len(data.classes))
            held = np.flatnonzero(everybody["split"] == "validation")
            held = held[~np.isnan(seen[held]).any(axis=1)]
            weight, note = fusion_weight(probabilities[held], seen[held], target[held], fitted.prior)
            probabilities = fused(probabilities, seen, fitted.prior, weight)
            notes, parameters = [note] if note else [], parameters + 1
        tables = predictions_of(torch.from_numpy(probabilities), data, repeat)
        in_turn = []
        for reason, scans in tests:
            shown = _known(method, covariates, data.scans[~data.scans["scan"].isin(scans)], like=rows)
            predicted = fitted.probabilities(shown)
            if method == "covariates_images":
                seen = _probabilities_of(run, hypermm, images, everybody.index, len(data.classes), tested=reason)
                predicted = fused(predicted, seen, fitted.prior, weight)
            made = predictions_of(torch.from_numpy(predicted), data, repeat)["predictions.csv"]
            in_turn.append(made.assign(tested=reason))
        if in_turn:
            tables["mechanisms.csv"] = pd.concat(in_turn, ignore_index=True)
        facts = {"trained_parameters": parameters, "notes": notes}
        return tables, facts | {"classification_seconds": round(time.monotonic() - started, 3)}

    run.task(folder, key, f"{scenario.name}, {name}, repeat {repeat}", fit)


def _known(
    method: str, covariates: pd.DataFrame, scans: pd.DataFrame, like: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return what a method sees of every observation; with the columns of `like`, of which fewer scans may leave less.

    A number of scans is left out where nobody has two of a modality; then it is 1 or 0.
    """
    order = list(dict.fromkeys(scans["observation"]))
    given = [covariates.reindex(order).fillna("")] if method != "availability" else []
    given += [availability_of(scans)] if "availability" in method else []
    rows = pd.concat(given, axis=1)
    for name in [] if like is None else like.columns.difference(rows.columns):
        rows[name] = (rows[f"has {name.removeprefix('number of ')}"] == "yes").astype(int).astype(str)
    return rows if like is None else rows.loc[like.index, like.columns]


def _probabilities_of(
    run: ComparisonTasks,
    folder: Path,
    key: str | None,
    observations: pd.Index,
    classes: int,
    *,
    tested: str | None = None,
) -> NDArray[np.float64]:
    """Return the validation and test probabilities of a fitted baseline, (B, K); NaN for other observations.

    With `tested` they are the test probabilities while scans are hidden for this reason.

    Raises:
        CannotFit: it has not been fitted on these data.
    """
    record = run.out.record(folder, key) if key else None
    if record is None or "reason" in record:
        raise CannotFit("HyperMM has no predictions here; name hypermm too")
    tables = [run.out.read(folder, name) for name in ("predictions.csv", "validation.csv")]
    if not (found := [table for table in tables if table is not None]):
        raise CannotFit("HyperMM had nobody to predict")
    if tested is not None:
        table = run.out.read(folder, "mechanisms.csv")
        found = [] if table is None else [table[table["tested"] == tested]]
    made = pd.concat(found).set_index("observation")
    return made.reindex(observations)[[f"p_{k}" for k in range(classes)]].to_numpy(dtype=np.float64)
