"""Creation of the configured executor, and release of its workers at the end."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from files.writing import remove_folder
from pipeline.executors.config import ExecutorConfig
from pipeline.executors.private_folder import FOLDER
from pipeline.executors.registry import EXECUTORS
from pipeline.runner.executor import Executor
from pipeline.runner.stage import named


def executor_of(config: ExecutorConfig, workspace: Path, *, device: str) -> Executor:
    """Return the configured executor; nothing is started yet.

    Args:
        config: section `executor` of the settings.
        workspace: of the run.
        device: as requested with --device.
    """
    executor: Executor = named(EXECUTORS[config.kind].implementation)(config, workspace, device=device)
    return executor


@contextmanager
def opened(config: ExecutorConfig, workspace: Path, *, device: str) -> Iterator[Executor]:
    """Yield the configured executor; its workers are stopped at the end, also after errors.

    The private folder of an interrupted run is removed first.
    """
    remove_folder(workspace / FOLDER, below=workspace)
    executor = executor_of(config, workspace, device=device)
    try:
        yield executor
    finally:
        executor.release_workers()
