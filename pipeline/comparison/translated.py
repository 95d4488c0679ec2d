"""Tasks of pix2pix and cycleGAN: impute whole scans, compute their feature maps, fit Multi-CNN on the filled sample."""

import time
from collections.abc import Callable
from typing import Any

import pandas as pd

from baselines.imputers import TableImputer, fit_imputed
from baselines.names import TRANSLATION_BASELINES
from models.settings import seed_of_repeat
from pipeline.comparison.imputation import Kind, impute
from pipeline.comparison.scenarios import Scenario
from pipeline.comparison.tasks import ComparisonTasks, TaskResult, predictions_of
from pipeline.core.provenance import digest
from pipeline.store.marking import Marker, mark_of
from pipeline.store.volumes import VolumeSet
from pipeline.training.repeat_data import RepeatData

FILES = 2  # version of the files of imputed volumes; another one writes them anew, with the networks that are there


def translated(
    run: ComparisonTasks,
    scenario: Scenario,
    repeat: int,
    kind: Kind,
    data: RepeatData,
    *,
    all_scans: pd.DataFrame,
    preprocess: VolumeSet,
    encoder: Callable[[], tuple[Any, float]],
    marker: Marker,
    wanted: bool,
) -> bool:
    """Do the task of one image-translation network, unless it is finished or not wanted.

    Another watermark writes the volumes anew, with the networks that are trained already.

    Args:
        run: what all tasks share; the key is noted in it.
        scenario: which.
        repeat: its number.
        kind: of network.
        data: as `ComparisonTasks.left` gives it.
        all_scans: of the repeat, hidden ones too.
        preprocess: volumes.
        encoder: gives the function from an imputed volume to its feature map, and real volumes' voxel size.
        marker: of the imputed volumes.
        wanted: whether to fit it.

    Returns:
        Whether volumes were imputed now.
    """
    has = data.scans.groupby("observation")["modality"].nunique()
    if not scenario.hidden and bool((has == len(run.modalities)).all()):
        return False  # nothing to impute
    gan = run.config.gan
    sizes = gan.model_dump(mode="json", exclude={f"{other}_epochs" for other in TRANSLATION_BASELINES if other != kind})
    trained = run.key(scenario, repeat, data, kind, sizes, preprocess.fingerprint)
    mark = mark_of(run.config)
    key = digest([trained, FILES, *([] if mark is None else [mark, run.config.mark_batch])])
    name = TRANSLATION_BASELINES[kind]
    folder = run.out.folder_of(scenario.name, name, repeat)
    run.keys[folder] = key
    if not wanted or run.out.record(folder, key) is not None:
        return False
    scenario_sample = run.sample(data)
    is_hidden = ~all_scans["scan"].isin(data.scans["scan"]) & all_scans["observation"].isin(data.scans["observation"])
    hidden = {(row.observation, row.modality): row.scan for row in all_scans[is_hidden].itertuples()}

    def fit() -> TaskResult:
        maker, spacing_mm = encoder()
        imputed = impute(
            kind, scenario_sample, run.modalities, hidden=hidden, volumes=preprocess, folder=folder,
            config=gan, feature_map_of=maker, spacing_mm=spacing_mm, device=run.runtime.device,
            seed=seed_of_repeat(run.config.seed, repeat), marker=marker,
        )  # fmt: skip
        started = time.monotonic()
        centre, spread = (t.cpu() for t in scenario_sample.sample.scale())
        table = {(o, m): (feature_map - centre[m]) / spread[m] for (o, m), feature_map in imputed.feature_maps.items()}
        sample = scenario_sample.sample.standardised()
        fitted = fit_imputed(sample, run.config.training(repeat), TableImputer(table))
        tables = predictions_of(fitted.probabilities(sample), data, repeat)
        tables["quality.csv"] = pd.DataFrame(imputed.quality)
        facts = {
            "trained_parameters": fitted.parameters + imputed.parameters,
            "notes": [*imputed.notes, *fitted.notes],
            "imputation_seconds": round(imputed.seconds, 3),
            "classification_seconds": round(time.monotonic() - started, 3),
        }
        return tables, facts

    run.task(folder, key, f"{scenario.name}, {name}, repeat {repeat}", fit, begun=trained)
    return "imputation_seconds" in (run.out.record(folder, key) or {})
