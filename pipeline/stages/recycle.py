"""A label-efficiency curve: real patients alone, with synthetic ones, with rivals, and with a pretrained φ."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from cohort.origin import synthetic_subjects
from console.errors import PreconditionError
from evaluation.comparison import holm
from evaluation.intervals import paired_difference, summarise
from models.extractor import UniversalExtractor
from models.joint.basis import NoVariationError, fit_basis
from models.joint.gaussian import TooFewPatientsError
from models.joint.model import CannotJoinError, JointConfig, Patients, fit_model
from models.masked import MaskedNetwork, MaskedSets, pretrain_masked
from models.settings import Training, seed_of_repeat
from pipeline.core.runtime import Runtime
from pipeline.specs.recycle import RecycleConfig
from pipeline.stages.joint import features_shape
from pipeline.store.features import FeatureStore
from pipeline.store.recycle import RecycleTables
from pipeline.store.tables import CohortTables, SplitTables
from pipeline.training.feature_maps import feature_maps_of
from pipeline.training.joint_patients import Part, observation_table, part_of_repeat
from pipeline.training.repeat_data import data_of_repeat, repeats_of
from synthesis.recycling import (
    Modalities,
    classify,
    design,
    labelled,
    mixed,
    noisy,
    scale_of,
    strength_of,
    synthetic,
)

REAL, SYNTHETIC, NOISE, MIXUP, MASKED = (
    "real only", "synthetic", "noise of the same covariance", "mixup within classes", "masked pretraining",
)  # fmt: skip
RIVALS = {NOISE: noisy, MIXUP: mixed}
DRAWS = 10  # of the parameters of the joint model
HIDDEN_SCORES = 8  # of a hidden modality, predicted in masked pretraining
Made = tuple[NDArray[np.float64], NDArray[np.int64]]
GAIN, NO_GAIN, HARM = "gain", "no gain", "harm"


def recycle(
    cohort: CohortTables,
    split: SplitTables,
    features: FeatureStore,
    out: RecycleTables,
    config: RecycleConfig,
    runtime: Runtime,
) -> None:
    """Write the curve; nobody but real test patients is tested on, and choices are made on labelled training patients.

    Raises:
        PreconditionError: synthetic patients are in training, and a later generation was not asked for; or there are
            not two classes.
    """
    generation = 2 if synthetic_subjects(cohort.scans()) else 1
    if generation > config.generation:
        raise PreconditionError(
            "the manifest has synthetic patients, so what is drawn from them is of generation 2, and errors of the "
            "first would be learnt as if they were patients. Take them out, or type --recycle.generation 2"
        )
    classes = len(cohort.classes())
    if classes < 2:
        raise PreconditionError("there is one class; a curve needs two or more")
    repeats, rows = repeats_of(split), []
    with runtime.progress(len(repeats) * len(config.labelled), "point") as progress:
        for repeat in repeats:
            data = data_of_repeat(cohort, split, features, repeat)
            maps = feature_maps_of(data, features)
            table = pd.DataFrame(index=observation_table(data).index)
            shape = features_shape(maps)
            parts = {name: part_of_repeat(data, maps, [name], None, table) for name in ("train", "validation", "test")}
            about = observation_table(data)
            subjects = about.loc[list(parts["test"].observations), "subject"].to_list()
            for share in config.labelled:
                for way, rho, chance, count in _ways(parts, shape, share, config, repeat, classes, runtime):
                    frame = pd.DataFrame(
                        {"labelled": share, "way": way, "rho": rho, "repeat": repeat, "subject": subjects,
                         "observation": parts["test"].observations, "truth": parts["test"].labels, "patients": count}
                    )  # fmt: skip
                    rows.append(frame.assign(**{f"p_{k}": chance[:, k] for k in range(classes)}))
                progress.advance()
    predictions = pd.concat(rows, ignore_index=True)
    curve = curve_of(predictions, len(repeats))
    out.save(curve, predictions, {"generation": generation, "repeats": len(repeats), "rho": list(config.rho)})
    gains = curve[curve["says"] == GAIN]
    named = sorted({f"{row['way']} at {row['labelled']:.0%} of the labels" for row in gains.to_dict("records")})
    none = "no gain: no way of making more patients is better than real patients alone, beyond chance"
    runtime.note(f"gain: {'; '.join(named)}" if named else none)


def _ways(
    parts: dict[str, Part],
    shape: tuple[int, int, int],
    share: float,
    config: RecycleConfig,
    repeat: int,
    classes: int,
    runtime: Runtime,
) -> Iterator[tuple[str, float, NDArray[np.float64], int]]:
    """Yield way, ρ, probabilities of test patients and labelled patients, for one share of the labels."""
    seed = seed_of_repeat(config.seed, repeat)
    train, everybody = parts["train"], {name: _means(part, shape) for name, part in parts.items()}
    chosen = labelled(train.labels, share, seed)
    labels = train.labels[chosen]
    if len(np.unique(labels)) < 2:
        raise PreconditionError(f"repeat {repeat}: training patients of one class alone; a curve needs two")
    real = {name: rows[chosen] for name, rows in everybody["train"].items()}
    scale = scale_of(real)
    columns, tested = design(real, scale), design(everybody["test"], scale)
    strength = strength_of(columns, labels, seed)

    def answers(
        rows: NDArray[np.float64], tested: NDArray[np.float64], added: Made | None = None, rho: float = 0.0
    ) -> NDArray[np.float64]:
        return classify((rows, labels), added, tested, share=rho, strength=strength, classes=classes)

    yield REAL, 0.0, answers(columns, tested), len(chosen)
    made: dict[str, tuple[Modalities, NDArray[np.int64]]] = {
        way: maker(real, labels, config.patients, seed) for way, maker in RIVALS.items()
    }
    try:
        model, _ = fit_model(
            Patients(real, {}), labels, classes, JointConfig(components=config.components, draws=DRAWS, seed=seed)
        )
        made = {SYNTHETIC: synthetic(model, real, labels, config.patients, seed), **made}
    except (CannotJoinError, TooFewPatientsError) as error:
        runtime.notes.append(f"repeat {repeat}, {share:.0%} of the labels: nobody can be drawn: {error}")
    for way, (rows, of) in made.items():
        for rho in config.rho:
            yield way, rho, answers(columns, tested, (design(rows, scale), of), rho), len(chosen)
    codes = _masked(everybody, made.get(SYNTHETIC, (None, None))[0], config, seed)
    if codes is None:
        runtime.notes.append(f"repeat {repeat}: no two modalities together, so there is nothing to hide in pretraining")
        return
    inside = scale_of({"φ": codes["train"][chosen]})
    columns, tested = (design({"φ": rows}, inside) for rows in (codes["train"][chosen], codes["test"]))
    strength = strength_of(columns, labels, seed)
    yield MASKED, 0.0, answers(columns, tested), len(chosen)


def _means(part: Part, shape: tuple[int, int, int]) -> dict[str, NDArray[np.float32]]:
    """Return modality → channel means of feature maps, (n, C), rows of NaN where it is missing."""
    found = {}
    for name, rows in part.patients.features.items():
        missing = np.isnan(rows[:, 0])
        means = np.full((len(rows), shape[0]), np.nan, dtype=np.float32)
        means[~missing] = rows[~missing].reshape(-1, *shape).mean(axis=(2, 3))
        found[name] = means
    return found


def _masked(
    everybody: dict[str, dict[str, NDArray[np.float32]]],
    drawn: Modalities | None,
    config: RecycleConfig,
    seed: int,
) -> dict[str, NDArray[np.float32]] | None:
    """Pretrain φ on all training patients without their labels, and on synthetic ones; return codes by part.

    None if nobody has two modalities.
    """
    names = tuple(everybody["train"])
    bases = {}
    for name in names:
        rows = everybody["train"][name]
        try:
            bases[name] = fit_basis(rows[~np.isnan(rows[:, 0])], most=HIDDEN_SCORES, seed=seed)[0]
        except (NoVariationError, ValueError):
            continue
    parts = [everybody["train"], everybody["validation"], *([drawn] if drawn is not None else [])]
    stacked = {name: np.concatenate([part[name] for part in parts]) for name in names}
    has = np.stack([~np.isnan(stacked[name][:, 0]) & (name in bases) for name in names], axis=1)
    real, held = len(next(iter(everybody["train"].values()))), len(next(iter(everybody["validation"].values())))
    train = np.concatenate([np.arange(real), np.arange(real + held, len(has))])
    if not (has[train].sum(axis=1) >= 2).any():
        return None
    most = max(basis.size for basis in bases.values())
    scores = np.zeros((*has.shape, most), dtype=np.float32)
    for m, name in enumerate(names):
        if name in bases:
            scores[has[:, m], m, : bases[name].size] = bases[name].scores(stacked[name][has[:, m]])
    maps = np.nan_to_num(np.stack([stacked[name] for name in names], axis=1))
    sets = MaskedSets(
        torch.from_numpy(maps)[..., None, None], torch.from_numpy(has), torch.from_numpy(scores),
        torch.from_numpy(train), torch.arange(real, real + held),
    )  # fmt: skip
    torch.manual_seed(seed)
    network = MaskedNetwork(UniversalExtractor(len(names), (maps.shape[2], 1, 1)), len(names), most)
    training = Training(config.epochs, config.batch_size, config.learning_rate, seed=seed)
    pretrain_masked(network, sets, training)
    found = {}
    with torch.inference_mode():
        for side in ("train", "test"):
            given = everybody[side]
            there = np.stack([~np.isnan(given[name][:, 0]) for name in names], axis=1)
            z = torch.from_numpy(np.nan_to_num(np.stack([given[name] for name in names], axis=1)))[..., None, None]
            found[side] = network.codes(z, torch.from_numpy(there)).numpy()
    return found


def curve_of(predictions: pd.DataFrame, repeats: int) -> pd.DataFrame:
    """Return the curve: AUC of each way, and its difference to real patients alone, with intervals.

    A way that was not possible in some repeat has no point. Holm's correction is over all differences.
    """
    rows: list[dict[str, Any]] = []
    for (share, way, rho), some in predictions.groupby(["labelled", "way", "rho"], sort=True):
        if some["repeat"].nunique() < repeats:
            continue
        auc = summarise(some)["auc"]
        row: dict[str, Any] = {
            "labelled": share, "way": way, "rho": rho, "patients": some.groupby("repeat")["patients"].first().mean(),
            "auc": auc["mean"], "auc_low": auc["low"], "auc_high": auc["high"],
        }  # fmt: skip
        if way != REAL:
            base = predictions[(predictions["labelled"] == share) & (predictions["way"] == REAL)]
            change = paired_difference(some, base, "auc")
            row |= {name: change[name] for name in ("difference", "low", "high")} | {"p": change["p"]}
        rows.append(row)
    curve = pd.DataFrame(rows, columns=list(RecycleTables.CURVE))
    curve["p_holm"] = holm(curve["p"].to_numpy(dtype=float))
    curve["says"] = [_says(row) for row in curve.to_dict("records")]
    return curve


def _says(row: dict[str, Any]) -> str:
    """Return gain, harm or no gain: as the interval and the corrected p say."""
    if row["way"] == REAL:
        return ""
    if not np.isfinite(row["low"]) or row["low"] <= 0 <= row["high"] or not row["p_holm"] < 0.05:
        return NO_GAIN
    return GAIN if row["low"] > 0 else HARM
