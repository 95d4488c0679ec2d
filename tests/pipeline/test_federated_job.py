"""A job of federated training from a workspace, and a site's part of it; without NVFlare."""

import json
from pathlib import Path

import pytest
from helpers import federated_sites

from console.errors import InputError
from models.federated_hypermm import Server, train_in_one_process
from pipeline.cli import federation
from pipeline.federation.rounds import Job, Patience, WorkspaceSite
from pipeline.store.base import read_record, write_record
from pipeline.store.tables import SplitTables

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def workspaces(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sites")
    for number, name in enumerate(federated_sites.SITES[:2]):
        federated_sites.fill(folder / name, federated_sites.patients(number, subjects=30))
    return {name: folder / name for name in federated_sites.SITES[:2]}


def test_a_job_is_a_folder_that_nvflare_reads(
    workspaces: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["job", "--workspace", str(workspaces["east"]), "--out", str(tmp_path / "job"), "--rounds", "3", "4"]
    assert federation.main([*words, "--proximal", "0.1", "--rates", "1e-3", "1e-2"]) == 0
    assert "for MRI, PET and classes well, sick" in capsys.readouterr().out
    meta = json.loads((tmp_path / "job" / "meta.json").read_text())
    assert meta["deploy_map"] == {"app": ["@ALL"]}
    server, client = (
        json.loads((tmp_path / "job" / "app" / "config" / f"config_fed_{side}.json").read_text())
        for side in ("server", "client")
    )
    told = server["workflows"][0]["args"]["job_json"]
    assert client["executors"][0]["executor"]["args"] == {"job_json": told}
    job = Job.from_json(json.loads(told))
    assert (job.rounds.extractor, job.rounds.classifier, job.rounds.proximal) == (3, 4, 0.1)
    assert job.rounds.learning_rate == 1e-3
    assert str(workspaces["east"]) not in told
    assert federation.main(words) == 2
    assert "exists already" in capsys.readouterr().err
    assert federation.main([*words[:3], "--out", str(tmp_path / "b"), "--rounds", "0", "4"]) == 2


def test_sites_train_from_their_workspaces_and_predict_their_test_patients(workspaces: dict[str, Path]) -> None:
    job = federated_sites.job(workspaces["east"])
    sites = {name: WorkspaceSite(name, path, job) for name, path in workspaces.items()}
    assert all(site.settings == job.settings and site.local is not None for site in sites.values())
    found = train_in_one_process(
        {name: site.local for name, site in sites.items() if site.local}, Server(job.layout, job.settings, job.rounds)
    )
    table = sites["north"].predictions(*found)
    splits = SplitTables(workspaces["north"] / "split").splits()
    assert sorted(table["observation"]) == sorted(splits.query("split == 'test'")["subject"])
    assert table[["probability_well", "probability_sick"]].sum(axis=1).to_numpy() == pytest.approx(1.0)
    local = sites["north"].local
    assert local is not None
    assert local.owned[1] == 0  # it has no PET
    train = sites["north"].data.subjects("train")
    assert len(local.sets.train) == len(train)


def test_a_site_with_other_settings_has_another_hash_and_says_what_differs(workspaces: dict[str, Path]) -> None:
    job = federated_sites.job(workspaces["east"])
    path = workspaces["north"] / "preprocess" / "manifest.json"
    record = read_record(path) or {}
    made = {**record["made_from"], "settings": {"spacing_mm": 2.0}}
    write_record(path, {**record, "made_from": made})
    try:
        site = WorkspaceSite("north", workspaces["north"], job)
        assert site.local is None
        assert site.settings != job.settings
        assert site.wrong == ["preprocess.settings.spacing_mm: 1.5 and 2.0"]
    finally:
        write_record(path, record)


def test_a_workspace_without_features_and_a_job_of_another_kind_are_refused(
    workspaces: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="has no finished stage cohort; run --stages features there first"):
        federated_sites.job(tmp_path)
    job = federated_sites.job(workspaces["east"])
    with pytest.raises(InputError, match="no job of a federated training"):
        Job.from_json({**job.to_json(), "format": "other"})
    assert Job.from_json(json.loads(json.dumps(job.to_json()))).settings == job.settings


def test_a_site_that_was_silent_is_waited_for_no_longer_than_answers_take() -> None:
    patience, asked = Patience(), ["a", "b", "c"]
    assert patience.waits(asked, 3600) == (0, 0)  # everybody has to answer
    patience.note(asked, {"a": 2.0, "b": 5.5})
    assert patience.waits(asked, 3600) == (2, 27)  # three times 5.5, and 10
    assert patience.waits(asked, 20) == (2, 20)
    assert patience.waits(["a", "b"], 3600) == (0, 0)  # who is not asked is not missed
    patience.note(asked, {"a": 1.0, "b": float("nan"), "c": 1.0})
    assert patience.waits(asked, 3600) == (0, 0)  # it is back
    patience.note(asked, {})
    assert patience.waits(asked, 3600) == (0, 0)


def test_synthetic_patients_are_in_no_sum_and_no_round(tmp_path: Path) -> None:
    table = federated_sites.patients(0)
    made = table["subject"].isin(sorted(table["subject"].unique())[4::5])  # in training
    federated_sites.fill(tmp_path, table.assign(origin=made.map({True: "synthetic", False: ""}), judged="passed"))
    site = WorkspaceSite("east", tmp_path, federated_sites.job(tmp_path))
    assert not set(site.data.scans["subject"]) & set(table.loc[made, "subject"])
    assert site.local is not None
    assert site.local.owned.sum() == len(site.data.scans.query("split == 'train'"))
