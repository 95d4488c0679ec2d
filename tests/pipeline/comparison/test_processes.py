"""Units of the comparison side by side: the bytes of one process, and what a failure, a kill and Ctrl-C cost."""

import dataclasses
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from helpers import toy_run

from baselines.methods import Baseline, chosen_baselines
from baselines.names import KEYS
from baselines.sample import Sample
from evaluation.published import AS_IT_IS
from pipeline.comparison.processes import (
    PROCESS_BYTES,
    do_units,
    memory_of_process,
    number_of_processes,
)
from pipeline.comparison.scenarios import Scenario
from pipeline.comparison.tasks import FAILED, ComparisonTasks, TaskResult, Unit
from pipeline.core.runtime import Runtime
from pipeline.specs.baselines import BaselinesConfig
from pipeline.store.comparison import ComparisonSet
from pipeline.store.features import FeatureStore
from pipeline.store.tables import CohortTables, SplitTables
from pipeline.training.repeat_data import data_of_repeat

WANTED = ("hypermm", "multi_cnn", "mean", "shaspec", "averaged_probes", "linear_set")
SCENARIOS = (Scenario("complete"), Scenario(AS_IT_IS, complete_only=False))


@dataclasses.dataclass
class Faulty(ComparisonTasks):
    """Tasks of which one is not like the others.

    Attributes:
        fault: "" for none; or what the linear set function does in repeat 2: "raise", "die" (once), "wait".
    """

    fault: str = ""

    def _simple(self, unit: Unit, method: Baseline, sample: Sample) -> TaskResult:
        if method.name == "linear set function" and unit.repeat == 2:
            flag = self.out.folder.parent / "died"
            if self.fault == "raise":
                raise RuntimeError(f"out of luck with {torch.get_num_threads()} threads")
            if self.fault == "die" and not flag.exists():
                flag.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "wait":
                time.sleep(600)
        return super()._simple(unit, method, sample)


