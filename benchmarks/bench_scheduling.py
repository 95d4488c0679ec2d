"""What a scan costs beside its work: the plan, its dispatch, its record. In process and with Dask."""

import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import distributed  # noqa: F401 - its settings have to be there before ours

from benchmarks.common import finish, options
from benchmarks.simulated_stage import STAGE, SimulatedConfig
from pipeline.executors.config import ExecutorConfig
from pipeline.executors.dispatch import DispatchingExecutor
from pipeline.executors.opened import opened
from pipeline.runner.plan import stale_reasons
from pipeline.runner.run import run_stage

WORKERS = 2
DASK_SCANS = 2_000  # of those that take time
WORK_S = 0.05


def run(workspace: Path, config: SimulatedConfig, executor_config: ExecutorConfig) -> dict[str, float]:
    """Milliseconds a scan: doing all, finding all done, and planning with all done."""
    settings: Any = SimpleNamespace(simulated=config)
    with opened(executor_config, workspace, device="cpu") as executor:
        if isinstance(executor, DispatchingExecutor):  # starting workers is paid once, not for every scan
            executor.connection.client().wait_for_workers(executor_config.workers or 1)
        started = time.perf_counter()
        run_stage(STAGE, settings, workspace, device="cpu", executor=executor)
        first = time.perf_counter() - started
        started = time.perf_counter()
        run_stage(STAGE, settings, workspace, device="cpu", executor=executor)
        again = time.perf_counter() - started
    started = time.perf_counter()
    reasons = stale_reasons(STAGE, settings, workspace)
    plan = time.perf_counter() - started
    if reasons or len(STAGE.writes(workspace / STAGE.name).manifest["scans"]) != config.scans:  # type: ignore[index]
        raise RuntimeError(f"not everything was done: {reasons}")
    seconds = {"the run": first, "a rerun with all done": again, "the plan with all done": plan}
    return {name: 1000 * taken / config.scans for name, taken in seconds.items()}


def main() -> None:
    """Run it."""
    arguments = options(__doc__ or "").parse_args()
    scans = 300 if arguments.quick else 10_000
    timed, workers = (40, 1) if arguments.quick else (DASK_SCANS, WORKERS)
    dask_executor = ExecutorConfig(kind="dask", workers=workers)
    results: dict[str, Any] = {"scans": scans, "workers": workers}
    with tempfile.TemporaryDirectory() as folder, dask.config.set(
        {"distributed.worker.preload": ["benchmarks.simulated_stage"]}
    ):  # fmt: skip
        ways = {"in process": ExecutorConfig(), f"Dask, {workers} workers": dask_executor}
        for way, executor in ways.items():
            taken = run(Path(folder) / way, SimulatedConfig(scans=scans), executor)
            results |= {f"ms a scan, {way}, {name}": value for name, value in taken.items()}
        config = SimulatedConfig(scans=timed, seconds=WORK_S)
        total = run(Path(folder) / "timed", config, dask_executor)["the run"]
        results[f"ms a scan of {1000 * WORK_S:g} ms, Dask, beyond its work, per worker"] = (
            workers * total - 1000 * WORK_S
        )
    finish("scheduling", results, arguments)


if __name__ == "__main__":
    main()
