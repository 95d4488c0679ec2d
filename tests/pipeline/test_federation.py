"""Sites contribute, a coordinator combines, a site imputes with the model of all: files, refusals, what is said."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
from helpers import toy_run

from cohort.mechanisms import Missing
from cohort.splits import SplitConfig
from console.errors import InputError, PreconditionError
from models.joint.privacy import clipped, noise_for, noisy
from models.joint.sums import sums_of
from pipeline.cli import federation
from pipeline.core.runtime import Runtime
from pipeline.deployment.bundle_joint import ExportedJoint, joint_files, joint_of
from pipeline.federation import mask_keys
from pipeline.federation.combine import combine
from pipeline.federation.plan import layout_of
from pipeline.federation.sum_files import (
    FederationFileError,
    Sent,
    contribution_bytes,
    model_bytes,
    read_contribution,
    read_model,
)
from pipeline.runner.per_scan import scan_contents
from pipeline.runner.plan import stale_reasons
from pipeline.runner.run import run_stage
from pipeline.specs.contribute import STAGE as CONTRIBUTE
from pipeline.specs.impute import STAGE as IMPUTE
from pipeline.specs.joint import STAGE as JOINT
from pipeline.stages import contribute
from pipeline.stages.export import _joint
from pipeline.store.base import read_record, write_record
from pipeline.store.contribution import ContributionSet
from pipeline.store.features import FeatureStore
from pipeline.store.imputed import ImputedSet
from pipeline.store.joint import JointSet
from pipeline.store.tables import CohortTables, SplitTables
from pipeline.training.repeat_data import data_of_repeat

pytestmark = pytest.mark.usefixtures("one_thread")
SHARED: dict[str, Any] = {"components": 3, "smallest_cell": 2, "covariates": {"age": [65.0, 9.0]}}
SITES = ("east", "north", "west")


def patients(site: int, subjects: int = 60) -> pd.DataFrame:
    """MRI and PET; the second site has no PET, and the third no age."""
    table = toy_run.scans(subjects * (site + 1))
    number = table["subject"].str[1:].astype(int)
    kept = (number >= subjects * site) & (table["modality"] != "US") & ~((site == 1) & (table["modality"] == "PET"))
    table = table[kept].assign(split="", age=(60 + number % 17).astype(str))
    return table.assign(age="") if site == 2 else table


def settings(joint: dict[str, Any] | None = None, **contribute: Any) -> Any:
    return toy_run.settings(
        contribute=SHARED | contribute, joint={"draws": 3, **(joint or {})}, impute={"draws": 2}, split={"repeats": 1}
    )


def send(workspace: Path, **contribute: Any) -> Path:
    run_stage(CONTRIBUTE, settings(**contribute), workspace, device="cpu")
    return workspace / "contribute" / "contribution.safetensors"


def said(workspace: Path, stage: str = "contribute") -> str:
    return "\n".join(json.loads((workspace / stage / "manifest.json").read_text())["notes"])


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> dict[str, Path]:
    """Three workspaces after the stage features, with one repeat."""
    folder = tmp_path_factory.mktemp("sites")
    for number, name in enumerate(SITES):
        toy_run.fill(folder / name, patients(number))
        split = SplitTables(folder / name / "split")
        one = split.splits()
        split.save_splits(one[one["repeat"] == 1], {})
        toy_run.finish(split, **split.contents())
    return {name: folder / name for name in SITES}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key of each site and a folder `public` with their public halves."""
    folder = tmp_path_factory.mktemp("keys")
    (folder / "public").mkdir()
    for name in SITES:
        assert federation.main(["key", str(folder / name)]) == 0
        (folder / f"{name}.pub").rename(folder / "public" / f"{name}.pub")
    return folder


def masks_of(keys: Path, name: str, **others: Any) -> dict[str, Any]:
    return {"site": name, "key": keys / name, "public_keys": keys / "public", **others}