Make = Callable[..., tuple[Faulty, list[Unit]]]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cohort, split and feature maps of 60 subjects, two repeats."""
    folder = tmp_path_factory.mktemp("toy")
    toy_run.fill(folder, toy_run.scans())
    return folder


@pytest.fixture
def make(workspace: Path, tmp_path: Path) -> Make:
    """Makes the tasks, and their units."""

    def made(
        name: str, *, workers: int | None = None, fault: str = "", device: str = "cpu"
    ) -> tuple[Faulty, list[Unit]]:
        features = FeatureStore(workspace / "features")
        config = BaselinesConfig(epochs=2, workers=workers, curve_rates=(0.0, 0.5))
        runtime = Runtime(stage="baselines", key="", device_name=device, workspace=tmp_path)
        out = ComparisonSet(tmp_path / name / "baselines")
        run = Faulty(features, out, config, runtime, toy_run.MODALITIES, False, 1, fault=fault)
        methods = chosen_baselines(KEYS, toy_run.MODALITIES, pictures=False)
        wanted = {method.name for method in chosen_baselines(WANTED, toy_run.MODALITIES, pictures=False)}
        units: list[Unit] = []
        for scenario in SCENARIOS:
            for repeat in (1, 2):
                cohort, split = CohortTables(workspace / "cohort"), SplitTables(workspace / "split")
                left, _ = run.left(scenario, repeat, data_of_repeat(cohort, split, features, repeat))
                units += run.units(scenario, repeat, left, methods, wanted)
        return run, units

    return made


@pytest.fixture
def no_process_left() -> Iterator[None]:
    """Afterwards, no process is left."""
    yield
    assert multiprocessing.active_children() == []


def tables(run: Faulty) -> dict[str, bytes]:
    """File → content, of all finished tasks."""
    return {str(path.relative_to(run.out.folder)): path.read_bytes() for path in run.out.folder.rglob("*.csv")}


@pytest.mark.slow
def test_two_processes_give_the_bytes_of_one_and_report_a_failure_alike(
    make: Make, no_process_left: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hypermm")
    before, said, advanced = torch.get_num_threads(), {}, {}
    for workers in (1, 2):
        caplog.clear()
        run, units = make(f"by {workers}", workers=workers, fault="raise")
        done: list[int] = []
        do_units(run, units, done.append)
        said[workers] = [(r.getMessage(), "out of luck" in str(r.exc_text)) for r in caplog.records]
        advanced[workers] = sum(done)
        if workers == 1:
            alone = run
    assert torch.get_num_threads() == before
    assert len(tables(alone)) > 20
    assert tables(run) == tables(alone)
    assert run.runtime.notes == alone.runtime.notes
    assert run.runtime.results == alone.runtime.results
    failures = run.runtime.results["failures"]
    assert [failure["scan"] for failure in failures] == [
        f"{scenario.name}, linear set function, repeat 2" for scenario in SCENARIOS
    ]
    assert {failure["reason"] for failure in failures} == {"RuntimeError: out of luck with 1 threads"}
    record = run.out.finished(run.out.folder_of("complete", "linear set function", 2))
    assert record is not None
    assert record["key"].startswith(FAILED)
    assert sorted(text for text, _ in said[1]) == sorted(text for text, _ in said[2])
    assert len(said[2]) >= 2
    assert any("linear set function, repeat 2 failed" in text for text, _ in said[2])
    assert advanced[1] == advanced[2] == sum(len(unit.tasks) for unit in units) == 4 * len(WANTED)


@pytest.mark.slow
def test_a_killed_process_costs_nothing_but_time(
    make: Make, no_process_left: None, caplog: pytest.LogCaptureFixture
) -> None:
    run, units = make("killed", workers=2, fault="die")
    do_units(run, units, lambda _: None)
    (warning,) = (record.getMessage() for record in caplog.records if "ended before its work" in record.getMessage())
    assert warning.endswith("going on with 1")
    for unit in units:
        for name, key in unit.tasks:
            assert run.out.record(run.out.folder_of(unit.scenario.name, name, unit.repeat), key), name


@pytest.mark.slow
def test_an_interruption_ends_all_processes_at_once_and_what_is_finished_is_kept(
    make: Make, no_process_left: None
) -> None:
    run, units = make("stopped", workers=2, fault="wait")
    (waiting, *_), (first, *_) = (
        [unit for unit in units if (unit.repeat == repeat and unit.tasks[0][0] == name)]
        for repeat, name in ((2, "linear probes, averaged"), (1, "ShaSpec"))
    )

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        do_units(run, [waiting, first], stop)
    (name, key), *_ = first.tasks
    assert run.out.record(run.out.folder_of(first.scenario.name, name, first.repeat), key)
    probes, linear_set = waiting.tasks
    assert run.out.finished(run.out.folder_of(waiting.scenario.name, linear_set[0], 2)) is None


def test_as_many_processes_as_cores_units_and_memory_allow(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    module = "pipeline.comparison.processes"
    run, units = make("sizes")
    monkeypatch.setattr(f"{module}.available_cores", lambda: 6)
    monkeypatch.setattr(f"{module}.main_memory_bytes", lambda: 10**12)
    assert number_of_processes(run, units) == 6
    assert number_of_processes(run, units[:3]) == 3
    assert number_of_processes(run, []) == 1
    monkeypatch.setattr(f"{module}.main_memory_bytes", lambda: 4 * PROCESS_BYTES)  # three quarters are two, and a bit
    assert number_of_processes(run, units) == 2
    monkeypatch.setattr(f"{module}.main_memory_bytes", lambda: PROCESS_BYTES // 2)
    assert number_of_processes(run, units) == 1
    assert number_of_processes(*make("asked", workers=5)) == 5
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert number_of_processes(*make("gpu", workers=5, device="cuda")) == 1
    one, two = (memory_of_process((512, 7, 7), scans=scans, modalities=2) for scans in (1000, 2000))
    assert two - one == 1000 * 6 * 4 * 512 * 49
