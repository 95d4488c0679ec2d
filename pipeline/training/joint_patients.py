"""Patients of a repeat as the joint model takes them: mean feature maps by modality, covariates as numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from cohort.covariates import Encoder, as_numbers, fit_encoder, kinds_of
from cohort.splits import natural_order
from models.joint.blocks import FloatArray
from models.joint.model import JointModel, Patients
from models.joint.sessions import one_session_each
from pipeline.training.feature_maps import FeatureMaps
from pipeline.training.repeat_data import RepeatData

MOST_DECIMALS = 6  # of drawn covariates
CHUNK = 128  # patients whose feature maps are loaded at once, where they need not all be there together


@dataclass(frozen=True)
class Part:
    """Some observations of a repeat.

    Attributes:
        observations: names; the order of all rows.
        labels: class index of each row, (n,).
        patients: features by modality, rows of NaN where there is no scan, and covariates.
    """

    observations: tuple[str, ...]
    labels: NDArray[np.int64]
    patients: Patients


@dataclass(frozen=True)
class CovariateBlocks:
    """Covariates as blocks of numbers, with all that is learnt taken from training rows.

    A number is standardised. A category is one column for each value of training but the first. A missing value, or
    one that training does not have, makes the block missing.

    Attributes:
        encoder: means, spreads and categories.
    """

    encoder: Encoder

    @classmethod
    def fit(cls, train: pd.DataFrame, everybody: pd.DataFrame) -> Self:
        """Learn from training rows; the kind of a column is that of the whole table."""
        encoder = fit_encoder(train, kinds_of(everybody))
        values = {name: tuple(v for v in values if v) for name, values in encoder.values.items()}
        return cls(Encoder(encoder.scales, {name: v for name, v in values.items() if len(v) > 1}))

    def blocks(self, table: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
        """Return covariate → (n, k), rows of NaN where it is missing, for all if the table has no such column."""
        table = table.reindex(columns=[*self.encoder.scales, *self.encoder.values], fill_value="")
        found: dict[str, NDArray[np.float64]] = {}
        for name, (mean, spread) in self.encoder.scales.items():
            found[name] = ((as_numbers(table[name]).to_numpy() - mean) / spread)[:, None]
        for name, values in self.encoder.values.items():
            cells = table[name].to_numpy()
            known = np.isin(cells, values)
            columns = np.stack([cells == value for value in values[1:]], axis=1).astype(np.float64)
            found[name] = np.where(known[:, None], columns, np.nan)
        return found

    def cells(self, name: str, numbers: NDArray[np.float64], train: pd.Series) -> list[str]:
        """Return the cells that drawn numbers of a covariate stand for: a number, or the nearest category.

        Args:
            name: of the covariate.
            numbers: standardised, (n, k).
            train: its cells of training; a number has no more decimals than these, at most six, and is in their range.
        """
        if name in self.encoder.scales:
            mean, spread = self.encoder.scales[name]
            given = as_numbers(train).dropna()
            places = min(max(map(_decimals, given)), MOST_DECIMALS)
            values = np.clip(mean + spread * numbers[:, 0], given.min(), given.max())
            return [f"{value:.{places}f}" for value in np.round(values, places) + 0.0]  # + 0.0: no -0
        of_first = 1 - numbers.sum(axis=1, keepdims=True)
        nearest = np.concatenate([of_first, numbers], axis=1).argmax(axis=1)
        return [self.encoder.values[name][i] for i in nearest]

    def only(self, names: Sequence[str]) -> Self:
        """Return the blocks of some covariates."""
        encoder = self.encoder
        scales = {name: each for name, each in encoder.scales.items() if name in names}
        return type(self)(Encoder(scales, {name: each for name, each in encoder.values.items() if name in names}))

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for `from_json`."""
        return asdict(self.encoder)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the blocks of `to_json`."""
        scales = {name: (float(mean), float(spread)) for name, (mean, spread) in values["scales"].items()}
        return cls(Encoder(scales, {name: tuple(each) for name, each in values["values"].items()}))


def _decimals(value: float) -> int:
    """Return how many decimals it takes to write a number."""
    exponent = Decimal(repr(value)).normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def joint_patients(
    observations: Sequence[str],
    data: RepeatData,
    maps: FeatureMaps,
    covariates: CovariateBlocks | None,
    table: pd.DataFrame,
) -> Patients:
    """Return some observations; several scans of one modality are averaged.

    Args:
        observations: names, in the order of the rows.
        data: the repeat's scans; what is not in it is missing.
        maps: feature maps of these scans.
        covariates: how they are coded; None for none.
        table: covariates of all observations, text, as `cohort.covariates.covariates_of` returns it.
    """
    number = {name: i for i, name in enumerate(observations)}
    scans = data.scans[data.scans["observation"].isin(number)]
    features = {}
    width: int | None = None
    for modality in data.modalities:
        rows = scans[scans["modality"] == modality]
        if rows.empty:
            continue
        owner = torch.tensor([number[name] for name in rows["observation"]])
        loaded = maps.load(rows["scan"].to_list()).flatten(1).float()
        width = loaded.shape[1]
        total = torch.zeros(len(number), width).index_add_(0, owner, loaded)
        count = torch.bincount(owner, minlength=len(number))
        features[modality] = (total / count[:, None]).numpy()  # 0 / 0 is NaN: missing
    absent = np.full((len(number), width or 1), np.nan, dtype=np.float32)
    features |= {modality: absent for modality in data.modalities if modality not in features}
    given = covariates.blocks(table.reindex(observations).fillna("")) if covariates is not None else {}
    return Patients(features, given)


def part_of_repeat(
    data: RepeatData, maps: FeatureMaps, splits: Sequence[str], covariates: CovariateBlocks | None, table: pd.DataFrame
) -> Part:
    """Return the observations of some splits, sorted, as `joint_patients` does."""
    rows = observation_table(data)
    return part_of(rows.index[rows["split"].isin(splits)].to_list(), data, maps, covariates, table)


def part_of(
    observations: Sequence[str],
    data: RepeatData,
    maps: FeatureMaps,
    covariates: CovariateBlocks | None,
    table: pd.DataFrame,
) -> Part:
    """Return some observations with their classes; arguments as for `joint_patients`."""
    label = observation_table(data)["label"]
    labels = np.array([data.classes.index(label[name]) for name in observations], dtype=np.int64)
    return Part(tuple(observations), labels, joint_patients(observations, data, maps, covariates, table))


def learnt_from(data: RepeatData) -> list[str]:
    """Return the training observations that a joint model learns from, sorted: one of each patient.

    It is that with the most modalities, of those the latest.
    """
    scans = data.scans[data.scans["split"] == "train"]
    rows = scans.groupby("observation").agg({"subject": "first", "session": "first", "modality": "nunique"})
    modalities = rows["modality"].to_numpy(dtype=np.int64)
    chosen = one_session_each(rows["subject"].to_list(), modalities, session_order(rows["session"]))
    return rows.index[chosen].to_list()


def session_order(sessions: pd.Series) -> NDArray[np.int64]:
    """Return a number for each session, (n,): they ascend in natural order, in which ses-10 is after ses-2."""
    names = sorted(set(sessions), key=lambda name: (natural_order(name), name))
    return sessions.map({name: number for number, name in enumerate(names)}).to_numpy(dtype=np.int64)


def notes_on_sessions(data: RepeatData) -> list[str]:
    """Return what to say of training patients with several sessions; nothing if there are none."""
    scans = data.scans[data.scans["split"] == "train"]
    several = int((scans.groupby("subject")["observation"].nunique() > 1).sum())
    if not several:
        return []
    return [
        f"{several} training patients have several sessions; the joint model learnt from one of each, that with the "
        "most modalities, of those the latest"
    ]


def scores_of(
    model: JointModel, patients: Patients, names: Sequence[str], training: Mapping[str, FloatArray]
) -> FloatArray:
    """Return scores of observations, (n, d); those of training as they were learnt from, or they would lie too far out.

    Args:
        model: of the repeat.
        patients: the observations.
        names: of the observations.
        training: observation → scores, as `pipeline.store.joint.JointSet.training_scores` returns them.
    """
    scores = model.scores(patients)
    for row, name in enumerate(names):
        scores[row] = training.get(name, scores[row])
    return scores


def chunks(names: Sequence[str]) -> list[list[str]]:
    """Return names in parts of `CHUNK`."""
    return [list(names[i : i + CHUNK]) for i in range(0, len(names), CHUNK)]


def observation_table(data: RepeatData, model: JointModel | None = None) -> pd.DataFrame:
    """Return one row an observation of a repeat: subject, split, label, has; sorted by its name, which is the index.

    Args:
        data: of the repeat.
        model: if given, only modalities that it has learnt are named in `has`.
    """
    scans = data.scans
    rows = scans.drop_duplicates("observation").set_index("observation")[["subject", "split", "label"]].sort_index()
    named = scans if model is None else scans[scans["modality"].isin(list(model.bases))]
    has = named.groupby("observation")["modality"].agg(lambda names: "+".join(sorted(set(names))))
    return rows.assign(has=has.reindex(rows.index).fillna(""))