@pytest.fixture(scope="module")
def plain(sites: dict[str, Path]) -> dict[str, Path]:
    """The contribution of each site without masks."""
    found = {}
    for name, workspace in sites.items():
        file = workspace / "plain.safetensors"
        file.write_bytes(send(workspace).read_bytes())
        found[name] = file
    return found


@pytest.fixture(scope="module")
def model(plain: dict[str, Path]) -> Path:
    """The joint model of the three."""
    out = plain["east"].with_name("model.safetensors")
    assert federation.main(["combine", *map(str, plain.values()), "--out", str(out)]) == 0
    return out


def test_a_contribution_holds_sums_and_nothing_of_a_patient(sites: dict[str, Path], plain: dict[str, Path]) -> None:
    content = plain["east"].read_bytes()
    table = patients(0)
    for name in (*table["subject"].unique(), *table["scan"], "/scans/", "subject"):
        assert name.encode() not in content
    sent = read_contribution(plain["east"])
    assert sent.plain is not None
    assert min(cell.count for cell in sent.plain.sums.cells.values()) >= 2
    train = SplitTables(sites["east"] / "split").splits().query("split == 'train'")["subject"]
    assert sent.plain.sums.count == len(train)
    cells = sent.plain.sums.cells
    assert set(safetensors.numpy.load_file(plain["east"])) == {
        *(f"{i}.{what}" for i in range(len(cells)) for what in ("total", "outer")),
        *(f"outside.{i}.{what}" for i in range(2) for what in ("total", "squares")),
    }
    assert len(content) < 40_000


def test_a_site_imputes_with_the_model_of_all_what_it_never_had(sites: dict[str, Path], model: Path) -> None:
    workspace = sites["north"]  # without any PET
    for stage in (JOINT, IMPUTE):
        run_stage(stage, settings({"federated": [model]}), workspace, device="cpu")
    imputed = ImputedSet(workspace / "impute").table("imputed.csv", ("modality",))
    assert set(imputed["modality"]) == {"PET"}
    assert len(imputed) == patients(1)["subject"].nunique()
    together, facts = read_model(model)
    assert JointSet(workspace / "joint").model(1).sums.count == together.sums.count
    notes = said(workspace, "joint")
    assert "the joint model is of 3 contributions" in notes
    assert "no contribution of this workspace" not in notes
    assert JointSet(workspace / "joint").embeddings()["e1"].notna().all()


def exported(workspace: Path, trained: tuple[str, ...] = ("MRI", "PET")) -> tuple[ExportedJoint | None, str]:
    """The joint model as the stage export takes it, and what is noted."""
    cohort, split = CohortTables(workspace / "cohort"), SplitTables(workspace / "split")
    data = data_of_repeat(cohort, split, FeatureStore(workspace / "features"), 1)
    joint = JointSet(workspace / "joint")
    now = ((joint.manifest or {})["made_from"])["inputs"]
    runtime = Runtime(stage="export", key="", device_name="cpu", workspace=workspace)
    found = _joint(joint, cohort, now, data, trained, toy_run.settings().export, runtime)
    return found, "\n".join(runtime.notes)


