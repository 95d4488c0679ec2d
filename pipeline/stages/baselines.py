"""The paper's tables on any cohort: every baseline in every scenario, from the cached feature maps.

Each (scenario, baseline, repeat) is one task (`pipeline.comparison.tasks`). Finished tasks are skipped, a failed task
does not stop the others, and `baselines.only` selects baselines.
"""

import dataclasses
import re
from collections.abc import Iterable
from typing import Any

from baselines.methods import ABLATIONS, chosen_baselines
from baselines.names import KEYS, TRANSLATION_BASELINES
from console.errors import PreconditionError
from models.settings import seed_of_repeat
from pipeline.comparison.scenarios import scans_in, scenarios_of
from pipeline.comparison.tables import write_tables
from pipeline.comparison.tasks import ComparisonTasks
from pipeline.core.runtime import Runtime
from pipeline.specs.baselines import STAGE, BaselinesConfig
from pipeline.specs.features import FeaturesConfig
from pipeline.specs.preprocess import PreprocessConfig
from pipeline.stages.features import feature_map_maker
from pipeline.store.comparison import ComparisonSet
from pipeline.store.features import FeatureStore
from pipeline.store.tables import CohortTables, SplitTables
from pipeline.store.volumes import VolumeSet
from pipeline.training.repeat_data import data_of_repeat, repeats_of


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
    pictures = bool((scans["kind"] == "image").all())
    not_applicable = {"ablations", *(TRANSLATION_BASELINES if pictures else ("incremental_cnn",))}
    keys = config.only or tuple(key for key in KEYS if key not in not_applicable)
    data = {
        repeat: dataclasses.replace(data_of_repeat(cohort, split, features, repeat), modalities=modalities)
        for repeat in repeats_of(split)
    }
    scenarios = scenarios_of(config.scenarios, config.rates, modalities)
    for scenario in scenarios:
        remaining = [scans_in(scenario, each, seed_of_repeat(config.seed, n))[0] for n, each in data.items()]
        if not any((scans["split"] == "test").any() for scans in remaining):
            raise PreconditionError(
                f"scenario {scenario.name!r}: no test subject has every modality; set baselines.scenarios to [as_it_is]"
            )
    # Baselines that are not requested keep their rows, if they were fitted on the same data with the same settings.
    methods = chosen_baselines(KEYS, modalities, pictures=pictures)
    wanted = {method.name for method in chosen_baselines(keys, modalities, pictures=pictures)}

    def imputed_scan_encoder() -> tuple[Any, float]:
        """Return the function from an imputed volume to its feature map, and the voxel size of real volumes."""
        return feature_map_maker(features_config, runtime), preprocess_config.spacing_mm

    run = ComparisonTasks(
        preprocess,
        features,
        out,
        config,
        runtime,
        modalities,
        STAGE.version,
        imputed_scan_encoder,
    )
    tasks = len(scenarios) * len(data) * (len(wanted) + sum(key in keys for key in TRANSLATION_BASELINES))
    with runtime.progress(tasks, "baseline") as progress:
        for scenario in scenarios:
            for repeat, all_scans in data.items():
                scenario_sample, notes = run.build_sample(scenario, repeat, all_scans)
                for note in notes if repeat == min(data) else ():
                    runtime.note(f"{scenario.name}: {note}")
                for method in methods:
                    run.simple(scenario, repeat, method, scenario_sample, wanted=method.name in wanted)
                    if method.name in wanted:
                        progress.advance()
                for key in TRANSLATION_BASELINES:
                    run.translated(scenario, repeat, key, scenario_sample, all_scans, wanted=key in keys)  # type: ignore[arg-type]
                    if key in keys:
                        progress.advance()
    published_methods = [method.name for method in methods if method not in ABLATIONS]
    runtime.results |= write_tables(
        out,
        run.keys,
        scenarios,
        [*published_methods, *TRANSLATION_BASELINES.values(), *(method.name for method in ABLATIONS)],
        list(data),
        classes=cohort.classes(),
        volumes=preprocess,
        config=config,
    )


def in_order(modalities: Iterable[str]) -> tuple[str, ...]:
    """Sort modalities by name, numbers in names by value: 40X before 100X, as Incremental-CNN needs it."""
    return tuple(
        sorted(modalities, key=lambda name: [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", name)])
    )
