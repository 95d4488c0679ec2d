"""HyperMM over NVFlare's simulator: a process for each site on this machine, and sites that go wrong in a round."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy

from pipeline.core.provenance import REPOSITORY

pytest.importorskip("nvflare", reason="the extra federation is not installed: pip install '.[federation]'")

from types import SimpleNamespace  # noqa: E402

from helpers import federated_faults, federated_sites  # noqa: E402
from nvflare.app_common.abstract.fl_model import FLModel  # noqa: E402

from models.federated_hypermm import Arrays, Server, train_in_one_process  # noqa: E402
from pipeline.federation.nvflare_job import CONTROLLER, write_job  # noqa: E402
from pipeline.federation.nvflare_parts import HyperMMController, HyperMMExecutor, _update  # noqa: E402
from pipeline.federation.rounds import Job, WorkspaceSite  # noqa: E402

LONGEST_S = 1800  # a busy machine needs minutes until all processes have started
pytestmark = [pytest.mark.slow, pytest.mark.timeout(LONGEST_S + 60), pytest.mark.usefixtures("one_thread")]
ALLOWED = ["nvflare.", "pipeline.federation.nvflare_parts", "helpers.federated_faults"]
RUN = "from nvflare.private.fed.app.simulator.simulator_runner import SimulatorRunner as S; import sys; \
sys.exit(S(sys.argv[1], sys.argv[2], clients=sys.argv[3], threads=len(sys.argv[3].split(','))).run())"


@pytest.fixture(scope="module")
def workspaces(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> dict[str, Path]:
    return federated_sites.make(tmp_path_factory.mktemp("sites"))


def simulate(folder: Path, job: Job, workspaces: dict[str, Path], server: str = CONTROLLER, **executors: str) -> Path:
    """Run the simulator in a process of its own, which starts one for each site; return its folder."""
    write_job(folder / "job", job, workspaces=workspaces, executors=executors, server=server)
    (folder / "sim" / "local").mkdir(parents=True)
    (folder / "sim" / "local" / "resources.json").write_text(json.dumps({"class_allow_list": ALLOWED}))
    found = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])
    (folder / "signals").mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": found}
    environment[federated_faults.SIGNALS] = str(folder / "signals")
    words = [sys.executable, "-c", RUN, str(folder / "job"), str(folder / "sim"), ",".join(workspaces)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(words, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True)
        try:
            process.wait(LONGEST_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and the processes that it started
    return folder / "sim"


def told(sim: Path) -> dict[str, list]:
    """What the server says happened."""
    return json.loads((sim / "server" / "simulate_job" / "federation.json").read_text())


def test_the_simulator_finds_the_weights_of_one_process_and_every_site_gets_them(
    workspaces: dict[str, Path], tmp_path: Path
) -> None:
    job = federated_sites.job(workspaces["east"], timeout_s=LONGEST_S)
    sim = simulate(tmp_path, job, workspaces)
    assert told(sim)["refused"] == []
    parts = {name: WorkspaceSite(name, path, job) for name, path in workspaces.items()}
    local = {name: part.local for name, part in parts.items() if part.local}
    extractor, classifier = train_in_one_process(local, Server(job.layout, job.settings, job.rounds))
    expected = {f"phi.{n}": v for n, v in extractor.items()} | {f"rho.{n}": v for n, v in classifier.items()}
    for place in ("server", "east", "north", "west"):
        found = safetensors.numpy.load_file(sim / place / "simulate_job" / "model.safetensors")
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, atol=1e-6, err_msg=name)
    for place, part in parts.items():
        table = pd.read_csv(sim / place / "simulate_job" / "predictions.csv")
        pd.testing.assert_frame_equal(table, part.predictions(extractor, classifier), check_dtype=False)


class Direct(HyperMMController):
    """The server's part, with sites that are called and not sent to; one that raises is silent."""

    def __init__(self, job: Job, sites: dict[str, HyperMMExecutor], workspaces: dict[str, Path]) -> None:
        super().__init__(json.dumps(job.to_json()))
        self.sites = sites
        self.parts = {name: WorkspaceSite(name, workspaces[name], job) for name in sites}
        self.engine = SimpleNamespace(get_clients=lambda: [SimpleNamespace(name=name) for name in sites])

    def info(self, message: str) -> None:
        """Say nothing: there is no context of a run."""

    def _ask(self, task: str, number: int, state: Arrays, timeout_s: int) -> list[FLModel]:
        found = []
        for name, executor in self.sites.items():
            with contextlib.suppress(ConnectionError):
                sent = executor.answer(task, FLModel(params=dict(state), current_round=number), self.parts[name], None)
                sent.meta["client_name"] = name
                found.append(sent)
        return found


