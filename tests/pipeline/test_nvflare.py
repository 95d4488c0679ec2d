"""HyperMM over NVFlare's simulator: three processes on this machine, and sites that go wrong in a round."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from pipeline.core.provenance import REPOSITORY

pytest.importorskip("nvflare", reason="the extra federation is not installed: pip install '.[federation]'")

from helpers import federated_sites  # noqa: E402

from models.federated_hypermm import Server, train_in_one_process  # noqa: E402
from pipeline.federation.nvflare_job import write_job  # noqa: E402
from pipeline.federation.rounds import Job, WorkspaceSite  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
TIMEOUT_S = 30  # of a round in which a site goes wrong; a round takes seconds, and a late site answers after 45
LONGEST_S = 500
ALLOWED = ["nvflare.", "pipeline.federation.nvflare_parts", "helpers.federated_faults"]
RUN = "from nvflare.private.fed.app.simulator.simulator_runner import SimulatorRunner as S; import sys; \
sys.exit(S(sys.argv[1], sys.argv[2], clients='east,north,west', threads=3).run())"


@pytest.fixture(scope="module")
def workspaces(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> dict[str, Path]:
    return federated_sites.make(tmp_path_factory.mktemp("sites"))


def simulate(folder: Path, job: Job, workspaces: dict[str, Path], **executors: str) -> Path:
    """Run the simulator in a process of its own, which starts three more; return its folder."""
    write_job(folder / "job", job, workspaces=workspaces, executors=executors)
    (folder / "sim" / "local").mkdir(parents=True)
    (folder / "sim" / "local" / "resources.json").write_text(json.dumps({"class_allow_list": ALLOWED}))
    found = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": found}
    subprocess.run(
        [sys.executable, "-c", RUN, str(folder / "job"), str(folder / "sim")],
        env=environment, cwd=folder, timeout=LONGEST_S, capture_output=True, check=False,
    )  # fmt: skip
    return folder / "sim"


def told(sim: Path) -> dict[str, list]:
    """What the server says happened."""
    return json.loads((sim / "server" / "simulate_job" / "federation.json").read_text())


def test_the_simulator_finds_the_weights_of_one_process_and_every_site_gets_them(
    workspaces: dict[str, Path], tmp_path: Path
) -> None:
    job = federated_sites.job(workspaces["east"], timeout_s=200)
    sim = simulate(tmp_path, job, workspaces)
    assert told(sim)["refused"] == []
    local = {name: WorkspaceSite(name, path, job).local for name, path in workspaces.items()}
    extractor, classifier = train_in_one_process(local, Server(job.layout, job.settings, job.rounds))  # type: ignore[arg-type]
    expected = {f"phi.{n}": v for n, v in extractor.items()} | {f"rho.{n}": v for n, v in classifier.items()}
    for place in ("server", "east", "north", "west"):
        found = safetensors.numpy.load_file(sim / place / "simulate_job" / "model.safetensors")
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, atol=1e-6, err_msg=name)
    for place in ("east", "north", "west"):
        assert len((sim / place / "simulate_job" / "predictions.csv").read_text().splitlines()) > 20


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("Killed", "it sent nothing in time"),
        ("Late", "it sent nothing in time"),
        ("NotANumber", "not finite"),
        ("Scaled", "times as far"),
    ],
)
def test_a_site_that_goes_wrong_in_a_round_is_named_and_the_others_finish(
    workspaces: dict[str, Path], tmp_path: Path, fault: str, reason: str
) -> None:
    job = federated_sites.job(workspaces["east"], timeout_s=TIMEOUT_S, extractor=2, classifier=2)
    sim = simulate(tmp_path, job, workspaces, west=f"helpers.federated_faults.{fault}")
    refused = told(sim)["refused"]
    assert ["extractor round 2", "west"] == refused[0][:2]
    assert reason in refused[0][2]
    assert {site for _, site, _ in refused} == {"west"}
    assert (sim / "server" / "simulate_job" / "model.safetensors").exists()


def test_a_site_with_other_settings_is_refused_by_the_hash(workspaces: dict[str, Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    federated_sites.fill(other, federated_sites.patients(2))
    path = other / "features" / "manifest.json"
    federated_sites.write_record(
        path,
        {**(federated_sites.read_record(path) or {}), "made_from": {"version": 1, "settings": {"backbone": "vgg16"}}},
    )
    job = federated_sites.job(workspaces["east"], timeout_s=200)
    sim = simulate(tmp_path, job, workspaces | {"west": other})
    refused = told(sim)["refused"]
    assert refused[0][:2] == ["statistics", "west"]
    assert "other settings" in refused[0][2]
    assert (sim / "server" / "simulate_job" / "model.safetensors").exists()