def test_the_model_of_several_sites_is_exported_and_read_again(sites: dict[str, Path], model: Path) -> None:
    workspace = sites["west"]
    run_stage(JOINT, settings({"federated": [model]}), workspace, device="cpu")
    found, notes = exported(workspace)
    assert found is not None
    assert notes == ""
    content, arrays = joint_files(found)
    paths = (Path("joint.json"), Path("joint.safetensors"))
    read = joint_of(
        paths, (json.dumps(content).encode(), arrays), trained=("MRI", "PET"), classes=2, feature_map_shape=[4, 2, 2]
    )
    assert (read.decoders, read.model.sums.cells) == ({}, {})
    assert read.training == read_model(model)[0].sums.count
    rows = np.full((1, read.model.blocks.width), np.nan)
    rows[:, read.model.blocks.slice_of("MRI")] = 0.3
    for one, other in zip(found.model.impute_scores(rows, "PET"), read.model.impute_scores(rows, "PET"), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.std() > 0
    path = workspace / "joint" / "repeat-1" / "record.json"
    record = read_record(path) or {}
    write_record(path, {**record, "classes": list(reversed(record["classes"]))})
    try:
        found, notes = exported(workspace)
    finally:
        write_record(path, record)
    assert found is None
    assert "the joint model is not exported: its classes are " in notes
    found, notes = exported(workspace, ("MRI",))
    assert found is None
    assert "φ was not trained on PET" in notes


def test_masked_contributions_give_the_same_model_and_none_by_itself(
    sites: dict[str, Path], keys: Path, model: Path, tmp_path: Path
) -> None:
    sent = {}
    for name, workspace in sites.items():
        sent[name] = tmp_path / f"{name}.safetensors"
        sent[name].write_bytes(send(workspace, **masks_of(keys, name)).read_bytes())
    out = tmp_path / "masked.safetensors"
    assert federation.main(["combine", *map(str, sent.values()), "--out", str(out)]) == 0
    one, other = (read_model(path)[0] for path in (out, model))
    np.testing.assert_allclose(
        one.gaussian.estimate.covariance, other.gaussian.estimate.covariance, rtol=1e-8, atol=1e-9
    )
    for name in one.bases:
        np.testing.assert_allclose(one.bases[name].offset, other.bases[name].offset, atol=1e-6)
    lacking = {n: read_contribution(p) for n, p in sent.items() if n != "west"}
    with pytest.raises(FederationFileError, match="west lacking"):
        combine(lacking)
    with pytest.raises(InputError, match="round '1' was used"):
        send(sites["east"], **masks_of(keys, "east"), clip=4.0)


def test_the_masks_of_a_round_are_made_once_by_all_workspaces_of_a_key(
    sites: dict[str, Path], keys: Path, tmp_path: Path
) -> None:
    for name in ("one", "other"):
        shutil.copytree(sites["north"], tmp_path / name, ignore=shutil.ignore_patterns("contribute"))
    send(tmp_path / "one", **masks_of(keys, "north", round="twice"))
    with pytest.raises(InputError, match="made masks for this round before, perhaps from another workspace"):
        send(tmp_path / "other", **masks_of(keys, "north", round="twice"))
    send(tmp_path / "other", **masks_of(keys, "north", round="another"))


def test_with_other_sites_the_masks_are_others(
    sites: dict[str, Path], keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same masks for three sites and for four would give what changed between two sums away."""
    made: list[dict[str, bytes]] = []
    streams = mask_keys.streams
    monkeypatch.setattr(mask_keys, "streams", lambda *args, **of: made.append(streams(*args, **of)) or made[-1])
    shutil.copytree(keys / "public", tmp_path / "four")
    assert federation.main(["key", str(tmp_path / "south")]) == 0
    (tmp_path / "south.pub").rename(tmp_path / "four" / "south.pub")
    for name, public in (("one", keys / "public"), ("other", tmp_path / "four")):
        shutil.copytree(sites["north"], tmp_path / name, ignore=shutil.ignore_patterns("contribute"))
        masks = masks_of(keys, "north", round="three-or-four", public_keys=public)
        send(tmp_path / name, **masks)
    three, four = made
    assert all(three[name] != four[name] for name in three)


def test_a_patient_more_gives_no_sums_that_tell_that_patient_apart(sites: dict[str, Path], tmp_path: Path) -> None:
    """The sums before and after differ by one patient: what was sent twice would be that patient's scores."""
    workspace = tmp_path / "run"
    shutil.copytree(sites["east"], workspace, ignore=shutil.ignore_patterns("contribute"))
    first = read_contribution(send(workspace))
    split = SplitTables(workspace / "split")
    table = split.splits()
    moved = table.loc[table["split"] == "validation", "subject"].iloc[0]

    def learn_from(subjects: list[str]) -> None:
        split.save_splits(table.assign(split=table["split"].mask(table["subject"].isin(subjects), "train")), {})
        toy_run.finish(split, **split.contents())

    cohort = CohortTables(workspace / "cohort")
    scans = cohort.scans()
    trained = table.loc[table["split"] == "train", "subject"].iloc[0]
    later = scans[scans["subject"] == trained]
    later = later.assign(scan=later["scan"] + "_later", session="later", observation=later["observation"] + "_later")
    available = pd.concat([scans, later]).assign(available=True)
    store = FeatureStore(workspace / "features")
    for old, new in zip(scans.loc[scans["subject"] == trained, "scan"], later["scan"], strict=True):
        feature_map = store.load([old])[0]
        store.save(new, feature_map)
        store.finish(new, "key", {"shape": list(feature_map.shape)})
    toy_run.finish(store, **scan_contents(store, dict.fromkeys(available["scan"], "key")))
    split.save_table("availability.csv", available, split.AVAILABILITY_COLUMNS)
    toy_run.finish(split, **split.contents())
    for kept in (pd.concat([scans, later]), scans):
        cohort.save(kept, toy_run.CLASSES)
        toy_run.finish(cohort, **cohort.contents())
        if len(kept) > len(scans):
            with pytest.raises(InputError, match=f"give away the sum over 1 patient\\(s\\) alone \\({trained}\\)"):
                send(workspace)
    learn_from([moved])
    with pytest.raises(InputError, match=f"give away the sum over 1 patient\\(s\\) alone \\({moved}\\)"):
        send(workspace)
    contributed = ContributionSet(workspace / "contribute")
    kept = (contributed.folder / "sent.json").read_bytes()
    assert contributed.forget(trained)
    learn_from([])
    split.save_splits(split.splits().query("subject != @trained"), {})
    toy_run.finish(split, **split.contents())
    with pytest.raises(InputError, match="Either add noise .* whoever combines leaves this site's file out"):
        send(workspace)
    (contributed.folder / "sent.json").write_bytes(kept)
    learn_from(table.loc[table["split"] == "validation", "subject"].to_list())
    again = read_contribution(send(workspace, small_cells="leave_out"))
    with pytest.raises(FederationFileError, match="come from the same workspace"):
        combine({"first": first, "again": again})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"site": "east", "round": "2"}, "another round"),
        ({"keys": "x", "site": "east"}, "other public keys"),
        ({"sites": ["east", "west"], "site": "east"}, "other sites"),
        ({"site": "west"}, "one is there twice|lacking"),
    ],
)
def test_masks_that_do_not_cancel_are_refused(plain: dict[str, Path], change: dict[str, Any], message: str) -> None:
    first = read_contribution(plain["east"])
    facts = {"site": "west", "sites": ["east", "north", "west"], "keys": "k", "round": "1"}
    of = {"a": facts, "b": facts | change}  # of two workspaces
    ring = np.zeros(1, dtype=np.uint64)
    sent = {name: Sent({**first.facts, **each, "id": name, "source": name}, ring=ring) for name, each in of.items()}
    with pytest.raises(FederationFileError, match=message):
        combine(sent)


