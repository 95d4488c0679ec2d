"""Slurm job with its script in the private folder of the run."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dask_jobqueue.slurm import SLURMJob


class WorkerJob(SLURMJob):
    """Slurm job of one worker.

    Args:
        scheduler: address of the scheduler.
        name: of the worker.
        private_folder: folder of the script while sbatch reads it, instead of /tmp, where other users could replace
            it.
        security: of the cluster; not used: dask-jobqueue does not quote paths, `worker_extra_args` name the files.
        options: as `SLURMJob` takes them.
    """

    def __init__(
        self, scheduler: Any = None, name: Any = None, *, private_folder: Path, security: Any = None, **options: Any
    ) -> None:
        super().__init__(scheduler=scheduler, name=name, **options)
        self.private_folder = private_folder

    @contextmanager
    def job_file(self) -> Iterator[str]:
        """Write the script and yield its path."""
        handle, path = tempfile.mkstemp(".sh", dir=self.private_folder)
        try:
            with os.fdopen(handle, "w") as stream:
                stream.write(self.job_script())
            yield path
        finally:
            Path(path).unlink(missing_ok=True)
