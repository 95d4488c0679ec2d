"""The paper's tables on any cohort: every baseline in every scenario, from the cached feature maps.

Each (scenario, baseline, repeat) is one task (`pipeline.comparison.tasks`), and tasks run side by side in processes
(`pipeline.comparison.processes`). Finished tasks are skipped, a failed task does not stop the others, and
`baselines.only` selects baselines.
"""

import dataclasses
import re
from collections.abc import Iterable
from typing import Any, get_args

from baselines.methods import ABLATIONS, chosen_baselines
from baselines.names import KEYS, TABLE_BASELINES, TRANSLATION_BASELINES
from cohort.covariates import covariates_of
from console.errors import PreconditionError
from evaluation.published import AS_IT_IS
from models.settings import seed_of_repeat
from pipeline.comparison.imageless import imageless
from pipeline.comparison.imputation import Kind
from pipeline.comparison.mechanisms import Lost, lost_scans, scenarios_of_mechanisms
from pipeline.comparison.processes import do_units
from pipeline.comparison.scenarios import Scenario, Tests, scans_in, scenarios_of
from pipeline.comparison.scenarios import in_order as ordered
from pipeline.comparison.subsets import hidden_by_subset
from pipeline.comparison.tables import write_tables
from pipeline.comparison.tasks import ComparisonTasks, Unit
from pipeline.comparison.translated import translated
from pipeline.core.runtime import Runtime
from pipeline.specs.baselines import BaselinesConfig
from pipeline.specs.features import FeaturesConfig
from pipeline.specs.preprocess import PreprocessConfig
from pipeline.stages.features import feature_map_maker
from pipeline.store.comparison import ComparisonSet
from pipeline.store.features import FeatureStore
from pipeline.store.marking import Marker
from pipeline.store.tables import CohortTables, SplitTables
from pipeline.store.volumes import VolumeSet
from pipeline.training.repeat_data import RepeatData, data_of_repeat, repeats_of

TASKS_VERSION = 5  # of what a task computes: another one trains anew; tables alone are made by the version of the stage


