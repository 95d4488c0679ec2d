"""A stage that does nothing to its scans, for what it costs to dispatch and to record them.

Dask loads this in the workers of `bench_scheduling` (`distributed.worker.preload`), so that they know the stage too.
"""

import time
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from pipeline.core.provenance import digest
from pipeline.core.runtime import Runtime
from pipeline.executors import worker
from pipeline.runner.per_scan import ScanJob, each_scan, scan_contents
from pipeline.runner.stage import Stage
from pipeline.store.scan_set import ScanSet


class SimulatedConfig(BaseModel):
    """How many scans, and how long each takes."""

    scans: int
    seconds: float = 0.0


def simulated(out: ScanSet, config: SimulatedConfig, runtime: Runtime) -> None:
    """Write a file of a few bytes per scan."""
    job = simulated_job(out, config, runtime)
    each_scan(job, out, runtime)
    runtime.results |= scan_contents(out, job.keys)


def simulated_job(out: ScanSet, config: SimulatedConfig, runtime: Runtime) -> ScanJob:
    """Process one scan: wait."""

    def work(scan: str, loaded: Any) -> None:
        if config.seconds:
            time.sleep(config.seconds)

    def save(scan: str, result: Any) -> Mapping[str, Any]:
        (out.begin(scan) / "picture.png").write_bytes(scan.encode())
        return {}

    keys = {f"scan-{number:05d}": digest(number) for number in range(config.scans)}
    return ScanJob(keys, load=lambda scan: None, work=work, save=save)


STAGE = Stage(
    "simulated",
    function=f"{__name__}:simulated",
    config=SimulatedConfig,
    artifact="pipeline.store.scan_set:ScanSet",
    version=1,
    per_scan=f"{__name__}:simulated_job",
)


def dask_setup(_: Any) -> None:
    """Register the stage; called by Dask in a worker."""
    worker.STAGES = (STAGE,)
