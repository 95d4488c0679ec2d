"""Stages are declared right, and what they need is asked for first."""

import dataclasses
from typing import Any

import pytest
from pydantic import BaseModel

from console.errors import InputError
from pipeline.core.runtime import Runtime
from pipeline.runner.plan import Step
from pipeline.runner.run import check_device
from pipeline.runner.stage import Stage
from pipeline.specs.registry import STAGES
from pipeline.store.scan_set import ScanSet


def sharpen(out: ScanSet, config: BaseModel, runtime: Runtime) -> None: ...


def misspelt(out: ScanSet, conf: BaseModel, runtime: Runtime) -> Any: ...


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_functions_take_what_their_stages_declare(stage: Stage) -> None:
    """Names are resolved and signatures compared when a stage runs; here, for all of them."""
    stage.check_functions()


def test_a_function_that_takes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"x:sharpen": sharpen, "x:misspelt": misspelt}
    monkeypatch.setattr("pipeline.runner.stage.named", names.get)
    stage = Stage("sharpen", "x:sharpen", BaseModel, "x:sharpen", 1, per_scan="x:sharpen")
    stage.check_functions()
    with pytest.raises(TypeError, match=r"x:misspelt takes \['out', 'conf', 'runtime'\], but .* is declared"):
        dataclasses.replace(stage, per_scan="x:misspelt").check_functions()


def test_a_device_for_scans_may_be_elsewhere() -> None:
    stages = {stage.name: stage for stage in STAGES}
    steps = [Step(stages[name], "run", (), True) for name in ("preprocess", "features")]
    with pytest.raises(InputError, match="--device cuda:77 is not present"):
        check_device(steps, "cuda:77")
    check_device(steps, "cuda:77", elsewhere=True)
    with pytest.raises(InputError, match="--device cuda:77 is not present"):
        check_device([*steps, Step(stages["pretrain"], "run", (), True)], "cuda:77", elsewhere=True)
