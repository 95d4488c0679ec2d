"""Settings of executors: which are refused, and that no result depends on them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.options import parser
from pipeline.executors.config import ExecutorConfig
from pipeline.executors.registry import EXECUTORS
from pipeline.runner.plan import made_from
from pipeline.settings import describe_settings, load_settings
from pipeline.specs.registry import STAGES


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"workers": 2}, "--executor dask"),
        ({"worker_memory": "8GB"}, "--executor dask"),
        ({"kind": "local", "workers": 2}, "executor.workers goes with executor.kind dask or slurm"),
        ({"kind": "dask", "workers": 0}, "greater than or equal to 1"),
        ({"kind": "dask", "worker_memory": "lots"}, "should match pattern"),
        ({"kind": "slurm", "scheduler": "tcp://10.0.0.5:8786"}, "goes with executor.kind dask"),
        ({"kind": "dask", "scheduler": "10.0.0.5:8786"}, "begins with tcp:// or tls://"),
        ({"kind": "dask", "scheduler": "tcp://10.0.0.5"}, "should match pattern"),
        ({"kind": "dask", "scheduler": "tcp://10.0.0.5:8786", "workers": 2}, "are started elsewhere"),
        ({"kind": "slurm", "slurm": {"gpus": 2}}, "less than or equal to 1"),
    ],
)
def test_settings_that_make_no_sense(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExecutorConfig(**given)


def test_command_line_and_settings_know_the_executors_of_the_table() -> None:
    (option,) = (action for action in parser()._actions if action.dest == "executor")
    assert option.choices == tuple(EXECUTORS) == ("local", "dask", "slurm")
    assert '--executor.kind (default "local") local | dask | slurm' in describe_settings()
    with pytest.raises(ValueError, match="Input should be 'local', 'dask' or 'slurm'"):
        ExecutorConfig(kind="cloud")


def test_no_row_names_a_setting_that_is_not_there() -> None:
    for entry in EXECUTORS.values():
        assert set(entry.settings) <= set(ExecutorConfig.model_fields)


def test_the_executor_changes_no_key(picture_cohort: Callable[..., Path], tmp_path: Path) -> None:
    """Results of one executor are up to date for another."""
    config = picture_cohort(tmp_path / "data", subjects=6)
    local = load_settings(config, {"features.weights": "random"})
    slurm = load_settings(config, {"features.weights": "random", "executor.kind": "slurm", "executor.workers": "9"})
    assert slurm.executor != local.executor
    for stage in STAGES:
        assert made_from(stage, local, tmp_path) == made_from(stage, slurm, tmp_path)
