"""HyperMM over NVFlare: the controller of the server and the executor of a site.

NVFlare brings the connections, the certificates and the jobs; what is averaged, and what is refused, is in
`models.federated_hypermm`. Only this module imports NVFlare (extra `federation`).
"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.app_common.workflows.model_controller import ModelController
from sklearn.metrics import roc_auc_score

from console.errors import InputError
from files.reading import parse_json, read_bytes
from models.federated_averaging import Update
from models.federated_hypermm import Arrays, Server, Step, TooFewSitesError
from pipeline.federation.rounds import Job, Patience, WorkspaceSite
from pipeline.store.base import write_json
from pipeline.store.base import write_record as write_with_hash

SITE_FILE = "hypermm.json"  # in the folder `local` of a site's NVFlare kit: {"workspace": "/path/of/the/workspace"}
EXTRACTOR, CLASSIFIER = "phi.", "rho."  # before the names of weights


class HyperMMController(ModelController):
    """The server: sends weights, checks and averages what comes back, and writes the model and what happened.

    Args:
        job_json: of `pipeline.federation.rounds.Job.to_json`, as text.
    """

    def __init__(self, job_json: str) -> None:
        super().__init__(persistor_id="", ignore_result_error=True, allow_empty_global_weights=True)
        self.job_json = job_json
        self.patience = Patience()

    def run(self) -> None:
        """Train φ and ρ, and leave `model.safetensors` and `federation.json` in the folder of the run."""
        job = Job.from_json(json.loads(self.job_json))
        server = Server(job.layout, job.settings, job.rounds)
        folder = Path(self.get_run_dir())
        try:
            extractor, classifier = self._train(job, server)
        except TooFewSitesError as error:
            server.log.lines.append(str(error))
            self.panic(str(error))
            return
        finally:
            write_json(folder / "federation.json", {"log": server.log.lines, "refused": server.log.refused})
        state = _named(EXTRACTOR, extractor) | _named(CLASSIFIER, classifier)
        facts = {"job": json.dumps(job.to_json(), sort_keys=True)}
        (folder / "model.safetensors").write_bytes(safetensors.numpy.save(state, facts))
        self._ask("finish", 0, state, job.timeout_s)

    def _train(self, job: Job, server: Server) -> tuple[Arrays, Arrays]:
        asked = [client.name for client in self.engine.get_clients()]
        sent = self._ask("statistics", 0, {"none": np.zeros(1)}, job.timeout_s)
        sums = {str(m.meta["client_name"]): (str(m.meta.get("settings")), m.params) for m in sent}
        server.start(sums, asked=asked)
        found: list[Arrays] = []
        steps: tuple[tuple[Step, int], ...] = (
            ("extractor", job.rounds.extractor),
            ("classifier", job.rounds.classifier),
        )
        for step, count in steps:
            for number in range(1, count + 1):
                server.take(step, number, self._updates(step, number, server, found, job), asked=asked)
                self.info(server.log.lines[-1])
            found.append(server.finish(step, self._updates(step, count + 1, server, found, job)))
        return found[0], found[1]

    def _updates(self, step: Step, number: int, server: Server, found: list[Arrays], job: Job) -> list[Update]:
        given = _named(EXTRACTOR, found[0]) if step == "classifier" else {}
        given |= _named(CLASSIFIER if step == "classifier" else EXTRACTOR, server.state)
        return [_update(model) for model in self._ask(step, number, given, job.timeout_s)]

    def _ask(self, task: str, number: int, state: Arrays, timeout_s: int) -> list[FLModel]:
        data = FLModel(params=state, params_type=ParamsType.FULL, current_round=number)
        asked = [client.name for client in self.engine.get_clients()]
        fewest, longer_s = self.patience.waits(asked, timeout_s)
        found: list[FLModel] = self.broadcast_model(
            task_name=task, data=data, timeout=timeout_s, min_responses=fewest, wait_time_after_min_received=longer_s
        )
        self.patience.note(asked, {str(model.meta["client_name"]): _seconds(model) for model in found})
        return found


def _seconds(model: FLModel) -> float:
    """Return how long a site says that it worked on an answer."""
    said = model.meta.get("seconds")
    return float(said) if isinstance(said, int | float) else 0.0


def _update(model: FLModel) -> Update:
    """Return what a site sent; what is missing becomes what `screen` refuses."""
    meta = model.meta
    try:
        loss = meta.get("validation_loss")
        return Update(
            str(meta["client_name"]), str(meta.get("settings")), dict(model.params), int(meta.get("items", 0)),
            np.array(meta.get("owned", []), dtype=np.int64), None if loss is None else float(loss),
            int(meta.get("validation_items", 0)),
        )  # fmt: skip
    except (TypeError, ValueError, OverflowError):
        return Update(str(meta["client_name"]), "what it sent cannot be read", {}, 0, np.zeros(0, dtype=np.int64))


class HyperMMExecutor(Executor):
    """A site: trains on its own workspace, which it never sends.

    Args:
        job_json: as at the server.
        workspace: of this site, for the simulator; empty: as `local/hypermm.json` of the site's kit says.
    """

    def __init__(self, job_json: str, workspace: str = "") -> None:
        super().__init__()
        self.job_json, self.workspace = job_json, workspace
        self.site: WorkspaceSite | None = None

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """Do one task: statistics, extractor, classifier, finish."""
        begun = time.monotonic()
        try:
            if self.site is None:
                self.site = self._site(fl_ctx)
            given = FLModelUtils.from_shareable(shareable)
            answer = self.answer(task_name, given, self.site, fl_ctx)
            answer.meta["seconds"] = round(time.monotonic() - begun, 3)
            return FLModelUtils.to_shareable(answer)
        except (InputError, FloatingPointError, OSError, ValueError) as error:
            self.log_error(fl_ctx, f"{task_name}: {error}")
            return make_reply(ReturnCode.EXECUTION_EXCEPTION)

    def answer(self, task: str, given: FLModel, site: WorkspaceSite, fl_ctx: FLContext) -> FLModel:
        """Return what is sent for a task."""
        meta: dict[str, Any] = {"settings": site.settings}
        if site.local is None:  # the server names this site by the other hash
            return FLModel(params={"none": np.zeros(1)}, params_type=ParamsType.FULL, meta=meta)
        if task == "statistics":
            return FLModel(params=site.local.statistics(), params_type=ParamsType.FULL, meta=meta)
        extractor, classifier = (_without(prefix, given.params) for prefix in (EXTRACTOR, CLASSIFIER))
        if task == "finish":
            self._write(site, extractor, classifier, given.params, fl_ctx)
            return FLModel(params={"none": np.zeros(1)}, params_type=ParamsType.FULL, meta=meta)
        step: Step = "classifier" if task == "classifier" else "extractor"
        update = site.local.round(step, int(given.current_round), extractor | classifier)
        meta |= {
            "items": update.items, "owned": update.owned.tolist(), "validation_loss": update.validation_loss,
            "validation_items": update.validation_items,
        }  # fmt: skip
        return FLModel(params=dict(update.state), params_type=ParamsType.FULL, meta=meta)

    def _site(self, fl_ctx: FLContext) -> WorkspaceSite:
        folder = Path(self.workspace)
        if not self.workspace:
            kit = fl_ctx.get_engine().get_workspace().get_site_config_dir()
            said = parse_json(read_bytes(Path(kit) / SITE_FILE))
            if not isinstance(said, dict) or not isinstance(said.get("workspace"), str):
                raise InputError(f'{Path(kit) / SITE_FILE}: expected {{"workspace": "/path/of/the/workspace"}}')
            folder = Path(said["workspace"])
        site = WorkspaceSite(fl_ctx.get_identity_name(), folder, Job.from_json(json.loads(self.job_json)))
        for line in site.wrong:
            self.log_error(fl_ctx, f"other settings than the job (the job's first): {line}")
        return site

    def _write(
        self, site: WorkspaceSite, extractor: Arrays, classifier: Arrays, state: Arrays, fl_ctx: FLContext
    ) -> None:
        """Write the model, and how it does on this site's test patients, into the folder of the run at this site."""
        folder = Path(fl_ctx.get_engine().get_workspace().get_run_dir(fl_ctx.get_job_id()))
        (folder / "model.safetensors").write_bytes(safetensors.numpy.save(state, {"job": self.job_json}))
        table = site.predictions(extractor, classifier)
        table.to_csv(folder / "predictions.csv", index=False)
        write_with_hash(folder / "tested.json", {"test_observations": len(table), "auc": _auc(table)})
        self.log_info(fl_ctx, f"the model and predictions of {len(table)} test observations → {folder}")


def _auc(table: Any) -> float | None:
    """Return the AUC of the second of two classes; None with more classes, or where one is not tested."""
    names = [name for name in table.columns if name.startswith("probability_")]
    if len(names) != 2:
        return None
    truth = (table["truth"] == names[1].removeprefix("probability_")).to_numpy()
    return float(roc_auc_score(truth, table[names[1]])) if 0 < truth.sum() < len(truth) else None


def _named(prefix: str, state: Arrays) -> Arrays:
    return {prefix + name: values for name, values in state.items()}


def _without(prefix: str, state: Arrays) -> Arrays:
    return {name.removeprefix(prefix): values for name, values in state.items() if name.startswith(prefix)}
