"""Tasks of the comparison: one baseline in one scenario and repeat; a failed task does not stop the others."""

import dataclasses
import logging
import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from baselines.methods import Baseline, chosen_baselines, units_of
from baselines.names import KEYS
from baselines.sample import CannotFit, Fitted, Sample
from cohort.missingness import hide_scans
from console.errors import DISK_FULL, InputError
from devices.allocator import release_freed_memory
from evaluation.published import COMPLETE
from models.settings import seed_of_repeat
from pipeline.comparison.scenarios import Scenario, ScenarioSample, Tests, build_sample, in_order, scans_in
from pipeline.comparison.subsets import of_those_who_have_it
from pipeline.core.provenance import digest, result_settings
from pipeline.core.runtime import Runtime
from pipeline.specs.baselines import BaselinesConfig
from pipeline.store.base import DamagedError
from pipeline.store.comparison import ComparisonSet
from pipeline.store.features import FeatureStore
from pipeline.training.repeat_data import RepeatData

log = logging.getLogger("hypermm")
FAILED = "failed "  # prefix of the key of a task that raised: the task is run again
SHARED = "a network was trained by an earlier task"
TaskResult = tuple[dict[str, pd.DataFrame], dict[str, Any]]  # file → table, facts of the record
NOT_IN_A_TASK = (
    "only", "scenarios", "rates", "patients", "mechanisms", "published", "gan", "curve_rates", "mark_batch",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Unit:
    """Tasks of one scenario and repeat that one process does one after the other, since they have networks in common.

    Attributes:
        scenario: which.
        repeat: its number.
        data: the scans that the scenario leaves, in the order of the sample.
        tasks: name of the method and key of each.
        tests: reasons or subsets for which test scans are hidden in turn, with the names of these; none as a rule.
    """

    scenario: Scenario
    repeat: int
    data: RepeatData
    tasks: tuple[tuple[str, str], ...]
    tests: Tests = ()


@dataclasses.dataclass
class ComparisonTasks:
    """The inputs that all tasks share.

    Attributes:
        features: feature maps.
        out: folders of the results.
        config: of the stage.
        runtime: of the stage.
        modalities: names.
        pictures: the scans are pictures.
        version: of the stage.
        keys: folder of a task → hash of the inputs of a valid result.
    """

    features: FeatureStore
    out: ComparisonSet
    config: BaselinesConfig
    runtime: Runtime
    modalities: tuple[str, ...]
    pictures: bool
    version: int
    keys: dict[Path, str] = dataclasses.field(default_factory=dict)

    def left(self, scenario: Scenario, repeat: int, data: RepeatData) -> tuple[RepeatData, list[str]]:
        """Return a repeat with the scans that a scenario leaves, and notes on shares that could not be hidden.

        Every repeat hides scans of other subjects.
        """
        scans, notes = scans_in(scenario, data, seed_of_repeat(self.config.seed, repeat))
        return dataclasses.replace(data, scans=in_order(scans)), notes

    def sample(self, data: RepeatData) -> ScenarioSample:
        """Load the feature maps of the scans that a scenario leaves."""
        return build_sample(data.scans, data, self.features, self.runtime.device)

    def key(self, scenario: Scenario, repeat: int, data: RepeatData, *more: Any) -> str:
        """Return the hash of all inputs of a task; `data` as `left` gives it."""
        return digest([*self._inputs(scenario, repeat, data), more])

    def _inputs(self, scenario: Scenario, repeat: int, data: RepeatData) -> list[Any]:
        """Return the inputs that all tasks of a scenario and repeat have."""
        settings = {k: v for k, v in result_settings(self.config).items() if k not in NOT_IN_A_TASK}
        content = self.features.scans()
        names = data.scans["scan"]  # a table has its values among them, and no file
        rows = data.scans.assign(content=[content.get(name, "") for name in names]).to_dict("split")
        labels = data.scans.drop_duplicates("observation")["label"]
        numbers = [self.modalities, len(data.classes), [data.classes.index(c) for c in labels]]
        # the numbers stand for names, in predictions
        if data.scans.drop_duplicates("observation")["subject"].duplicated().any():
            numbers.append("the joint model's folds are of patients")  # they were of sessions
        which = dataclasses.asdict(scenario)
        for name in ("lost_by", "subsets", "shuffled"):
            if not which[name]:
                del which[name]  # as before there was such a thing, so that what was trained stays valid
        return [self.version, settings, which, repeat, rows, numbers]

    def units(
        self,
        scenario: Scenario,
        repeat: int,
        data: RepeatData,
        methods: Sequence[Baseline],
        wanted: Collection[str],
        tests: Tests = (),
    ) -> list[Unit]:
        """Note the keys of baselines that need only feature maps; return those that are wanted and not finished.

        Args:
            scenario: which.
            repeat: its number.
            data: as `left` gives it.
            methods: all of them.
            wanted: names of those to be fitted.
            tests: as in `Unit`.
        """
        keys: dict[str, str] = {}
        inputs = self._inputs(scenario, repeat, data)
        for method in methods:
            folder = self.out.folder_of(scenario.name, method.name, repeat)
            self.keys[folder] = digest([*inputs, (method.name, self._rates(scenario), *([tests] if tests else []))])
            if method.name in wanted and self.out.record(folder, self.keys[folder]) is None:
                keys[method.name] = self.keys[folder]
        learning = data.scans[data.scans["split"] != "test"]
        whole = bool((learning.groupby("observation")["modality"].nunique() == len(self.modalities)).all())
        return [
            Unit(scenario, repeat, data, tuple((method.name, keys[method.name]) for method in unit), tests)
            for unit in units_of((method for method in methods if method.name in keys), whole=whole)
        ]

    def fit(self, unit: Unit, advance: Callable[[], None]) -> None:
        """Fit the baselines of a unit that are not finished; call `advance` after each of them."""
        loaded = self.sample(unit.data).sample
        raw, standardised = loaded.sharing(), loaded.standardised().sharing()
        methods = {method.name: method for method in chosen_baselines(KEYS, self.modalities, pictures=self.pictures)}
        peak_mb = 0.0
        for name, key in unit.tasks:
            folder = self.out.folder_of(unit.scenario.name, name, unit.repeat)
            if self.out.record(folder, key) is None:
                method, label = methods[name], f"{unit.scenario.name}, {name}, repeat {unit.repeat}"
                given = standardised if method.standardised else raw
                fit = partial(self._simple, unit, method, given)
                peak_mb = self.task(folder, key, label, fit, shared_peak_mb=peak_mb)
            advance()

    def _rates(self, scenario: Scenario) -> tuple[float, ...]:
        return self.config.curve_rates if scenario.name == COMPLETE else ()

    def _simple(self, unit: Unit, method: Baseline, sample: Sample) -> TaskResult:
        """Fit a baseline that needs only feature maps, and predict with it."""
        started = time.monotonic()
        before = sample.reused_seconds()
        fitted = method.fit(sample, method.training(self.config.training(unit.repeat)))
        tables = predictions_of(fitted.probabilities(sample), unit.data, unit.repeat)
        reused = sample.reused_seconds() - before
        facts = {
            "trained_parameters": fitted.parameters,
            "notes": list(getattr(fitted, "notes", ())),
            "classification_seconds": round(time.monotonic() - started + reused, 3),
            SHARED: reused > 0,
            **getattr(fitted, "facts", {}),
        }
        if rates := self._rates(unit.scenario):
            tables["curve.csv"] = _curve(
                fitted, sample, unit.data, unit.repeat, rates, self.modalities,
                seed_of_repeat(self.config.seed, unit.repeat), predictions=tables["predictions.csv"],
            )  # fmt: skip
        if unit.tests:
            in_turn = _hidden_in_turn(fitted, sample, unit)
            if unit.scenario.subsets:
                tables["subsets.csv"] = of_those_who_have_it(in_turn, unit.data)
            else:
                tables["mechanisms.csv"] = in_turn
        return tables, facts

    def _named(self, text: str) -> str:
        """Replace modality numbers, as baselines write them, by names."""
        return re.sub(r"\bmodality (\d+)\b", lambda match: self.modalities[int(match[1])], text)

    def task(
        self,
        folder: Path,
        key: str,
        label: str,
        fit: Callable[[], TaskResult],
        *,
        begun: str | None = None,
        shared_peak_mb: float = 0.0,
    ) -> float:
        """Fit one baseline and write its result; record and log a failure, and continue with the others.

        Args:
            folder: of the result.
            key: hash of the inputs.
            label: scenario, method and repeat, for messages.
            fit: returns tables and facts; its `SHARED` tells that a network was trained by an earlier task.
            begun: hash of the inputs of what is half done in the folder, such as checkpoints; None: the key.
            shared_peak_mb: most memory that the earlier tasks of the unit took.

        Returns:
            The most memory that this and the earlier tasks of the unit took, MB.
        """
        self.out.begin(folder, begun or key)
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
            taken = max(peak["mb"], shared_peak_mb) if facts.pop(SHARED, False) else peak["mb"]
            self.out.finish(folder, key, tables, facts | {"peak_memory_mb": taken})
        return max(peak["mb"], shared_peak_mb)


def predictions_of(probabilities: Tensor, data: RepeatData, repeat: int) -> dict[str, pd.DataFrame]:
    """Return the tables of test and validation predictions.

    Args:
        probabilities: of all observations in the order of `data`, (B, K); NaN where there is no prediction.
        data: as `ComparisonTasks.left` gives it.
        repeat: its number.
    """
    names = {"predictions.csv": "test", "validation.csv": "validation"}
    return {name: _rows(probabilities, data, repeat, split) for name, split in names.items()}


def _rows(probabilities: Tensor, data: RepeatData, repeat: int, split: str) -> pd.DataFrame:
    """Return one row per observation of a split."""
    everybody = data.scans.drop_duplicates("observation").reset_index(drop=True)
    some = everybody[everybody["split"] == split]
    frame = pd.DataFrame(
        {
            "repeat": repeat,
            "subject": some["subject"].tolist(),
            "observation": some["observation"].tolist(),
            "truth": [data.classes.index(label) for label in some["label"]],
        }
    )
    predicted = probabilities.cpu()[torch.tensor(some.index.to_list(), dtype=torch.int64)]
    return frame.assign(**{f"p_{k}": predicted[:, k].numpy() for k in range(len(data.classes))})


def _curve(
    fitted: Fitted,
    sample: Sample,
    data: RepeatData,
    repeat: int,
    rates: tuple[float, ...],
    modalities: tuple[str, ...],
    seed: int,
    *,
    predictions: pd.DataFrame,
) -> pd.DataFrame:
    """Predict with one trained baseline while rising shares of the test scans are hidden.

    `predictions` are those with nothing hidden.
    """
    tested = data.scans[data.scans["split"] == "test"]
    frames = []
    for modality in modalities if len(modalities) > 1 and len(tested) else ():
        for rate in rates:
            available, _ = hide_scans(tested, {modality: rate}, seed)
            hidden_names = set(available.loc[~available["available"], "scan"])
            hidden = torch.tensor(
                [scan in hidden_names for scan in data.scans["scan"]], device=sample.feature_maps.device
            )
            frame = predictions
            if hidden_names:
                frame = _rows(fitted.probabilities(sample.without(hidden)), data, repeat, "test")
            frames.append(frame.assign(hidden_modality=modality, rate=rate, where="test"))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _hidden_in_turn(fitted: Fitted, sample: Sample, unit: Unit) -> pd.DataFrame:
    """Predict with one trained baseline while test scans are hidden for each reason; column `tested` says which."""
    frames = []
    for reason, scans in unit.tests:
        hidden = torch.tensor(unit.data.scans["scan"].isin(scans).to_numpy(), device=sample.feature_maps.device)
        frame = _rows(fitted.probabilities(sample.without(hidden)), unit.data, unit.repeat, "test")
        frames.append(frame.assign(tested=reason))
    return pd.concat(frames, ignore_index=True)


@contextmanager
def _peak_memory(runtime: Runtime) -> Iterator[dict[str, float]]:
    """Measure the largest resident set, MB; on CUDA the most memory that torch allocated."""
    peak = {"mb": float("nan")}
    if runtime.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(runtime.device)
        yield peak
        peak["mb"] = round(torch.cuda.max_memory_allocated(runtime.device) / 1e6, 1)
        return
    release_freed_memory()  # of earlier tasks, where it is kept
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the kernel counts the largest resident set anew
    except OSError:  # another system, or /proc may not be written to
        yield peak
        return
    yield peak
    (high_water,) = re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    peak["mb"] = round(int(high_water) * 1024 / 1e6, 1)
