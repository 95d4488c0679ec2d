"""Stages are declared right, and what they need is asked for first."""

from typing import Any

import pytest
from pydantic import BaseModel

from console.errors import InputError
from pipeline.core.runtime import Runtime
from pipeline.runner.plan import Step
from pipeline.runner.run import check_device
from pipeline.runner.stage import Stage
from pipeline.specs.registry import STAGES
from pipeline.store.scans import ScanSet


def test_a_job_takes_what_its_stage_takes() -> None:
    def sharpen(out: ScanSet, config: BaseModel, runtime: Runtime) -> None: ...

    def misspelt(out: ScanSet, conf: BaseModel, runtime: Runtime) -> Any: ...

    Stage(sharpen, config=BaseModel, writes=ScanSet, version=1, job=sharpen)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"stage sharpen's job takes \['out', 'conf', 'runtime'\], but declares"):
        Stage(sharpen, config=BaseModel, writes=ScanSet, version=1, job=misspelt)


def test_a_device_for_scans_may_be_elsewhere() -> None:
    stages = {stage.name: stage for stage in STAGES}
    steps = [Step(stages[name], "run", (), True) for name in ("preprocess", "features")]
    with pytest.raises(InputError, match="--device cuda:77 is not there"):
        check_device(steps, "cuda:77")
    check_device(steps, "cuda:77", elsewhere=True)
    with pytest.raises(InputError, match="--device cuda:77 is not there"):
        check_device([*steps, Step(stages["pretrain"], "run", (), True)], "cuda:77", elsewhere=True)
