"""One joint model of all modalities for each repeat, learnt from its training patients, and everybody's embedding."""

import itertools
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from cohort.covariates import covariates_of
from cohort.origin import real_only
from console.errors import InputError, nothing_changed_yet
from models.joint.basis import NoVariationError
from models.joint.blocks import FloatArray
from models.joint.decoder import Decoder, fit_decoder
from models.joint.diffusion import DiffusionConfig
from models.joint.diffusion_fit import held_out_loss
from models.joint.diffusion_model import DiffusionModel
from models.joint.gaussian import TooFewPatientsError
from models.joint.model import CannotJoinError, JointModel, Patients, fit_model
from models.joint.model import JointConfig as ModelConfig
from models.settings import seed_of_repeat
from pipeline.core.progress import Progress
from pipeline.core.runtime import Runtime
from pipeline.federation.plan import encoder_of, plan_of
from pipeline.federation.received import check_received, model_of_repeat
from pipeline.specs.contribute import ContributeConfig
from pipeline.specs.features import FeaturesConfig
from pipeline.specs.joint import JointConfig
from pipeline.specs.preprocess import PreprocessConfig
from pipeline.store.contribution import ContributionSet
from pipeline.store.features import FeatureStore
from pipeline.store.joint import JointSet
from pipeline.store.tables import CohortTables, SplitTables
from pipeline.store.volumes import VolumeSet
from pipeline.training.diffusion import diffusion_engine
from pipeline.training.feature_maps import FeatureMaps, encoding_notes, feature_maps_of
from pipeline.training.grid_images import GridImages
from pipeline.training.joint_patients import (
    CovariateBlocks,
    Part,
    chunks,
    joint_patients,
    learnt_from,
    notes_on_sessions,
    observation_table,
    part_of_repeat,
    scores_of,
)
from pipeline.training.repeat_data import RepeatData, data_of_repeat, repeats_of, without_synthetic
from reporting.formatting import count


def joint(
    cohort: CohortTables,
    split: SplitTables,
    preprocess: VolumeSet,
    features: FeatureStore,
    contribute: ContributionSet,
    modalities: Any,
    preprocess_settings: PreprocessConfig,
    features_settings: FeaturesConfig,
    out: JointSet,
    config: JointConfig,
    runtime: Runtime,
) -> None:
    """Fit one model per repeat on real training patients alone; write it, and the embedding of all real ones.

    A patient counts once: of several sessions one is learnt from. All are placed.

    With `joint.federated` nothing is fitted: the model of several sites is written in its place.
    """
    repeats = repeats_of(split)
    received = {}
    if config.federated:
        with nothing_changed_yet():
            for repeat in repeats:
                data = without_synthetic(data_of_repeat(cohort, split, features, repeat), cohort)
                shape = features_shape(feature_maps_of(data, features))
                own = (modalities, preprocess_settings, features_settings)
                received[repeat] = _received(data, shape, contribute, split, own, config, repeat)
    out.keep_only(repeats)
    covariates = covariates_of(real_only(cohort.scans()))
    kinds = cohort.scans().drop_duplicates("modality").set_index("modality")["kind"].to_dict()
    images = None if config.decoder == "none" else GridImages(preprocess, kinds, config.spacing_mm, config.pixels)
    tables = []
    training = config.diffusion.steps if config.engine == "diffusion" else 0
    with runtime.progress((2 + training) * len(repeats), "step") as progress:
        for repeat in repeats:
            data = without_synthetic(data_of_repeat(cohort, split, features, repeat), cohort)
            maps = feature_maps_of(data, features)
            if not out.has(repeat, runtime.key):
                if config.federated:
                    model, record = received[repeat]
                    out.save_model(repeat, runtime.key, model, np.empty((0, model.blocks.width)), {}, record)
                else:
                    _fit(data, maps, covariates, images, out, config, runtime, repeat, progress)
            elif training:
                progress.advance(training)
            progress.advance()
            tables.append(_embeddings(data, maps, covariates, out, repeat, runtime.device))
            progress.advance()
            runtime.notes += [f"repeat {repeat}: {note}" for note in (out.record(repeat) or {}).get("notes", ())]
    table = pd.concat(tables, ignore_index=True)
    out.save_table("embeddings.csv", table)
    runtime.results |= {"counts": {"repeats": len(repeats), "patients": table["observation"].nunique()}}


