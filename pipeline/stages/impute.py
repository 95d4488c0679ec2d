"""Every missing feature map as the joint model imputes it, and how far its intervals can be trusted.

Quality is measured on test patients: each modality that one has is hidden and imputed from the others.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch

from cohort.covariates import covariates_of
from cohort.origin import real_only
from console.errors import InputError
from evaluation.imputation import LEVELS, gaussian_coverage, gaussian_crps
from models.joint.blocks import FloatArray
from models.joint.model import JointModel, Patients
from models.joint.posterior import draw
from models.settings import seed_of_repeat
from pipeline.core.runtime import Runtime
from pipeline.specs.impute import ImputeConfig
from pipeline.store.features import FeatureStore
from pipeline.store.imputed import Imputed, ImputedSet
from pipeline.store.joint import JointSet
from pipeline.store.tables import CohortTables, SplitTables
from pipeline.training.feature_maps import feature_maps_of
from pipeline.training.joint_patients import CovariateBlocks, chunks, joint_patients, observation_table, scores_of
from pipeline.training.repeat_data import data_of_repeat, repeats_of, without_synthetic

QUALITY = (
    "repeat", "modality", "observation", "from", "crps", "crps_without", *(f"cover_{round(100 * a)}" for a in LEVELS)
)  # fmt: skip
SMALLEST_SD = 1e-6  # of a feature that never varies in training


def impute(
    cohort: CohortTables,
    split: SplitTables,
    features: FeatureStore,
    joint: JointSet,
    out: ImputedSet,
    config: ImputeConfig,
    runtime: Runtime,
) -> None:
    """Write mean, standard deviation and draws of each modality that an observation lacks; classes are not used."""
    out.begin()
    covariates = covariates_of(real_only(cohort.scans()))
    made: list[dict[str, Any]] = []
    quality: list[dict[str, Any]] = []
    repeats = repeats_of(split)
    with runtime.progress(len(repeats), "repeat") as progress:
        for repeat in repeats:
            data = without_synthetic(data_of_repeat(cohort, split, features, repeat), cohort)
            maps, model = feature_maps_of(data, features), joint.model(repeat)
            record, own = joint.record(repeat) or {}, joint.training_scores(repeat)
            if not record.get("feature_maps", True):
                raise InputError(
                    f"repeat {repeat}: the joint model of several sites was made without means of feature maps "
                    "(contribute.feature_maps false), so it places patients and imputes scores, but no feature map"
                )
            blocks = CovariateBlocks.from_json(record["covariates"]) if record.get("covariates") else None
            shape = tuple(record["feature_map_shape"])
            random = np.random.default_rng([seed_of_repeat(config.seed, repeat), 4])
            rows = observation_table(data, model)
            for names in chunks(rows.index.to_list()):
                patients = joint_patients(names, data, maps, blocks, covariates)
                scores = scores_of(model, patients, names, own)
                for number, modality, feature_map in _missing(model, patients, scores, shape, config.draws, random):
                    about = rows.loc[names[number]]
                    file, content = out.save(repeat, names[number], modality, feature_map)
                    made.append(
                        {
                            "repeat": repeat, "observation": names[number], "subject": about["subject"],
                            "split": about["split"], "modality": modality, "from": about["has"],
                            "sd": float(feature_map.sd.square().mean().sqrt()), "file": file, "sha256": content,
                        }
                    )  # fmt: skip
            tested = rows.index[rows["split"] == "test"].to_list()
            for names in chunks(tested):
                patients = joint_patients(names, data, maps, blocks, covariates)
                quality += [{"repeat": repeat, **row} for row in _quality(model, patients, names)]
            progress.advance()
    out.save_table("imputed.csv", pd.DataFrame(made, columns=list(out.COLUMNS)))
    out.save_table("quality.csv", pd.DataFrame(quality, columns=list(QUALITY)))
    if not made:
        runtime.note("no patient lacks a modality that the joint model knows; nothing was imputed")
    runtime.results |= {"counts": {"imputed feature maps": len(made), "checked against a real one": len(quality)}}


def _missing(
    model: JointModel,
    patients: Patients,
    scores: FloatArray,
    shape: tuple[int, ...],
    count: int,
    random: np.random.Generator,
) -> Iterator[tuple[int, str, Imputed]]:
    """Yield row, modality and feature map of what is missing.

    Args:
        model: of the repeat.
        patients: who may lack something.
        scores: of them, (n, d), NaN where a block is missing.
        shape: of a feature map.
        count: of draws.
        random: source of chance.
    """
    for modality in model.bases:
        lacking = np.flatnonzero(~patients.has(modality))
        for row in lacking:
            one, own = patients.rows(np.array([row])), scores[[row]]
            mean, sd = model.impute_scores(own, modality)
            chosen = draw(model.gaussian, own, count, random)
            drawn, _ = model.draw(one, count, random, modalities=(modality,), scores=chosen)
            yield (
                int(row),
                modality,
                Imputed(
                    torch.from_numpy(mean).view(shape),
                    torch.from_numpy(sd).view(shape),
                    torch.from_numpy(drawn[modality]).float().view(count, *shape),
                ),
            )


def _quality(model: JointModel, patients: Patients, names: list[str]) -> Iterator[dict[str, Any]]:
    """Yield, for each patient and modality that can be checked, coverage and CRPS over its features.

    `crps_without` is that of a Gaussian with the model's own mean and spread of everybody: what the other scans add is
    the difference.
    """
    for modality, basis in model.bases.items():
        others = sum(patients.has(name).astype(np.int64) for name in model.bases if name != modality)
        rows = np.flatnonzero(patients.has(modality) & (others > 0))
        if len(rows) == 0:
            continue
        chosen = patients.rows(rows)
        hidden = np.full_like(chosen.features[modality], np.nan)
        given = dataclasses.replace(chosen, features={**chosen.features, modality: hidden})
        mean, sd = model.impute(given, modality)
        sd = np.maximum(sd, SMALLEST_SD)
        part = model.blocks.slice_of(modality)
        centre, total = model.gaussian.estimate.total()
        usual = np.maximum(np.sqrt(basis.variance(total[part, part])), SMALLEST_SD)
        flat = basis.features(centre[None, part])[0]
        for i, row in enumerate(rows):
            truth = chosen.features[modality][i]
            covered = gaussian_coverage(truth, mean[i], sd[i])
            yield {
                "modality": modality,
                "observation": names[row],
                "from": "+".join(name for name in model.bases if name != modality and patients.has(name)[row]),
                "crps": float(gaussian_crps(truth, mean[i], sd[i]).mean()),
                "crps_without": float(gaussian_crps(truth, flat, usual).mean()),
                **{f"cover_{round(100 * a)}": float(share) for a, share in zip(LEVELS, covered, strict=True)},
            }
