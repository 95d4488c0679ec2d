"""Stages are declared right, and a workspace has one holder at a time."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from pipeline.artifacts import ScanSet
from pipeline.lock import locked
from pipeline.registry import STAGES
from pipeline.runtime import InputError, Runtime
from pipeline.scheduler import Step, check_device
from pipeline.stage import Stage


def test_a_job_takes_what_its_stage_takes() -> None:
    def sharpen(out: ScanSet, config: BaseModel, runtime: Runtime) -> None: ...

    def misspelt(out: ScanSet, conf: BaseModel, runtime: Runtime) -> Any: ...

    Stage(sharpen, config=BaseModel, writes=ScanSet, version=1, job=sharpen)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"stage sharpen's job takes \['out', 'conf', 'runtime'\], but declares"):
        Stage(sharpen, config=BaseModel, writes=ScanSet, version=1, job=misspelt)


def test_who_holds_the_workspace_and_since_when(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with locked(tmp_path):
        holder = json.loads((tmp_path / ".lock").read_text())
        words = rf"in use by process {holder['process']} on {holder['host']} since {holder['since'][:10]}.*; wait for"
        with pytest.raises(InputError, match=words), locked(tmp_path):
            pass
        assert json.loads((tmp_path / ".lock").read_text()) == holder
    assert (tmp_path / ".lock").read_text() == ""  # a run on another machine is not told of one that ended well
    with locked(tmp_path):
        pass
    assert not caplog.messages


def test_a_run_on_another_machine_that_did_not_end_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its lock may not reach this machine, so a person has to know."""
    left = {"process": 17, "host": "another-machine", "since": "2026-01-31T22:00:00+01:00"}
    (tmp_path / ".lock").write_text(json.dumps(left))
    with locked(tmp_path):
        pass
    (message,) = caplog.messages
    assert "process 17 on another-machine since 2026-01-31T22:00:00+01:00" in message
    assert "stop this one" in message


def test_a_device_for_scans_may_be_elsewhere() -> None:
    stages = {stage.name: stage for stage in STAGES}
    steps = [Step(stages[name], "run", (), True) for name in ("preprocess", "features")]
    with pytest.raises(InputError, match="--device cuda:77 is not there"):
        check_device(steps, "cuda:77")
    check_device(steps, "cuda:77", elsewhere=True)
    with pytest.raises(InputError, match="--device cuda:77 is not there"):
        check_device([*steps, Step(stages["pretrain"], "run", (), True)], "cuda:77", elsewhere=True)
