"""Sites that go wrong in round 2 of step 1, for NVFlare's simulator, and files by which they tell what has happened."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
from nvflare.app_common.abstract.fl_model import FLModel

from models.federated_hypermm import Arrays
from pipeline.federation.nvflare_parts import HyperMMController, HyperMMExecutor
from pipeline.federation.rounds import WorkspaceSite

SIGNALS = "HYPERMM_TEST_SIGNALS"  # names the folder of the files
OVER, BACK = "round-2-is-over", "late-is-back"
LONGEST_S = 1500  # that anybody waits for a file
ROUND_S = 60  # that round 2 may take


def tell(name: str) -> None:
    """Make a file."""
    (Path(os.environ[SIGNALS]) / name).touch()


def wait_for(name: str) -> None:
    """Wait until a file is there."""
    end = time.monotonic() + LONGEST_S
    while not (Path(os.environ[SIGNALS]) / name).exists():
        if time.monotonic() > end:
            raise TimeoutError(name)
        time.sleep(0.1)


class ShortRound(HyperMMController):
    """The server, with little time for round 2 alone; it tells when that round is over."""

    def _ask(self, task: str, number: int, state: Arrays, timeout_s: int) -> list[FLModel]:
        is_short = (task, number) == ("extractor", 2)
        found = super()._ask(task, number, state, ROUND_S if is_short else timeout_s)
        if is_short:
            tell(OVER)
        return found


class _Faulty(HyperMMExecutor):
    def answer(self, task: str, given: FLModel, site: WorkspaceSite, fl_ctx: Any) -> FLModel:
        self.before(task, given.current_round)
        return super().answer(task, given, site, fl_ctx)

    def before(self, task: str, number: int) -> None:
        """Do what this site does before it answers."""


class Killed(_Faulty):
    """Its process ends without a word."""

    def before(self, task: str, number: int) -> None:
        if (task, number) == ("extractor", 2):
            os.kill(os.getpid(), signal.SIGKILL)


class Late(_Faulty):
    """It answers when round 2 is over, and is back then."""

    def before(self, task: str, number: int) -> None:
        if (task, number) == ("extractor", 2):
            wait_for(OVER)
        elif (task, number) != ("extractor", 1) and task in ("extractor", "classifier"):
            tell(BACK)


class Patient(_Faulty):
    """It is well, and gives the late one time to be back before the first round of step 2 ends."""

    def before(self, task: str, number: int) -> None:
        if (task, number) == ("classifier", 1):
            wait_for(BACK)


class NotANumber(HyperMMExecutor):
    """It sends NaN in round 2."""

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
