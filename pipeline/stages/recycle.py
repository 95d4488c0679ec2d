"""A label-efficiency curve: real patients alone, with synthetic ones, with rivals, and with a pretrained φ."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cohort.origin import synthetic_subjects
from console.errors import PreconditionError
from evaluation.comparison import holm
from evaluation.intervals import paired_difference, summarise
from models.joint.gaussian import TooFewPatientsError
from models.joint.model import CannotJoinError, JointConfig, Patients, fit_model
from models.settings import Training, seed_of_repeat
from pipeline.core.runtime import Runtime
from pipeline.specs.recycle import RecycleConfig
from pipeline.stages.joint import features_shape
from pipeline.store.features import FeatureStore
from pipeline.store.recycle import RecycleTables
from pipeline.store.tables import CohortTables, SplitTables
from pipeline.training.feature_maps import feature_maps_of
from pipeline.training.joint_patients import Part, learnt_from, observation_table, part_of_repeat
from pipeline.training.repeat_data import data_of_repeat, repeats_of, without_synthetic
from synthesis.masked_codes import masked_codes
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

REAL, SYNTHETIC, NOISE, MIXUP, UNTRAINED, MASKED, MASKED_MORE = (
    "real only", "synthetic", "noise of the same covariance", "mixup within classes", "φ, not pretrained",
    "masked pretraining", "masked pretraining, synthetic sets too",
)  # fmt: skip
RIVALS = {NOISE: noisy, MIXUP: mixed}
PHI = "φ"
DRAWS = 10  # of the parameters of the joint model
Drawn = tuple[Modalities, NDArray[np.int64]]  # patients that were made up, and their classes
TOO_GOOD = (
    "the synthetic patients of the manifest were drawn from all training patients of one repeat: at small shares they "
    "know labels that were to be unknown, and in other repeats patients who are tested. What is drawn from them looks "
    "better than it is"
)
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
            world, tested = _world(cohort, split, features, config, repeat)
            if world.codes[MASKED] is None:
                runtime.notes.append(f"repeat {repeat}: nobody has two modalities, so there is nothing to hide")
            for share in config.labelled:
                for way, rho, chance, count in _ways(world, share, config, runtime):
                    frame = tested.assign(labelled=share, way=way, rho=rho, patients=count)
                    rows.append(frame.assign(**{f"p_{k}": chance[:, k] for k in range(classes)}))
                progress.advance()
    predictions = pd.concat(rows, ignore_index=True)
    curve = curve_of(predictions, len(repeats))
    out.save(curve, predictions, {"generation": generation, "repeats": len(repeats), "rho": list(config.rho)})
    gains = curve[curve["says"] == GAIN]
    if generation > 1:
        runtime.note(TOO_GOOD)
    named = sorted({f"{row['way']} at {row['labelled']:.0%} of the labels" for row in gains.to_dict("records")})
    none = "no gain: no way of making more patients is better than real patients alone, beyond chance"
    runtime.note(f"gain: {'; '.join(named)}" if named else none)


@dataclass(frozen=True)
class World:
    """A repeat: its patients as channel means of feature maps, and what does not depend on the share of labels.

    Attributes:
        patients: train, validation and test, real ones alone.
        labels: classes of training patients, (n,).
        owners: the subject of each row of training.
        once: which of these rows a joint model learns from, one of each patient, (n,).
        made_before: synthetic patients of the manifest and their classes; None for none.
        codes: way → codes of training and test patients by a φ that saw no label; None where nothing can be hidden.
        classes: their number.
        repeat: its number.
        seed: of the repeat.
    """

    patients: dict[str, dict[str, NDArray[np.float32]]]
    labels: NDArray[np.int64]
    owners: tuple[str, ...]
    once: NDArray[np.bool_]
    made_before: Drawn | None
    codes: dict[str, dict[str, NDArray[np.float32]] | None]
    classes: int
    repeat: int
    seed: int


def _ways(
    world: World, share: float, config: RecycleConfig, runtime: Runtime
) -> Iterator[tuple[str, float, NDArray[np.float64], int]]:
    """Yield way, ρ, probabilities of test patients and labelled patients, for one share of the labels."""
    chosen = labelled(world.labels, share, world.seed, world.owners)
    labels, owners = world.labels[chosen], [world.owners[i] for i in chosen]
    count = len(set(owners))
    if len(np.unique(labels)) < 2:
        raise PreconditionError(f"repeat {world.repeat}: training patients of one class alone; a curve needs two")
    real = {name: rows[chosen] for name, rows in world.patients["train"].items()}

    def answers(
        train: Modalities, tested: Modalities, made: Mapping[tuple[str, float], Drawn | None]
    ) -> Iterator[tuple[str, float, NDArray[np.float64], int]]:
        scale = scale_of(train)
        rows = design(train, scale)
        strength = strength_of(rows, labels, world.seed, owners)
        for (way, rho), drawn in made.items():
            added = None if drawn is None else (design(drawn[0], scale), drawn[1])
            chance = classify(
                (rows, labels), added, design(tested, scale), share=rho, strength=strength, classes=world.classes
            )
            yield way, rho, chance, count

    once = world.once[chosen]
    drawn = _drawn(world, {name: rows[once] for name, rows in real.items()}, labels[once], share, config, runtime)
    made = {**({} if drawn is None else {SYNTHETIC: drawn})}
    made |= {way: maker(real, labels, config.patients, world.seed) for way, maker in RIVALS.items()}
    points = {(way, rho): each for way, each in made.items() for rho in config.rho}
    yield from answers(real, world.patients["test"], {(REAL, 0.0): None, **points})
    codes = dict(world.codes)
    if drawn is not None and codes[MASKED] is not None:
        codes[MASKED_MORE] = masked_codes(world.patients, _training(config, world.seed), drawn=drawn[0])
    for way, found in codes.items():
        if found is not None:
            yield from answers({PHI: found["train"][chosen]}, {PHI: found["test"]}, {(way, 0.0): None})


def _drawn(
    world: World,
    real: Modalities,
    labels: NDArray[np.int64],
    share: float,
    config: RecycleConfig,
    runtime: Runtime,
) -> Drawn | None:
    """Draw from a joint model of the labelled patients, each once, and of those that were drawn before."""
    learnt, of = dict(real), labels
    if world.made_before is not None:
        earlier, classes = world.made_before
        learnt = {name: np.concatenate([rows, earlier[name]]) for name, rows in real.items()}
        of = np.concatenate([labels, classes])
    settings = JointConfig(components=config.components, draws=DRAWS, seed=world.seed)
    try:
        model, _ = fit_model(Patients(learnt, {}), of, world.classes, settings)
    except (CannotJoinError, TooFewPatientsError) as error:
        runtime.notes.append(f"repeat {world.repeat}, {share:.0%} of the labels: nobody can be drawn: {error}")
        return None
    return synthetic(model, learnt, of, config.patients, world.seed)


def _training(config: RecycleConfig, seed: int) -> Training:
    return Training(config.epochs, config.batch_size, config.learning_rate, seed=seed)


def _world(
    cohort: CohortTables, split: SplitTables, features: FeatureStore, config: RecycleConfig, repeat: int
) -> tuple[World, pd.DataFrame]:
    """Return a repeat, and its test patients: subject, observation, truth."""
    everybody = data_of_repeat(cohort, split, features, repeat)
    data = without_synthetic(everybody, cohort)
    maps = feature_maps_of(data, features)
    shape, about = features_shape(maps), observation_table(data)
    table = pd.DataFrame(index=about.index)
    parts = {name: part_of_repeat(data, maps, [name], None, table) for name in ("train", "validation", "test")}
    patients = {name: _means(part, shape) for name, part in parts.items()}
    earlier = None
    if len(everybody.scans) > len(data.scans):
        made = replace(everybody, scans=everybody.scans[~everybody.scans["scan"].isin(data.scans["scan"])])
        part = part_of_repeat(made, maps, ["train"], None, pd.DataFrame(index=observation_table(made).index))
        earlier = _means(part, shape), part.labels
    seed = seed_of_repeat(config.seed, repeat)
    codes = {
        way: masked_codes(patients, _training(config, seed), pretrained=way == MASKED) for way in (UNTRAINED, MASKED)
    }
    train, test = parts["train"], parts["test"]
    owners = tuple(about.loc[list(train.observations), "subject"])
    tested = pd.DataFrame(
        {"repeat": repeat, "subject": about.loc[list(test.observations), "subject"].to_list(),
         "observation": test.observations, "truth": test.labels}
    )  # fmt: skip
    once = np.isin(train.observations, learnt_from(data))
    return World(patients, train.labels, owners, once, earlier, codes, len(data.classes), repeat, seed), tested


def _means(part: Part, shape: tuple[int, int, int]) -> dict[str, NDArray[np.float32]]:
    """Return modality → channel means of feature maps, (n, C), rows of NaN where it is missing."""
    found = {}
    for name, rows in part.patients.features.items():
        missing = np.isnan(rows[:, 0])
        means = np.full((len(rows), shape[0]), np.nan, dtype=np.float32)
        means[~missing] = rows[~missing].reshape(-1, *shape).mean(axis=(2, 3))
        found[name] = means
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