def test_small_cells_are_named_or_left_out(sites: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"too few patients to share .*: .* with MRI.*: \d") as error:
        send(sites["west"], smallest_cell=9)
    assert "small_cells leave_out" in str(error.value)
    file = send(sites["west"], smallest_cell=5, small_cells="leave_out")
    sent = read_contribution(file)
    assert sent.plain is not None
    assert min(cell.count for cell in sent.plain.sums.cells.values()) >= 5
    assert "left out, fewer than 5 patients each" in said(sites["west"])
    release = ContributionSet(sites["west"] / "contribute").releases()[-1]
    assert len(release["train_subjects"]) == sent.plain.sums.count
    assert sent.plain.outside["MRI"].count == sum(
        cell.count for (_, pattern), cell in sent.plain.sums.cells.items() if pattern[0]
    )
    with pytest.raises(InputError, match="every cell has fewer than 100"):
        send(sites["west"], smallest_cell=100, small_cells="leave_out")


def with_another_session(table: pd.DataFrame) -> pd.DataFrame:
    """Each patient's session, and an earlier one of another age."""
    early = {name: table[name] + "_early" for name in ("scan", "observation")}
    return pd.concat([table.assign(session="2"), table.assign(session="1", age="40", **early)])


def test_a_patient_with_several_sessions_is_summed_once(tmp_path: Path) -> None:
    """At each site, so that the sites together have the sums of one site with all of their patients."""
    everybody = toy_run.scans(100).drop_duplicates("subject").assign(modality="MRI", age="70")
    one, other = everybody[:50], everybody[50:]
    pet = one.assign(modality="PET", scan=one["subject"] + "_other")  # one pattern a site, so that no cell is small
    tables = {"east": pd.concat([one, pet]), "north": other}
    pooled = pd.concat(tables.values(), ignore_index=True)
    sent = {}
    for name, table in {**tables, "all": pooled, "all, once": pooled.assign(session="2")}.items():
        toy_run.fill(tmp_path / name, table if name == "all, once" else with_another_session(table))
        sent[name] = read_contribution(send(tmp_path / name))
    merged = combine({name: sent[name] for name in tables})[0].sums
    for name in ("all", "all, once"):
        sums = combine({name: sent[name]})[0].sums
        assert sums.count == merged.count == 40
        assert sums.cells.keys() == merged.cells.keys()
        for key, cell in sums.cells.items():
            assert cell.count == merged.cells[key].count
            np.testing.assert_allclose(cell.total, merged.cells[key].total, rtol=1e-9)
            np.testing.assert_allclose(cell.outer, merged.cells[key].outer, rtol=1e-9)
    assert "20 training patients have several sessions; the joint model learnt from one of each" in said(
        tmp_path / "east"
    )
    assert "several sessions" not in said(tmp_path / "all, once")


