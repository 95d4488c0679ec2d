"""Tasks of the comparison: one baseline in one scenario and repeat; a failed task does not stop the others."""

import dataclasses
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from baselines.imputers import TableImputer, fit_imputed
from baselines.methods import Baseline
from baselines.names import TRANSLATION_BASELINES
from baselines.sample import CannotFit, Fitted, Sample
from cohort.missingness import hide_scans
from console.errors import DISK_FULL, InputError
from models.settings import seed_of_repeat
from pipeline.comparison.imputation import Kind, impute
from pipeline.comparison.scenarios import Scenario, ScenarioSample, build_sample, scans_in
from pipeline.core.provenance import digest, result_settings
from pipeline.core.runtime import Runtime
from pipeline.specs.baselines import BaselinesConfig
from pipeline.store.base import DamagedError
from pipeline.store.comparison import ComparisonSet
from pipeline.store.features import FeatureStore
from pipeline.store.volumes import VolumeSet
from pipeline.training.repeat_data import RepeatData

log = logging.getLogger("hypermm")
FAILED = "failed "  # prefix of the key of a task that raised: the task is run again
NOT_IN_A_TASK = ("only", "scenarios", "rates", "published", "gan", "curve_rates")


@dataclasses.dataclass
class ComparisonTasks:
    """The inputs that all tasks share.

    Attributes:
        preprocess: volumes, for image translation.
        features: feature maps.
        out: folders of the results.
        config: of the stage.
        runtime: of the stage.
        modalities: names.
        version: of the stage.
        imputed_scan_encoder: gives the function from an imputed volume to its feature map, and real volumes' voxel
            size.
        keys: folder of a task → hash of the inputs of a valid result.
    """

    preprocess: VolumeSet
    features: FeatureStore
    out: ComparisonSet
    config: BaselinesConfig
    runtime: Runtime
    modalities: tuple[str, ...]
    version: int
    imputed_scan_encoder: Callable[[], tuple[Any, float]]
    keys: dict[Path, str] = dataclasses.field(default_factory=dict)

    def build_sample(self, scenario: Scenario, repeat: int, data: RepeatData) -> tuple[ScenarioSample, list[str]]:
        """Build the sample of a scenario and repeat; every repeat hides scans of other subjects."""
        scans, notes = scans_in(scenario, data, seed_of_repeat(self.config.seed, repeat))
        return build_sample(scans, data, self.features, self.runtime.device), notes

    def key(self, scenario: Scenario, repeat: int, scenario_sample: ScenarioSample, *more: Any) -> str:
        """Return the hash of all inputs of a task."""
        settings = {k: v for k, v in result_settings(self.config).items() if k not in NOT_IN_A_TASK}
        content = self.features.scans()
        rows = scenario_sample.scans.assign(content=[content[s] for s in scenario_sample.scans["scan"]]).to_dict(
            "split"
        )
        numbers = [
            self.modalities,
            scenario_sample.sample.classes,
            scenario_sample.sample.target.tolist(),
        ]  # for names, in predictions
        return digest([self.version, settings, dataclasses.asdict(scenario), repeat, rows, numbers, more])

    def simple(
        self, scenario: Scenario, repeat: int, method: Baseline, scenario_sample: ScenarioSample, *, wanted: bool
    ) -> None:
        """Run a baseline that needs only feature maps."""
        rates = self.config.curve_rates if scenario.name == "complete" else ()
        key = self.key(scenario, repeat, scenario_sample, method.name, rates)
        folder = self.out.folder_of(scenario.name, method.name, repeat)
        self.keys[folder] = key
        if not wanted or self.out.record(folder, key) is not None:
            return

        def fit() -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
            started = time.monotonic()
            sample = scenario_sample.sample.standardised() if method.standardised else scenario_sample.sample
            fitted = method.fit(sample, method.training(self.config.training(repeat)))
            tables = {"predictions.csv": _predictions(fitted, sample, scenario_sample, repeat)}
            facts = {"trained_parameters": fitted.parameters, "notes": list(getattr(fitted, "notes", ()))}
            facts["classification_seconds"] = round(time.monotonic() - started, 3)
            if rates:
                tables["curve.csv"] = _curve(
                    fitted, sample, scenario_sample, repeat, rates, self.modalities,
                    seed_of_repeat(self.config.seed, repeat),
                )  # fmt: skip
            return tables, facts

        self._task(folder, key, f"{scenario.name}, {method.name}, repeat {repeat}", fit)

    def translated(
        self,
        scenario: Scenario,
        repeat: int,
        key: Kind,
        scenario_sample: ScenarioSample,
        data: RepeatData,
        *,
        wanted: bool,
    ) -> None:
        """Impute whole scans, compute their feature maps, then fit Multi-CNN on the filled sample."""
        if not scenario.hidden and bool(scenario_sample.sample.modality_mask.all()):
            return  # nothing to impute
        gan = self.config.gan
        sizes = gan.model_dump(
            mode="json", exclude={f"{other}_epochs" for other in TRANSLATION_BASELINES if other != key}
        )
        task = self.key(scenario, repeat, scenario_sample, key, sizes, self.preprocess.fingerprint)
        folder = self.out.folder_of(scenario.name, TRANSLATION_BASELINES[key], repeat)
        self.keys[folder] = task
        if not wanted or self.out.record(folder, task) is not None:
            return
        available = set(scenario_sample.scans["scan"])
        hidden_scans = data.scans[
            ~data.scans["scan"].isin(available) & data.scans["observation"].isin(scenario_sample.observations)
        ]
        hidden = {(row.observation, row.modality): row.scan for row in hidden_scans.itertuples()}

        def fit() -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
            maker, spacing_mm = self.imputed_scan_encoder()
            imputed = impute(
                key, scenario_sample, self.modalities, hidden=hidden, volumes=self.preprocess, folder=folder,
                config=gan, feature_map_of=maker, spacing_mm=spacing_mm, device=self.runtime.device,
                seed=seed_of_repeat(self.config.seed, repeat),
            )  # fmt: skip
            started = time.monotonic()
            centre, spread = (t.cpu() for t in scenario_sample.sample.scale())
            table = {
                (o, m): (feature_map - centre[m]) / spread[m] for (o, m), feature_map in imputed.feature_maps.items()
            }
            sample = scenario_sample.sample.standardised()
            fitted = fit_imputed(sample, self.config.training(repeat), TableImputer(table))
            tables = {
                "predictions.csv": _predictions(fitted, sample, scenario_sample, repeat),
                "quality.csv": pd.DataFrame(imputed.quality),
            }
            facts = {
                "trained_parameters": fitted.parameters + imputed.parameters,
                "notes": [*imputed.notes, *fitted.notes],
                "imputation_seconds": round(imputed.seconds, 3),
                "classification_seconds": round(time.monotonic() - started, 3),
            }
            return tables, facts

        self._task(folder, task, f"{scenario.name}, {TRANSLATION_BASELINES[key]}, repeat {repeat}", fit)

    def _named(self, text: str) -> str:
        """Replace modality numbers, as baselines write them, by names."""
        return re.sub(r"\bmodality (\d+)\b", lambda match: self.modalities[int(match[1])], text)

    def _task(
        self, folder: Path, key: str, label: str, fit: Callable[[], tuple[dict[str, pd.DataFrame], dict[str, Any]]]
    ) -> None:
        """Fit one baseline and write its result; record and log a failure, and continue with the others."""
        self.out.begin(folder, key)
        try:
            with _peak_memory(self.runtime) as peak:
                tables, facts = fit()
        except CannotFit as error:
            log.warning("baselines: %s: %s", label, self._named(str(error)))
            self.out.finish(folder, key, {}, {"reason": self._named(str(error))})
        except (InputError, DamagedError):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise
            log.exception("baselines: %s failed", label)
            self.out.finish(folder, FAILED + key, {}, {"reason": f"{type(error).__name__}: {error}"})
            failure = {"scan": label, "reason": f"{type(error).__name__}: {error}", "retryable": True}
            self.runtime.results.setdefault("failures", []).append(failure)
        else:
            for note in facts["notes"]:
                self.runtime.note(f"{label}: {self._named(note)}")
            self.out.finish(folder, key, tables, facts | {"peak_memory_mb": peak["mb"]})


