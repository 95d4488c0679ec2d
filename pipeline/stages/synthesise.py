"""Draw synthetic patients from a joint model of training patients: labels, scans, covariates, feature maps, images."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cohort.covariates import covariates_of
from cohort.origin import NOT_JUDGED, SYNTHETIC, real_only
from console.errors import PreconditionError
from models.joint.diffusion import DiffusionConfig
from models.joint.gaussian import TooFewPatientsError
from models.joint.model import CannotJoinError, Features, JointConfig, JointModel, Patients, fit_model
from pipeline.core.runtime import Runtime
from pipeline.specs.synthesise import SynthesiseConfig
from pipeline.store.features import FeatureStore
from pipeline.store.made_images import image_file
from pipeline.store.marking import Marker
from pipeline.store.synthetic import IMAGES, SyntheticCohort
from pipeline.store.tables import CohortTables, SplitTables
from pipeline.store.volumes import VolumeSet
from pipeline.training.diffusion import diffusion_engine
from pipeline.training.feature_maps import feature_maps_of
from pipeline.training.grid_images import GridImages
from pipeline.training.joint_patients import CovariateBlocks, learnt_from, notes_on_sessions, part_of
from pipeline.training.latent_images import Decode, Losses, latent_decoders
from pipeline.training.repeat_data import RepeatData, data_of_repeat, repeats_of, without_synthetic
from synthesis.latent import LatentConfig
from synthesis.patients import Drawn, class_offsets, draw_patients, observed_patterns

IMAGE_OF = "image of "  # before the name of a modality: the block of its voxels
DESCRIPTION = "SYNTHETIC image, no patient; HyperMM joint model"  # NIfTI header, at most 79 characters
AT_ONCE = 32  # patients decoded at a time


def synthesise(
    cohort: CohortTables,
    split: SplitTables,
    preprocess: VolumeSet,
    features: FeatureStore,
    label: str | None,
    out: SyntheticCohort,
    config: SynthesiseConfig,
    runtime: Runtime,
) -> None:
    """Write synthetic patients; nothing but the training patients of one repeat is looked at.

    Raises:
        PreconditionError: there is no such repeat, or there are too few training patients for a joint model. What was
            drawn before stays until all networks are trained.
    """
    repeats = repeats_of(split)
    if config.repeat not in repeats:
        raise PreconditionError(f"synthesise.repeat is {config.repeat}; there are {len(repeats)} repeats")
    data = without_synthetic(data_of_repeat(cohort, split, features, config.repeat), cohort)
    kinds = cohort.scans().drop_duplicates("modality").set_index("modality")["kind"].to_dict()
    maps = feature_maps_of(data, features)
    table = covariates_of(real_only(cohort.scans()))
    train = learnt_from(data)
    blocks = CovariateBlocks.fit(table.loc[train], table) if config.covariates and len(table.columns) else None
    part = part_of(train, data, maps, blocks, table)
    grid = GridImages(preprocess, kinds, config.spacing_mm, config.pixels)
    images = {} if config.decoder == "none" else grid.of(data, part.observations)
    features_and_images = dict(part.patients.features)
    if config.decoder == "pca":
        features_and_images |= {IMAGE_OF + name: rows for name, rows in images.items()}
    try:
        model, scores = fit_model(
            Patients(features_and_images, part.patients.covariates),
            part.labels,
            len(data.classes),
            JointConfig(components=config.components, seed=config.seed),
            shape=features.feature_map_shape(),
        )
    except (CannotJoinError, TooFewPatientsError) as error:
        raise PreconditionError(f"no patients can be drawn: {error}") from error
    marker = Marker.ready(
        config.mark_key, config.mark_batch, setting="synthesise.mark_key", workspace=runtime.workspace
    )
    out.learn_from(data.subjects("train"))
    if config.engine == "diffusion":
        with runtime.progress(config.diffusion.steps, "step") as progress:
            model = diffusion_engine(
                model, scores, part.labels, DiffusionConfig(**config.diffusion.model_dump(), seed=config.seed),
                device=runtime.device, progress=progress, state=out.engine, keep=out.save_engine,
            )  # fmt: skip
    notes = [*model.notes, *notes_on_sessions(data)]
    for note in notes:
        runtime.note(note)
    modalities = tuple(name for name in part.patients.features if name in model.bases)
    if len(modalities) > 1 and not any(sum(has) > 1 for _, has in observed_patterns(model, modalities)):
        runtime.note("no training patient has two modalities: links between them come through the class alone")
    random = np.random.default_rng([config.seed, 11])
    patients = draw_patients(model, config.patients, modalities, random)
    if nobody := [name for name in modalities if not patients.has[name].any()]:
        notes.append(
            f"{', '.join(nobody)}: none of the {config.patients:,} synthetic patients happens to have such a scan, so "
            "it is left out; more patients (synthesise.patients) would have some"
        )
        runtime.note(notes[-1])
        modalities = tuple(name for name in modalities if name not in nobody)
    covariates = {
        name: blocks.cells(name, numbers, table.loc[train, name])
        for name, numbers in patients.covariates.items()
        if blocks is not None
    }
    decoders: dict[str, Decode] = {}
    losses: dict[str, Losses] = {}
    if config.decoder == "kl":
        learnt = {name: rows for name, rows in images.items() if name in modalities}
        settings = LatentConfig(**config.kl.model_dump(), seed=config.seed)
        decoders, losses = latent_decoders(
            model, scores, part.labels, learnt, kinds, out, settings, runtime,
            spacing_mm=config.spacing_mm, pixels=config.pixels,
        )  # fmt: skip
    out.begin(data.subjects("train"))
    tables = []
    with runtime.progress(len(modalities), "scan type") as progress:
        for number, modality in enumerate(modalities):
            offsets = {
                block: class_offsets(model, block, features_and_images[block], part.labels)
                for block in (modality, IMAGE_OF + modality)
                if block in model.bases
            }
            decode = decoders.get(modality)
            if IMAGE_OF + modality in model.bases:
                decode = partial(_principal_images, model, offsets, modality, random)
            tables.append(
                _write(
                    model,
                    patients,
                    offsets,
                    modality,
                    number,
                    data,
                    kinds,
                    features,
                    out,
                    config,
                    random,
                    marker,
                    decode,
                )
            )
            progress.advance()
    drawn = pd.concat(tables, ignore_index=True)
    for note in marker.notes() if (drawn["path"] != "").any() else ():
        runtime.note(note)
    if tabular := [name for name in modalities if kinds[name] == "table"]:
        runtime.note(
            f"{', '.join(tabular)}: of tables only the codes are drawn, in features-*.safetensors; the manifest of "
            "synthetic patients has images alone"
        )
    facts: dict[str, Any] = {
        "modalities": list(modalities), "images": sorted(drawn.loc[drawn["path"] != "", "modality"].unique()),
        "classes": list(data.classes), "label": label, "repeat": config.repeat, "training": len(train),
        "shape": list(features.feature_map_shape()), "notes": notes, "decoder": config.decoder,
        "engine": config.engine, "spacing_mm": config.spacing_mm, "pixels": config.pixels,
    }  # fmt: skip
    if losses:
        facts["losses"] = losses
    out.save(_manifest(drawn, covariates, label or "label"), drawn, facts)


def _write(
    model: JointModel,
    patients: Drawn,
    offsets: Mapping[str, Features],
    modality: str,
    number: int,
    data: RepeatData,
    kinds: Mapping[str, str],
    features: FeatureStore,
    out: SyntheticCohort,
    config: SynthesiseConfig,
    random: np.random.Generator,
    marker: Marker,
    decode: Decode | None,
) -> pd.DataFrame:
    """Write feature maps and images of one modality; return its rows of `drawn.csv`."""
    members = np.flatnonzero(patients.has[modality])
    made, rows = [], []
    for start in range(0, len(members), AT_ONCE):
        some = members[start : start + AT_ONCE]
        made.append(patients.features(model, modality, some, random, offsets=offsets[modality]))
        pixels = None if decode is None else decode(patients, some)
        for place, patient in enumerate(some):
            subject = f"{SYNTHETIC}-{patient + 1:05d}"
            name = f"{subject}_{number + 1}"
            row: dict[str, Any] = {"scan": name, "subject": subject, "modality": modality, "path": "", "sha256": ""}
            row |= {"label": data.classes[patients.classes[patient]], "row": start + place}
            if pixels is not None:
                facts = {
                    "origin": SYNTHETIC, "patient": None, "modality": modality, "label": row["label"],
                    "what": "drawn from a joint model of training patients; no patient looks like this",
                    "decoder": config.decoder, "seed": config.seed, "repeat": config.repeat,
                }  # fmt: skip
                file, content = image_file(
                    pixels[place], name, kinds[modality], spacing_mm=config.spacing_mm, pixels=config.pixels,
                    marker=marker, description=DESCRIPTION,
                )  # fmt: skip
                facts |= marker.facts(name)
                row |= {"path": f"{IMAGES}/{file}", "sha256": out.save_image(file, content, facts)}
            rows.append(row)
    maps = np.concatenate(made).reshape(-1, *features.feature_map_shape())
    out.save_features(number, maps)
    return pd.DataFrame(rows, columns=list(SyntheticCohort.DRAWN_COLUMNS))


def _principal_images(
    model: JointModel,
    offsets: Mapping[str, Features],
    modality: str,
    random: np.random.Generator,
    patients: Drawn,
    members: NDArray[np.int64],
) -> Features:
    """Return the images of some patients by the decoder pca, (m, D)."""
    block = IMAGE_OF + modality
    return patients.features(model, block, members, random, offsets=offsets[block])


def _manifest(drawn: pd.DataFrame, covariates: Mapping[str, list[str]], label: str) -> pd.DataFrame:
    """Return the rows of a cohort manifest, one an image."""
    rows = drawn[drawn["path"] != ""]
    number = [int(name.rpartition("-")[2]) - 1 for name in rows["subject"]]
    table = pd.DataFrame({name: rows[name].to_numpy() for name in ("subject", "modality", "path", "sha256")})
    table[label] = rows["label"].to_numpy()
    for name, values in covariates.items():
        table[name] = [values[i] for i in number]
    return table.assign(origin=SYNTHETIC, judged=NOT_JUDGED).sort_values(["subject", "modality"]).reset_index(drop=True)