def test_noise_is_made_for_one_session_of_each_patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made to hide one row, and a patient has no more than one."""
    toy_run.fill(tmp_path, with_another_session(patients(0, subjects=20)))
    train = SplitTables(tmp_path / "split").splits().query("repeat == 1 and split == 'train'")["subject"]
    seen: list[int] = []
    usual = contribute.noisy
    monkeypatch.setattr(contribute, "noisy", lambda sums, *rest: seen.append(sums.count) or usual(sums, *rest))
    assert read_contribution(send(tmp_path, epsilon=1.0, clip=3.0, feature_maps=False)).noisy is not None
    assert seen == [len(train)]


def test_noise_is_printed_and_spent_privacy_adds_up(sites: dict[str, Path], plain: dict[str, Path]) -> None:
    noise = {"epsilon": 4.0, "clip": 6.0, "feature_maps": False}
    file = send(sites["north"], **noise)
    assert "noise for ε = 4, δ = 1e-05: a covariance carries noise of" in said(sites["north"])
    sent = read_contribution(file)
    assert sent.noisy is not None
    before = sum(not each["epsilon"] for each in ContributionSet(sites["north"] / "contribute").releases())
    second = send(sites["north"], **(noise | {"clip": 7.0}))
    again = read_contribution(second)
    assert f"ε = 8, δ = 2e-05 in 2 contributions; {before} more were sent without noise" in said(sites["north"])
    assert again.noisy is not None
    assert not np.allclose(again.noisy, sent.noisy)
    with pytest.raises(FederationFileError, match="different settings.*\nfeature_maps: True and False"):
        combine({"a": read_contribution(plain["east"]), "b": again})


def test_a_model_of_noisy_sums_places_patients_and_refuses_feature_maps(sites: dict[str, Path], tmp_path: Path) -> None:
    workspace = sites["east"]
    sent = read_contribution(send(workspace, epsilon=90.0, clip=6.0, feature_maps=False))
    found, facts = combine({"a": sent})
    assert any("noise was added by 1 of 1 sites (ε up to 90" in note for note in facts["notes"])
    file = tmp_path / "m.safetensors"
    file.write_bytes(model_bytes(found, facts))
    run_stage(JOINT, settings({"federated": [file]}), workspace, device="cpu")
    with pytest.raises(InputError, match="made without means of feature maps"):
        run_stage(IMPUTE, settings({"federated": [file]}), workspace, device="cpu")
    joint, notes = exported(workspace)
    assert joint is None
    assert "the joint model is not exported: the sites made it without means of feature maps" in notes


def test_other_settings_are_refused_by_the_entries_that_differ(
    sites: dict[str, Path], plain: dict[str, Path], model: Path
) -> None:
    other = read_contribution(send(sites["west"], components=2))
    with pytest.raises(FederationFileError, match="do not add up:\nbasis.components: 3 and 2"):
        combine({"a": read_contribution(plain["east"]), "b": other})
    with pytest.raises(FederationFileError, match="are the same contribution"):
        combine({name: read_contribution(plain["east"]) for name in ("a", "b")})
    changed = toy_run.settings(
        contribute=SHARED, joint={"federated": [model]}, preprocess={"spacing_mm": 2.0}, split={"repeats": 1}
    )
    with pytest.raises(InputError, match=r"other settings than this workspace.*\npreprocess.spacing_mm: 1.5 and 2.0"):
        run_stage(JOINT, changed, sites["west"], device="cpu")


OWN = {"decoder": "none"}  # there are no volumes to decode to


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_refused_leaves_the_finished_result_as_it_was(model: Path, tmp_path: Path) -> None:
    """There is a model of repeat 1, and the workspace has two."""
    toy_run.fill(tmp_path, patients(1))
    assert SplitTables(tmp_path / "split").splits()["repeat"].nunique() == 2
    run_stage(JOINT, settings(OWN), tmp_path, device="cpu")
    send(tmp_path)
    before = contents(tmp_path / "joint"), contents(tmp_path / "contribute")
    with pytest.raises(InputError, match="joint.federated has 0 models of repeat 2"):
        run_stage(JOINT, settings({"federated": [model]}), tmp_path, device="cpu")
    with pytest.raises(InputError, match="no repeat 9"):
        send(tmp_path, repeat=9)
    assert (contents(tmp_path / "joint"), contents(tmp_path / "contribute")) == before
    assert stale_reasons(JOINT, settings(OWN), tmp_path) == ()
    assert stale_reasons(CONTRIBUTE, settings(), tmp_path) == ()


def test_a_joint_model_of_ones_own_does_not_depend_on_what_was_contributed(model: Path, tmp_path: Path) -> None:
    toy_run.fill(tmp_path, patients(1))
    run_stage(JOINT, settings(OWN), tmp_path, device="cpu")
    send(tmp_path)
    assert stale_reasons(JOINT, settings(OWN), tmp_path) == ()
    assert JOINT.depends_on(settings({"federated": [model]}).joint)[-1] is CONTRIBUTE


def test_a_model_of_patients_who_are_tested_here_is_refused(sites: dict[str, Path], model: Path) -> None:
    workspace = sites["east"]
    path = workspace / "contribute" / "sent.json"
    record = read_record(path) or {}
    tested = SplitTables(workspace / "split").splits().query("split == 'test'")["subject"].iloc[0]
    write_record(path, {"releases": [
        {**each, "train_subjects": [*each["train_subjects"], tested]} for each in record["releases"]
    ]})  # fmt: skip
    try:
        with pytest.raises(InputError, match=f"1 subject.*of the test split \\({tested}\\)"):
            run_stage(JOINT, settings({"federated": [model]}), workspace, device="cpu")
        write_record(path, record)
        ContributionSet(path.parent).forget(record["releases"][0]["train_subjects"][0])
        with pytest.raises(InputError, match="who was to be forgotten.*from the other sites' files alone"):
            run_stage(JOINT, settings({"federated": [model]}), workspace, device="cpu")
    finally:
        write_record(path, record)


def damaged(file: Path, out: Path, change: Any) -> Path:
    """A contribution with other facts or numbers, its plan's hash made anew."""
    sent = read_contribution(file)
    assert sent.plain is not None
    change(sent)
    out.write_bytes(contribution_bytes(sent))
    return out