def _fit(
    data: RepeatData,
    maps: FeatureMaps,
    covariates: pd.DataFrame,
    images: GridImages | None,
    out: JointSet,
    config: JointConfig,
    runtime: Runtime,
    repeat: int,
    progress: Progress,
) -> None:
    rows, train = observation_table(data), learnt_from(data)
    if not train:
        raise InputError(f"repeat {repeat} has no training scan left; see failures.csv and split/splits.csv")
    blocks = None
    if config.covariates and len(covariates.columns):
        known = covariates.reindex(rows.index).fillna("")
        blocks = CovariateBlocks.fit(known.loc[train], covariates)
    patients = joint_patients(train, data, maps, blocks, covariates)
    labels = np.array([data.classes.index(label) for label in rows.loc[train, "label"]], dtype=np.int64)
    settings = ModelConfig(
        config.basis, config.components, config.draws, config.factors, seed_of_repeat(config.seed, repeat)
    )
    image = features_shape(maps)
    try:
        model, scores = fit_model(patients, labels, len(data.classes), settings, shape=image)
    except CannotJoinError as error:
        raise InputError(f"repeat {repeat}: {error}") from error
    if model.blocks.width == 1:
        raise InputError(
            f"repeat {repeat}: {len(train)} training patients give one score in all, and a map has two directions; "
            "add patients, modalities or covariates"
        )
    if config.engine == "diffusion":
        model = diffusion_engine(
            model, scores, labels, DiffusionConfig(**config.diffusion.model_dump(), seed=settings.seed),
            device=runtime.device, progress=progress,
            state=partial(out.engine, repeat), keep=partial(out.save_engine, repeat),
        )  # fmt: skip
    averaged = data.scans[data.scans["observation"].isin(train)].groupby(["observation", "modality"]).size()
    notes = [*encoding_notes(data), *model.notes, *notes_on_sessions(data)]
    if isinstance(model, DiffusionModel):
        notes.append(_held_out(model, part_of_repeat(data, maps, ["validation"], blocks, covariates)))
    if (averaged > 1).any():
        notes.append(
            "several scans of one modality are averaged before the joint model sees them (times in training: "
            f"{(averaged > 1).sum()})"
        )
    decoders: dict[str, Decoder] = {}
    if images is not None:
        decoders, more = decoders_of(data, model, scores, tuple(train), labels, images, settings)
        notes += more
    out.save_model(
        repeat,
        runtime.key,
        model,
        scores,
        decoders,
        {
            "train_observations": train,
            "train_subjects": data.subjects("train"),
            "validation_subjects": data.subjects("validation"),
            "classes": data.classes,
            "patients": dict(zip(model.blocks.names, model.sums.with_block().T.tolist(), strict=True)),
            "feature_map_shape": list(image),
            "covariates": blocks.to_json() if blocks else None,
            "grid": {"spacing_mm": config.spacing_mm, "pixels": config.pixels},
            "notes": notes,
        },
    )
    out.drop_engine(repeat)


def _held_out(model: DiffusionModel, validation: Part) -> str:
    """Say how well the network guesses what is hidden of validation patients."""
    rows = model.scores(validation.patients)
    known = ~np.isnan(rows).all(axis=1)
    if not known.any():
        return "there are no validation patients to tell how much the diffusion engine has learnt"
    loss = held_out_loss(model.engine, rows[known], validation.labels[known])
    return (
        f"diffusion engine: loss of {known.sum()} validation patients after {model.engine.config.steps} steps "
        f"{loss:.3f}; a network that says nothing has 1"
    )


def decoders_of(
    data: RepeatData,
    model: JointModel,
    scores: FloatArray,
    train: tuple[str, ...],
    labels: NDArray[np.int64],
    images: GridImages,
    settings: ModelConfig,
) -> tuple[dict[str, Decoder], list[str]]:
    """Return the decoder of each modality with images, and notes on those that could not be learnt.

    Args:
        data: of the repeat.
        model: fitted.
        scores: that it was learnt from, (n, d).
        train: observations of these, (n,).
        labels: their classes, (n,).
        images: reads their scans.
        settings: of the model.
    """
    found, notes = {}, []
    for modality in model.bases:
        if images.kinds[modality] == "table":
            continue
        rows = images.of(data, train, only=modality)[modality]
        there = ~np.isnan(rows[:, 0])
        part = scores[there][:, model.blocks.slice_of(modality)]
        try:
            found[modality] = fit_decoder(part, rows[there], labels[there], len(data.classes), settings)
        except (NoVariationError, TooFewPatientsError) as error:
            notes.append(f"{modality}: no decoder to images could be learnt ({error})")
    return found, notes