def _predictions(fitted: Fitted, sample: Sample, scenario_sample: ScenarioSample, repeat: int) -> pd.DataFrame:
    """Return one row per test observation; NaN where the baseline cannot predict it."""
    test = scenario_sample.observed("test").tolist()
    probabilities = fitted.probabilities(sample)[scenario_sample.observed("test")].cpu()
    frame = pd.DataFrame(
        {
            "repeat": repeat,
            "subject": [scenario_sample.subjects[i] for i in test],
            "observation": [scenario_sample.observations[i] for i in test],
            "truth": sample.target[scenario_sample.observed("test")].tolist(),
        }
    )
    return frame.assign(**{f"p_{k}": probabilities[:, k].numpy() for k in range(sample.classes)})


def _curve(
    fitted: Fitted,
    sample: Sample,
    scenario_sample: ScenarioSample,
    repeat: int,
    rates: tuple[float, ...],
    modalities: tuple[str, ...],
    seed: int,
) -> pd.DataFrame:
    """Predict with one trained baseline while rising shares of the test scans are hidden."""
    tested = scenario_sample.scans[scenario_sample.scans["split"] == "test"]
    frames = []
    for modality in modalities if len(modalities) > 1 and len(tested) else ():
        for rate in rates:
            available, _ = hide_scans(tested, {modality: rate}, seed)
            hidden_names = set(available.loc[~available["available"], "scan"])
            hidden = torch.tensor(
                [scan in hidden_names for scan in scenario_sample.scans["scan"]], device=sample.feature_maps.device
            )
            frame = _predictions(fitted, sample.without(hidden), scenario_sample, repeat)
            frames.append(frame.assign(hidden_modality=modality, rate=rate, where="test"))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


@contextmanager
def _peak_memory(runtime: Runtime) -> Iterator[dict[str, float]]:
    """Measure the largest resident set, MB; on CUDA the most memory that torch allocated."""
    peak = {"mb": float("nan")}
    if runtime.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(runtime.device)
        yield peak
        peak["mb"] = round(torch.cuda.max_memory_allocated(runtime.device) / 1e6, 1)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the kernel counts the largest resident set anew
    except OSError:  # another system, or /proc may not be written to
        yield peak
        return
    yield peak
    (high_water,) = re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    peak["mb"] = round(int(high_water) * 1024 / 1e6, 1)
