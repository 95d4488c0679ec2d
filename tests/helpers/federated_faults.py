"""Sites that go wrong in round 2 of step 1, for NVFlare's simulator."""

import os
import signal
import time
from typing import Any

import numpy as np
from nvflare.app_common.abstract.fl_model import FLModel

from pipeline.federation.nvflare_parts import HyperMMExecutor
from pipeline.federation.rounds import WorkspaceSite

LATE_S = 45


class _Faulty(HyperMMExecutor):
    def answer(self, task: str, given: FLModel, site: WorkspaceSite, fl_ctx: Any) -> FLModel:
        if task == "extractor" and given.current_round == 2:
            self.go_wrong()
        return super().answer(task, given, site, fl_ctx)

    def go_wrong(self) -> None:
        """Do what this site does."""


class Killed(_Faulty):
    """Its process ends without a word."""

    def go_wrong(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Late(_Faulty):
    """It answers after the time is up."""

    def go_wrong(self) -> None:
        time.sleep(LATE_S)


class NotANumber(HyperMMExecutor):
    """It sends NaN from round 2 on."""

    def answer(self, task: str, given: FLModel, site: WorkspaceSite, fl_ctx: Any) -> FLModel:
        sent = super().answer(task, given, site, fl_ctx)
        if task == "extractor" and given.current_round == 2:
            sent.params = {name: np.full_like(values, np.nan) for name, values in sent.params.items()}
        return sent


class Scaled(HyperMMExecutor):
    """It sends a thousand times its change."""

    def answer(self, task: str, given: FLModel, site: WorkspaceSite, fl_ctx: Any) -> FLModel:
        sent = super().answer(task, given, site, fl_ctx)
        if task == "extractor" and given.current_round == 2:
            sent.params = {name: 1000 * values for name, values in sent.params.items()}
        return sent