def _received(
    data: RepeatData,
    shape: tuple[int, int, int],
    contribute: ContributionSet,
    split: SplitTables,
    settings: tuple[Any, PreprocessConfig, FeaturesConfig],
    config: JointConfig,
    repeat: int,
) -> tuple[JointModel, dict[str, Any]]:
    """Return the model of several sites for this repeat, and its record.

    Raises:
        InputError: it was made with other settings, from patients tested here, or without a class of patients here.
    """
    model, facts = model_of_repeat(config.federated, repeat)
    described = facts["plan"]
    as_described = ContributeConfig(
        components=described["basis"]["components"],
        covariates=described["covariates"],
        feature_maps=described["feature_maps"],
    )
    own = plan_of(as_described, described["classes"], *settings, shape)
    notes = check_received(facts, own, contribute, split, repeat)
    classes = described["classes"]
    if unknown := sorted(set(data.scans["label"]) - set(classes)):
        raise InputError(f"the joint model knows {', '.join(classes)}; patients here are {', '.join(unknown)} too")
    sites = len(facts["contributions"])
    return model, {
        "train_observations": [],
        "train_subjects": data.subjects("train"),
        "validation_subjects": data.subjects("validation"),
        "classes": classes,
        "feature_map_shape": list(shape),
        "covariates": encoder_of(described).to_json(),
        "grid": {"spacing_mm": config.spacing_mm, "pixels": config.pixels},
        "federated": {name: facts[name] for name in ("contributions", "masked", "noise")},
        "feature_maps": described["feature_maps"],
        "notes": [
            *encoding_notes(data), f"the joint model is of {count(sites, 'contribution')}", *facts["notes"], *notes
        ],
    }  # fmt: skip


def features_shape(maps: FeatureMaps) -> tuple[int, int, int]:
    """Return (C, H, W) of the feature maps."""
    return maps.shape if maps.shape is not None else maps.store.feature_map_shape()


def _embeddings(
    data: RepeatData, maps: FeatureMaps, covariates: pd.DataFrame, out: JointSet, repeat: int, device: torch.device
) -> pd.DataFrame:
    """Return the rows of one repeat; classes are not used, those of training patients neither."""
    model, own = out.model(repeat).on(device), out.training_scores(repeat)
    coded = (out.record(repeat) or {}).get("covariates")
    blocks = CovariateBlocks.from_json(coded) if coded else None
    rows = observation_table(data, model)
    frames = []
    for names in chunks(rows.index.to_list()):
        patients = joint_patients(names, data, maps, blocks, covariates)
        scores = scores_of(model, patients, names, own)
        mean, covariance = model.embed_scores(scores)
        frame = rows.loc[names].reset_index().assign(distance=model.distances_of_scores(scores))
        outside = np.stack([_outside(model, patients, name) for name in model.bases])
        seen = ~np.isnan(outside)
        frame["outside"] = np.where(seen.any(0), np.where(seen, outside, 0).sum(0) / np.maximum(seen.sum(0), 1), np.nan)
        size = mean.shape[1]
        frame = frame.assign(**{f"e{i + 1}": mean[:, i] for i in range(size)})
        frame = frame.assign(**{f"sd{i + 1}": np.sqrt(covariance[:, i, i]) for i in range(size)})
        pairs = itertools.combinations(range(size), 2)
        frames.append(frame.assign(**{f"cov_{i + 1}_{j + 1}": covariance[:, i, j] for i, j in pairs}))
    table = pd.concat(frames, ignore_index=True)
    table.insert(0, "repeat", repeat)
    return table


def _outside(model: JointModel, patients: Patients, name: str) -> np.ndarray:
    """Return how much of each scan lies outside of its basis, (n,); NaN where there is none, or it is not known."""
    out, basis = np.full(len(patients), np.nan), model.bases[name]
    there = patients.has(name)
    if there.any() and basis.residual.any():
        out[there] = basis.outside(patients.features[name][there])
    return out