def half_a_cell(sent: Sent) -> None:
    cell = next(iter(sent.plain.sums.cells.values()))  # type: ignore[union-attr]
    cell.outer[:] = -cell.outer


def no_number(sent: Sent) -> None:
    next(iter(sent.plain.sums.cells.values())).total[0] = np.nan  # type: ignore[union-attr]


def other_layout(sent: Sent) -> None:
    sent.plan["basis"] = sent.plan["basis"] | {"components": 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (half_a_cell, "cannot be of"),
        (no_number, "not finite"),
        (other_layout, "expected"),
        (lambda sent: sent.facts.update(repeat="1"), "no id, or no repeat"),
        (lambda sent: sent.plan.update(format="other"), "format"),
    ],
)
def test_a_contribution_that_cannot_be_sums_of_patients_is_refused(
    plain: dict[str, Path], tmp_path: Path, change: Any, message: str
) -> None:
    with pytest.raises(FederationFileError, match=message):
        read_contribution(damaged(plain["east"], tmp_path / "c.safetensors", change))


def test_files_of_another_kind_are_refused(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("no")
    assert federation.main(["show", str(tmp_path / "text")]) == 2
    assert "expected a file of a federation" in capsys.readouterr().err
    with pytest.raises(FederationFileError, match="no usable contribution"):
        read_contribution(model)
    assert federation.main(["show", str(model)]) == 0
    assert "well with MRI + PET + covariate age" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("contribute", "message"),
    [
        ({"epsilon": 1.0}, "contribute.epsilon needs contribute.clip"),
        ({"epsilon": 1.0, "clip": 1.0}, "needs contribute.feature_maps false"),
        ({"site": "east"}, "go together"),
        ({"covariates": {"age": [60, 0]}}, "spread above 0"),
        ({"covariates": {"sex": ["F"]}}, "two or more different values"),
    ],
)
def test_settings_that_make_no_sense_are_refused(contribute: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        toy_run.settings(contribute=contribute)


def test_synthetic_patients_are_in_no_sum(tmp_path: Path) -> None:
    table = patients(0)
    made = table["subject"].isin(sorted(table["subject"].unique())[4::5])  # in training in both repeats
    toy_run.fill(tmp_path, table.assign(origin=made.map({True: "synthetic", False: ""}), judged="passed"))
    file = send(tmp_path, small_cells="leave_out")
    (release,) = ContributionSet(tmp_path / "contribute").releases()
    assert release["train_subjects"]
    assert not set(release["train_subjects"]) & set(table.loc[made, "subject"])
    sums = read_contribution(file).plain
    assert sums is not None
    assert sums.sums.count == len(release["train_subjects"])


@pytest.mark.parametrize("seed", range(3))
def test_noise_invents_no_patients_who_have_both(plain: dict[str, Path], seed: int) -> None:
    """Three sites own one modality each: a cell that nobody is in looks like patients to learn from."""
    first, random = read_contribution(plain["east"]), np.random.default_rng(seed)
    blocks, noise = layout_of(first.plan), noise_for(2.0, 1e-5, 6.0)
    sent = {}
    for name, has in (("a", "MRI"), ("b", "PET"), ("c", "MRI")):
        rows = np.full((1000, blocks.width), np.nan)
        rows[:, blocks.slice_of(has)] = random.standard_normal((1000, 3))
        rows[:, blocks.slice_of("covariate age")] = random.standard_normal((1000, 1))
        vector = noisy(sums_of(clipped(rows, 6.0)[0], np.arange(1000) % 2, blocks, 2), noise, random.standard_normal)
        facts = {"noise": {"epsilon": 2.0, "delta": 1e-5, "sd": noise.sd}, "clip": 6.0, "id": name, "source": name}
        plan = first.plan | {"feature_maps": False}
        sent[name] = Sent({**first.facts, "plan": plan, **facts}, noisy=vector)
    model, facts = combine(sent)
    assert any("no training patient has both MRI and PET: conditional independence assumed" in n for n in model.notes)
    least = 5 + 3 * np.sqrt(3) * noise.sd
    assert any(f"cells of fewer than {least:.1f} patients are left out" in note for note in facts["notes"])
    few = sums_of(np.where(np.arange(blocks.width) < 3, 1.0, np.nan)[None], np.zeros(1, dtype=np.int64), blocks, 2)
    with pytest.raises(FederationFileError, match=f"no modality can be learnt(.|\n)*fewer than {5 + 3 * noise.sd:.1f}"):
        combine({"a": dataclasses.replace(sent["a"], noisy=noisy(few, noise, random.standard_normal))})


def test_noise_is_larger_where_quotas_decide_who_trains(tmp_path: Path) -> None:
    """One patient more then moves others between training and test."""
    table, sd = patients(0, subjects=20), {}
    toy_run.fill(tmp_path, table)
    splits = SplitTables(tmp_path / "split").splits().query("repeat == 1").set_index("subject")["split"]
    cohort = CohortTables(tmp_path / "cohort")
    noise = {"epsilon": 1.0, "clip": 3.0, "feature_maps": False}
    for way, given in (("quotas", ""), ("given", table["subject"].map(splits))):
        cohort.save(table.assign(split=given), toy_run.CLASSES)
        toy_run.finish(cohort, **cohort.contents())
        sd[way] = read_contribution(send(tmp_path, **noise)).facts["noise"]["sd"]
    assert sd["given"] == noise_for(1.0, 1e-5, 3.0).sd
    assert sd["quotas"] == noise_for(1.0, 1e-5, 3.0, np.sqrt(18)).sd
    with_missing = settings(**noise).model_copy(
        update={"split": SplitConfig(repeats=1, missing={"PET": Missing(share=0.5)})}
    )
    with pytest.raises(PreconditionError, match="split.missing hides scans by quotas.*Leave split.missing out"):
        run_stage(CONTRIBUTE, with_missing, tmp_path, device="cpu")
    cohort.save(table, toy_run.CLASSES)
    toy_run.finish(cohort, **cohort.contents())
    by_site = settings(**noise).model_copy(update={"split": SplitConfig(repeats=1, by="site")})
    with pytest.raises(PreconditionError, match="with split.by one patient more can move many others"):
        run_stage(CONTRIBUTE, by_site, tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("covariates", "message"),
    [
        ({"agee": [65.0, 9.0]}, "names agee; this cohort has age, sex. Correct the name"),
        ({"sex": ["M", "F"]}, r"sex: 'm' \(\d+ patients\); expected M, F. Write it so in the manifest"),
        ({"sex": [0.0, 1.0]}, r"sex: 'm' \(\d+ patients\), 'F' \(\d+ patients\); expected a number"),
    ],
)
def test_a_covariate_that_is_spelt_or_coded_otherwise_is_refused(
    tmp_path: Path, covariates: dict[str, Any], message: str
) -> None:
    """It would be missing for the whole site, without a word."""
    table = patients(0, subjects=20)
    toy_run.fill(
        tmp_path,
        table.assign(sex=table["subject"].map(lambda name: "" if name == "s00" else "mmmF"[int(name[1:]) % 4])),
    )
    with pytest.raises(InputError, match=message):
        send(tmp_path, covariates=covariates)
