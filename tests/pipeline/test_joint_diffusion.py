"""The engine diffusion in the stages: who is learnt from, how a stopped run goes on, and what is refused by name."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import toy_run
from torch import Tensor

from console.errors import InputError
from models.joint.diffusion_model import DiffusionModel
from pipeline.cli.forget import _in_training as in_training
from pipeline.deployment.bundle_joint import of_no_bundle
from pipeline.runner.run import run_stage
from pipeline.specs.hypothesise import STAGE as HYPOTHESISE
from pipeline.specs.impute import STAGE as IMPUTE
from pipeline.specs.joint import STAGE as JOINT
from pipeline.specs.joint import JointConfig
from pipeline.specs.synthesise import STAGE as SYNTHESISE
from pipeline.store.base import write_record
from pipeline.store.imputed import ImputedSet
from pipeline.store.joint import JointSet
from pipeline.store.synthetic import SyntheticCohort
from pipeline.store.tables import CohortTables, SplitTables

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = {"width": 16, "layers": 1, "steps": 12, "batch": 16, "draw_steps": 4, "keep_every": 5}
ENGINE = {"engine": "diffusion", "diffusion": TINY}
SUBJECTS = 30


def stages(workspace: Path, *which: object, **joint: object) -> None:
    settings = toy_run.settings(
        joint={"draws": 2, "components": 4, "decoder": "none", **ENGINE, **joint}, impute={"draws": 3},
        synthesise={"patients": 30, "decoder": "none", "components": 4, **ENGINE},
    )  # fmt: skip
    for stage in which:
        run_stage(stage, settings, workspace, device="cpu")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    workspace = tmp_path_factory.mktemp("diffusion")
    toy_run.fill(workspace, toy_run.scans(SUBJECTS))
    stages(workspace, JOINT, IMPUTE, SYNTHESISE)
    return workspace


def test_draws_and_embeddings_are_those_of_the_network(done: Path) -> None:
    out = JointSet(done / "joint")
    model = out.model(1)
    assert isinstance(model, DiffusionModel)
    assert model.engine.config.steps == TINY["steps"]
    assert not (done / "joint" / "in-training" / "1.safetensors").exists()
    said = "\n".join((out.manifest or {})["notes"])
    assert "repeat 1: the diffusion engine learnt from 12 patients" in said
    assert re.search(r"repeat 1: diffusion engine: loss of \d+ validation patients after 12 steps \d\.\d{3};", said)
    table = out.embeddings()
    whole = table["has"] == "MRI+PET+US"
    assert table.loc[whole, ["sd1", "sd2"]].max(axis=None) < 1e-6
    assert (table.loc[~whole, "sd1"] > 0).all()
    imputed = "\n".join((ImputedSet(done / "impute").manifest or {})["notes"])
    assert "moves δ and stated reasons, with the AUC among them, are those of the linear model" in imputed
    made = ImputedSet(done / "impute").read()
    assert len(made) > 10
    found = ImputedSet(done / "impute").load(made["file"][0], made["sha256"][0])
    assert float((found.draws[0] - found.draws[1]).abs().max()) > 0.01
    assert np.isfinite(ImputedSet(done / "impute").read("quality.csv")["crps"]).all()


def test_classes_of_patients_who_are_not_in_training_do_not_enter(done: Path, tmp_path: Path) -> None:
    table = toy_run.scans(SUBJECTS)
    splits = SplitTables(done / "split").splits()
    free = set(table["subject"]) - set(splits.loc[splits["split"] == "train", "subject"])
    swapped = table.assign(
        label=[
            toy_run.CLASSES[toy_run.CLASSES.index(label) ^ (subject in free)]
            for subject, label in zip(table["subject"], table["label"], strict=True)
        ]
    )
    assert (swapped["label"] != table["label"]).any()
    toy_run.fill(tmp_path, table)  # feature maps follow the true label
    cohort = CohortTables(tmp_path / "cohort")
    cohort.save(swapped, toy_run.CLASSES)
    toy_run.finish(cohort, **cohort.contents())
    stages(tmp_path, JOINT, IMPUTE)
    before, after = (JointSet(w / "joint").embeddings().drop(columns="label") for w in (done, tmp_path))
    pd.testing.assert_frame_equal(before, after)
    assert list(ImputedSet(done / "impute").read()["sha256"]) == list(ImputedSet(tmp_path / "impute").read()["sha256"])


def test_a_run_that_was_stopped_goes_on(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy_run.fill(tmp_path, toy_run.scans(SUBJECTS))
    keep, kept = JointSet.save_engine, []

    def stop(out: JointSet, repeat: int, key: str, state: Mapping[str, Tensor]) -> None:
        keep(out, repeat, key, state)
        kept.append(int(state["step"]))
        if len(kept) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(JointSet, "save_engine", stop)
    with pytest.raises(KeyboardInterrupt):
        stages(tmp_path, JOINT)
    stages(tmp_path, JOINT)
    assert kept == [5, 10, 12, 5, 10, 12]  # the first repeat from 5 on, the second as a whole
    for repeat in (1, 2):
        one, other = (JointSet(w / "joint").arrays(repeat)[0] for w in (done, tmp_path))
        for name, values in one.items():
            np.testing.assert_array_equal(values, other[name], err_msg=name)


def test_synthetic_patients_are_drawn_by_the_network(done: Path) -> None:
    out = SyntheticCohort(done / "synthesise")
    facts = json.loads((done / "synthesise" / "synthesis.json").read_text())
    assert facts["engine"] == "diffusion"
    assert any("the diffusion engine learnt from" in note for note in facts["notes"])
    drawn = out.drawn()
    assert set(drawn["label"]) == set(toy_run.CLASSES)
    maps = out.features("MRI")
    assert maps.shape[1:] == (4, 2, 2)
    assert np.isfinite(maps).all()
    stages(done, SYNTHESISE)  # as it was: nothing to do
    np.testing.assert_array_equal(out.features("MRI"), maps)


def test_other_draw_steps_are_another_model(done: Path, tmp_path: Path) -> None:
    """The weights are the same, and what is imputed is not: the fingerprint tells."""
    shutil.copytree(done / "joint", tmp_path / "joint")
    out = JointSet(tmp_path / "joint")
    before = out.contents()
    assert before == JointSet(done / "joint").contents()
    path = tmp_path / "joint" / "repeat-1" / "record.json"
    record = out.record(1) or {}
    record["model"]["diffusion"]["draw_steps"] += 1
    write_record(path, record)
    assert out.contents() != before


def test_what_it_cannot_do_is_refused_by_name(done: Path) -> None:
    with pytest.raises(ValueError, match="joint models of several sites are made of sums; leave engine at linear"):
        JointConfig(engine="diffusion", federated=(Path("a.safetensors"),))
    with pytest.raises(InputError, match="joint.engine is diffusion, and effects are reckoned from regressions"):
        stages(done, HYPOTHESISE)
    assert "--joint.engine linear --stages joint,export" in of_no_bundle(JointSet(done / "joint").model(1))


def test_forgetting_a_patient_leaves_no_network_to_go_on_with(tmp_path: Path) -> None:
    JointSet(tmp_path / "joint").save_engine(1, "key", {"step": torch.tensor(3)})
    SyntheticCohort(tmp_path / "synthesise").save_engine("key", {"step": torch.tensor(3)})
    (tmp_path / "joint" / "manifest.json").write_text("{}")
    assert [line.partition(":")[0] for line in in_training(tmp_path)] == ["joint", "synthesise"]
    assert list(tmp_path.rglob("*")) == [tmp_path / "joint", tmp_path / "synthesise"]
    assert JointSet(tmp_path / "joint").engine(1, "key") is None
    assert in_training(tmp_path) == []