def baselines(
    cohort: CohortTables,
    split: SplitTables,
    preprocess: VolumeSet,
    features: FeatureStore,
    preprocess_config: PreprocessConfig,
    features_config: FeaturesConfig,
    out: ComparisonSet,
    config: BaselinesConfig,
    runtime: Runtime,
) -> None:
    """Write the predictions of every baseline and the tables over all of them. Source: HyperMM, tables 1 and 2."""
    scans = cohort.scans()
    modalities = in_order(scans["modality"].unique())
    tables = "table" in set(scans["kind"])
    pictures = set(scans["kind"]) - {"table"} == {"image"}
    covariates = covariates_of(scans)
    not_applicable = {"ablations"}
    not_applicable |= set(TRANSLATION_BASELINES) if pictures or tables else set()
    not_applicable |= {"incremental_cnn"} if tables or not pictures else set()
    not_applicable |= TABLE_BASELINES.keys() - {"availability"} if covariates.columns.empty else set()
    keys = config.only or tuple(key for key in KEYS if key not in not_applicable)
    data = {
        repeat: dataclasses.replace(data_of_repeat(cohort, split, features, repeat), modalities=modalities)
        for repeat in repeats_of(split)
    }
    scenarios = scenarios_of(config.scenarios, config.rates, modalities, config.patients)
    if "mechanisms" in config.scenarios:
        scenarios += scenarios_of_mechanisms(config.mechanisms, modalities)
    for scenario in scenarios:
        used = [scans_in(scenario, each, seed_of_repeat(config.seed, n))[0] for n, each in data.items()]
        if not any((scans["split"] == "test").any() for scans in used):
            raise PreconditionError(
                f"scenario {scenario.name!r}: no test subject has every modality; set baselines.scenarios to [as_it_is]"
            )
    lost: dict[int, Lost] = {}
    if "mechanisms" in config.scenarios:
        lost = {
            n: lost_scans(each, config.mechanisms, covariates, features, seed_of_repeat(config.seed, n))
            for n, each in data.items()
        }
        for note in lost[min(lost)].notes:
            runtime.note(note)
    # Baselines that are not requested keep their rows, if they were fitted on the same data with the same settings.
    methods = chosen_baselines(KEYS, modalities, pictures=pictures)
    wanted = {method.name for method in chosen_baselines(keys, modalities, pictures=pictures)}

    def imputed_scan_encoder() -> tuple[Any, float]:
        """Return the function from an imputed volume to its feature map, and the voxel size of real volumes."""
        return feature_map_maker(features_config, runtime), preprocess_config.spacing_mm

    run = ComparisonTasks(features, out, config, runtime, modalities, pictures, TASKS_VERSION)
    marker = Marker.ready(config.mark_key, config.mark_batch, setting="baselines.mark_key", workspace=runtime.workspace)
    units: list[Unit] = []
    left: list[tuple[Scenario, int, RepeatData, Tests]] = []
    for scenario in scenarios:
        for repeat, all_scans in data.items():
            remaining, notes = run.left(scenario, repeat, all_scans)
            tests: Tests = ()
            if scenario.lost_by:
                tests = lost[repeat].tests(remaining)
                remaining = dataclasses.replace(remaining, scans=ordered(lost[repeat].left(scenario, remaining)))
            left.append((scenario, repeat, remaining, tests))
            for note in notes if repeat == min(data) else ():
                runtime.note(f"{scenario.name}: {note}")
            by_subset = hidden_by_subset(remaining) if scenario.subsets else tests
            units += run.units(scenario, repeat, remaining, methods, wanted, by_subset)
    others = [key for key in (*TRANSLATION_BASELINES, *TABLE_BASELINES) if key in keys]
    todo = sum(len(unit.tasks) for unit in units)
    with runtime.progress(todo + len(left) * len(others), "baseline") as progress:
        do_units(run, units, progress.advance)
        imputed = False
        for scenario, repeat, remaining, tests in left:
            for key in get_args(Kind):
                imputed |= translated(
                    run, scenario, repeat, key, remaining, all_scans=data[repeat].scans, preprocess=preprocess,
                    encoder=imputed_scan_encoder, marker=marker, wanted=key in keys,
                )  # fmt: skip
                if key in keys:
                    progress.advance()
            for key in TABLE_BASELINES:
                imageless(run, scenario, repeat, key, remaining, covariates=covariates, wanted=key in keys, tests=tests)
                if key in keys:
                    progress.advance()
    for note in marker.notes() if imputed else ():
        runtime.note(note)
    published_methods = [method.name for method in methods if method not in ABLATIONS]
    runtime.results |= write_tables(
        out,
        run.keys,
        scenarios,
        [
            *published_methods,
            *TRANSLATION_BASELINES.values(),
            *TABLE_BASELINES.values(),
            *(method.name for method in ABLATIONS),
        ],
        list(data),
        classes=cohort.classes(),
        volumes=preprocess,
        config=config,
        covariates=tuple(covariates.columns),
        training_patients=_training_patients(left),
    )


def _training_patients(left: list[tuple[Scenario, int, RepeatData, Tests]]) -> dict[str, float]:
    """Return scenario → number of training patients, the mean over repeats, for those of a learning curve."""
    counts: dict[str, list[int]] = {}
    for scenario, _, data, _ in left:
        if scenario.name == AS_IT_IS or scenario.patients < 1:
            training = data.scans.loc[data.scans["split"] == "train", "subject"].nunique()
            counts.setdefault(scenario.name, []).append(training)
    return {name: sum(numbers) / len(numbers) for name, numbers in counts.items()}


def in_order(modalities: Iterable[str]) -> tuple[str, ...]:
    """Sort modalities by name, numbers in names by value: 40X before 100X, as Incremental-CNN needs it."""
    return tuple(
        sorted(modalities, key=lambda name: [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", name)])
    )