class Silent(HyperMMExecutor):
    """In round 2 of step 1 nothing comes."""

    def answer(self, task: str, given: FLModel, site: WorkspaceSite, fl_ctx: object) -> FLModel:
        if task == "extractor" and given.current_round == 2:
            raise ConnectionError
        return super().answer(task, given, site, fl_ctx)


def test_what_comes_over_nvflare_is_checked_and_named(workspaces: dict[str, Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    federated_sites.fill(other, federated_sites.patients(2))
    path = other / "features" / "manifest.json"
    made = {"version": 1, "settings": {"backbone": "vgg16"}}
    federated_sites.write_record(path, {**(federated_sites.read_record(path) or {}), "made_from": made})
    job = federated_sites.job(workspaces["east"], extractor=2, classifier=2)
    words = json.dumps(job.to_json())
    bad = {"silent": Silent, "notanumber": federated_faults.NotANumber, "scaled": federated_faults.Scaled}
    sites = {name: HyperMMExecutor(words) for name in ("east", "north", "other")} | {
        n: k(words) for n, k in bad.items()
    }
    server = Server(job.layout, job.settings, job.rounds)
    there = workspaces | dict.fromkeys(bad, workspaces["west"]) | {"other": other}
    Direct(job, sites, there)._train(job, server)
    refused = {(where, site): reason for where, site, reason in server.log.refused}
    assert {site for where, site in refused if where == "extractor round 2"} == {*bad, "other"}
    assert {site for where, site in refused if where != "extractor round 2"} == {"other"}
    assert "other settings" in refused["statistics", "other"]
    assert "it sent nothing in time" in refused["extractor round 2", "silent"]
    assert "not finite" in refused["extractor round 2", "notanumber"]
    assert "times as far" in refused["extractor round 2", "scaled"]


@pytest.mark.parametrize("said", [{"items": float("inf")}, {"items": 1, "owned": [10**30]}, {"owned": ["x"]}])
def test_numbers_that_are_none_are_refused_and_stop_nothing(said: dict[str, object]) -> None:
    sent = FLModel(params={"w": np.zeros(1)}, params_type="FULL", meta={"client_name": "a", "settings": "s", **said})
    assert _update(sent).settings == "what it sent cannot be read"


def test_a_site_that_dies_and_one_that_is_late_are_named_and_the_others_finish(
    workspaces: dict[str, Path], tmp_path: Path
) -> None:
    """Nobody waits for seconds but round 2, whose time is up without the two; the late one answers after that."""
    there = {name: workspaces[name] for name in ("east", "north")} | dict.fromkeys(
        ("killed", "late"), workspaces["west"]
    )
    job = federated_sites.job(workspaces["east"], timeout_s=LONGEST_S, extractor=2, classifier=2)
    names = {"killed": "Killed", "late": "Late", "north": "Patient"}
    faults = {site: f"helpers.federated_faults.{name}" for site, name in names.items()}
    sim = simulate(tmp_path, job, there, "helpers.federated_faults.ShortRound", **faults)
    refused = {(where, site): reason for where, site, reason in told(sim)["refused"]}
    second = {site: reason for (where, site), reason in refused.items() if where == "extractor round 2"}
    assert second.keys() == {"killed", "late"}
    assert all("it sent nothing in time" in reason for reason in second.values())
    assert {site for _, site in refused} == {"killed", "late"}
    assert ("classifier round 2", "killed") in refused
    assert ("classifier round 2", "late") not in refused  # it is back
    assert (sim / "server" / "simulate_job" / "model.safetensors").exists()
    for site in ("east", "north", "late"):
        assert (sim / site / "simulate_job" / "predictions.csv").exists()
