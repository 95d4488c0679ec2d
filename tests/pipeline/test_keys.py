"""What is in a key: all that changes a result makes it again, and nothing else does."""

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, get_args, get_origin

import pandas as pd
import pytest
import torch
from helpers import toy_run
from pydantic import BaseModel, ValidationError

from baselines.methods import SIMPLE
from baselines.names import TABLE_BASELINES
from evaluation.conformal import ONE_MINUS_P, SCORES
from intake.pseudonyms import read_or_make_key
from models import weights
from pipeline.comparison.imageless import imageless
from pipeline.comparison.scenarios import AS_IT_IS, Scenario
from pipeline.comparison.tasks import ComparisonTasks
from pipeline.comparison.translated import translated
from pipeline.core.runtime import Runtime
from pipeline.deployment.signing import new_key
from pipeline.runner.per_scan import scan_contents
from pipeline.runner.plan import made_from, make_plan, stale_reasons
from pipeline.runner.run import run_stage
from pipeline.settings import Settings, load_settings
from pipeline.specs import judge as judge_spec
from pipeline.specs import preprocess as preprocess_spec
from pipeline.specs.baselines import MechanismsConfig
from pipeline.specs.registry import STAGES
from pipeline.stages import features, preprocess
from pipeline.store.base import Artifact, read_record, write_record
from pipeline.store.comparison import ComparisonSet
from pipeline.store.features import FeatureStore
from pipeline.store.marking import Marker
from pipeline.store.tables import CohortTables, SplitTables
from pipeline.store.volumes import VolumeSet
from pipeline.training.repeat_data import data_of_repeat
from preprocessing import parameters

BY_NAME = {stage.name: stage for stage in STAGES}
NO_RESULT = {
    "preprocess.largest_extent_mm", "preprocess.brain_ml", "preprocess.memory_gb", "preprocess.weights",
    "features.weights", "features.batch_slices", "pretrain.memory_mb", "classify.memory_mb", "report.csv_safe",
    "export.memory_mb", "export.signing_key", "predict.trusted", "synthesise.mark_key",
    "impute.mark_key", "hypothesise.mark_key", "baselines.mark_key",
    "baselines.workers",
}  # fmt: skip
OTHER: dict[str, Any] = {
    "export.conformal_score": "another",  # where no other value can be made up from the kind of the setting
    "demo": {"subjects": 41},
    "cohort.modalities": {"MRI": {}},
    "cohort.modalities.MRI.columns": {"mmse": "number"},
    "cohort.modalities.PET.columns": {"mmse": "number"},
    "cohort.modalities.US.columns": {"mmse": "number"},
    "cohort.covariates": ("age",),
    "cohort.balanced": (24, 29),
    "cohort.not_missing": ("none",),
    "split.ratio": (7, 1, 2),
    "split.by": "site",
    "confounding.beside": Path("elsewhere"),
    "split.missing": {"PET": 0.5},
    "preprocess.register_to": {"PET": "MRI"},
    "preprocess.brain_ml": (100.0, 5000.0),
    "preprocess.weights": Path("elsewhere"),
    "features.backbone": "vgg16",
    "features.weights": Path("elsewhere"),
    "classify.hidden": (512, 128),
    "baselines.only": ("hypermm",),
    "baselines.scenarios": ("as_it_is",),
    "baselines.rates": (0.25,),
    "baselines.curve_rates": (0.0,),
    "baselines.patients": (0.4,),
    "baselines.mechanisms.reasons": ("covariate", "other"),
    "impute.deltas": (-1.0, 0.0),
    "impute.slopes": (1.0,),
    "synthesise.kl.channels": (16, 32),
    "contribute.classes": ("well", "sick"),
    "contribute.covariates": {"age": (60.0, 9.0)},
    "contribute.clip": 3.0,
    "contribute.epsilon": 2.0,
    "contribute.site": "west",
    "contribute.round": "2",
    "joint.federated": (Path("elsewhere"),),
    "recycle.labelled": (0.5,),
    "recycle.rho": (0.75,),
    "hypothesise.hypotheses": ({"clamp": "MRI"},),
    "executor.slurm.time": "1:00:00",
    "executor.slurm.lines": ("--constraint=a100",),
    "executor.scheduler": "tcp://10.0.0.5:8786",
    "executor.worker_memory": "8GB",
}


def fields_of(config: BaseModel, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where every setting stands, those of sections in sections included."""
    for name in type(config).model_fields:
        value, path = getattr(config, name), (*before, name)
        inside = {(): value} if isinstance(value, BaseModel) else value if isinstance(value, dict) else {}
        sections = {key: each for key, each in inside.items() if isinstance(each, BaseModel)}
        for key, each in sections.items():
            yield from fields_of(each, path if key == () else (*path, key))
        if () not in sections:
            yield path


COHORT = {"manifest": "phantoms", "modalities": {"MRI": {}, "PET": {}, "US": {"kind": "image"}}}
REFUSED = {("US", "normalise"), ("US", "trust"), ("MRI", "bits"), ("PET", "bits")}  # of the other kind only
REASONS = {"mechanisms": {"reasons": ("random", "covariate", "other"), "of": "age"}}
EPOCHS = {"fit": "epochs"}  # whose settings are read then, and refused otherwise
CONTRIBUTE = {"feature_maps": False, "clip": 2.0, "site": "east", "key": "k", "public_keys": "keys"}
FIELDS = [
    path
    for path in fields_of(toy_run.settings(cohort=COHORT, classify=EPOCHS, contribute=CONTRIBUTE, baselines=REASONS))
    if path[-2:] not in REFUSED
]


def candidates(annotation: Any, now: Any) -> list[Any]:
    """Values of the kind of a setting."""
    kinds = [kind for part in (annotation, *get_args(annotation)) for kind in (part, *get_args(part))]
    found = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    if isinstance(now, bool):
        return [not now]
    if isinstance(now, int | float):
        return [now + 1, now * 2, now / 2, now + 0.05]
    return [
        *found,
        *(number for kind in kinds if kind in (int, float) for number in (7, 12)),
        f"{now}x",
        Path("elsewhere"),
        "1.0.1",
    ]


def changed(settings: Settings, path: tuple[str, ...], value: Any = None) -> Settings:
    """The settings with another value at one place, that given or one made up."""
    section: Any = getattr(settings, path[0])
    inner: Any = settings
    for name in path[:-1]:
        inner = inner[name] if isinstance(inner, dict) else getattr(inner, name)
    now, key = getattr(inner, path[-1]), ".".join(path)
    choices = [value] if value is not None else candidates(type(inner).model_fields[path[-1]].annotation, now)
    for choice in [OTHER[key]] if value is None and key in OTHER else choices:
        content = settings.model_dump()
        place = content
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = choice
        if path[-1] == "columns":
            place["kind"] = "table"  # volumes have none
        if path[-1] == "registration":
            place["register_to"] = {"PET": "MRI"}  # without pairs it is refused
        try:
            if len(path) == 1:
                return settings.model_copy(update={path[0]: choice})
            other = type(section).model_validate(content[path[0]])
        except ValidationError:
            continue
        if other != section:
            return settings.model_copy(update={path[0]: other})
    raise AssertionError(f"no other value for {key}; add one to OTHER")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, small_model: Callable[..., Path]) -> SimpleNamespace:
    """Settings, and a workspace in which every stage is up to date with them."""
    folder = tmp_path_factory.mktemp("keys")
    new_key(folder / "key")
    new_key(folder / "other")
    shutil.copy(folder / "key", folder / "copy")
    (folder / "hd-bet").mkdir()
    (folder / "hd-bet" / "0.model").symlink_to(parameters.parameter_file(0))
    for name in ("mark", "other-mark"):
        read_or_make_key(folder / name, outside=[])
    shutil.copy(folder / "mark", folder / "mark-copy")
    models = [small_model(folder / f"model-{v}", version=f"{v}.0.0", signing_key=folder / "key") for v in (1, 2)]
    settings = toy_run.settings(
        cohort=COHORT, classify=EPOCHS, export={"signing_key": folder / "key"}, predict={"model": models[0]},
        executor={"kind": "dask"}, synthesise={"mark_key": folder / "mark"},
        impute={"mark_key": folder / "mark"}, hypothesise={"mark_key": folder / "mark"}, contribute=CONTRIBUTE,
        baselines={**REASONS, "mark_key": folder / "mark"},
    )  # fmt: skip
    for stage in STAGES:
        artifact = stage.writes(folder / "run" / stage.name)
        for name in artifact.FILES:
            (artifact.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (artifact.folder / name).touch()
        write_record(artifact.folder / "manifest.json", {"fingerprint": f"content of {stage.name}"})
    for stage in STAGES:
        manifest = folder / "run" / stage.name / "manifest.json"
        material = made_from(stage, settings, folder / "run")
        write_record(manifest, {**(read_record(manifest) or {}), "made_from": material, "files": {}})
    return SimpleNamespace(folder=folder, workspace=folder / "run", settings=settings, models=models)


def stale(finished: SimpleNamespace, settings: Settings) -> dict[str, tuple[str, ...]]:
    """The stages that would run, and why."""
    found = {stage.name: stale_reasons(stage, settings, finished.workspace) for stage in STAGES}
    return {name: reasons for name, reasons in found.items() if reasons}


# --- stages ---


ALSO_READ_BY = {
    "name": ["export"], "demo": ["cohort"],
    "preprocess": ["baselines", "contribute", "joint"], "features": ["baselines", "contribute", "joint"],
    "split": ["contribute"],  # how far one patient moves others, for noise
    "cohort.modalities": ["contribute", "joint"],  # what sites have to do alike
    "cohort.label": ["synthesise"], "joint": ["hypothesise"],
    "report.convention": ["predict"], "report.viewer": ["predict"],
}  # fmt: skip


@pytest.mark.parametrize("path", FIELDS, ids=".".join)
def test_a_setting_makes_stale_what_reads_it_and_no_other(
    finished: SimpleNamespace, path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SCORES, "another", SCORES[ONE_MINUS_P])
    made_here = {
        "predict.model": finished.models[1],
        "predict.trusted": (finished.folder / "key.pub",),
        "export.signing_key": finished.folder / "copy",
        "synthesise.mark_key": finished.folder / "mark-copy",
        "impute.mark_key": finished.folder / "mark-copy",
        "baselines.mark_key": finished.folder / "mark-copy",
        "hypothesise.mark_key": finished.folder / "mark-copy",
        "preprocess.weights": finished.folder / "hd-bet",
    }
    found = stale(finished, changed(finished.settings, path, made_here.get(".".join(path))))
    places = (path[0], ".".join(path), ".".join(path[:2]))
    also = next((ALSO_READ_BY[place] for place in places if place in ALSO_READ_BY), [])
    readers = [*([path[0]] if path[0] in BY_NAME else []), *also]
    assert list(found) == ([] if ".".join(path) in NO_RESULT else readers)
    for reasons in found.values():
        named = ".".join(path[:2]).replace("registration", "regist")  # register_to has changed with it
        assert any(reason.startswith(named) and " changed from " in reason for reason in reasons)


READ_BY = {
    "cohort": {
        "split",
        "preprocess",
        "pretrain",
        "classify",
        "confounding",
        "baselines",
        "contribute",
        "joint",
        "impute",
        "hypothesise",
        "update",
        "synthesise",
        "judge",
        "recycle",
        "report",
        "export",
        "predict",
    },
    "split": {
        "pretrain",
        "classify",
        "confounding",
        "baselines",
        "contribute",
        "joint",
        "impute",
        "hypothesise",
        "synthesise",
        "judge",
        "recycle",
        "report",
        "export",
    },
    "preprocess": {
        "features",
        "baselines",
        "joint",
        "impute",
        "hypothesise",
        "update",
        "synthesise",
        "judge",
        "report",
        "export",
        "predict",
    },
    "features": {
        "pretrain",
        "classify",
        "confounding",
        "baselines",
        "contribute",
        "joint",
        "impute",
        "hypothesise",
        "update",
        "synthesise",
        "judge",
        "recycle",
        "report",
        "export",
        "predict",
    },
    "pretrain": {"classify", "report", "export"},
    "classify": {"confounding", "report", "export"},
    "confounding": {"report", "export"},
    "baselines": {"confounding", "report"},
    "contribute": {"report", "export"},
    "joint": {"impute", "report", "export"},
    "impute": {"confounding", "report"},
    "hypothesise": {"report"},
    "update": {"report"},
    "synthesise": {"judge", "confounding", "report"},
    "judge": {"confounding", "report"},
    "recycle": {"report"},
    "report": set(),
    "export": set(),
    "predict": set(),
}


@pytest.mark.parametrize("name", BY_NAME)
def test_what_a_stage_leaves_makes_its_readers_stale(
    finished: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    usual = Artifact.fingerprint.fget
    assert usual is not None
    other = property(lambda artifact: "other" if artifact.folder.name == name else usual(artifact))
    monkeypatch.setattr(Artifact, "fingerprint", other)
    assert stale(finished, finished.settings) == {each: (f"the result of {name} changed",) for each in READ_BY[name]}


@pytest.mark.parametrize("name", BY_NAME)
def test_a_new_version_of_a_stage_is_run(finished: SimpleNamespace, name: str) -> None:
    now = BY_NAME[name].version
    newer = tuple(dataclasses.replace(s, version=now + 1) if s.name == name else s for s in STAGES)
    step = next(s for s in make_plan(newer, [name], finished.settings, finished.workspace) if s.stage.name == name)
    assert (step.state, step.reasons) == ("run", (f"the stage itself changed (version {now} → {now + 1})",))


def other_hd_bet(finished: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(preprocess_spec, "PARAMETERS_SHA256", ("other", *parameters.PARAMETERS_SHA256[1:]))
    return finished.settings


def other_backbone(finished: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setitem(weights.PUBLISHED, "vgg11", dataclasses.replace(weights.VGG11_IMAGENET, sha256="other"))
    return finished.settings


def drawn_weights(finished: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Settings:
    return changed(finished.settings, ("features", "weights"), "random")


def other_signing_key(finished: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Settings:
    return changed(finished.settings, ("export", "signing_key"), finished.folder / "other")


def other_mark_key(finished: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Settings:
    return changed(finished.settings, ("synthesise", "mark_key"), finished.folder / "other-mark")


def other_mark_of_what_is_imputed(finished: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Settings:
    return changed(finished.settings, ("impute", "mark_key"), finished.folder / "other-mark")


def other_mark_of_what_is_translated(finished: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Settings:
    return changed(finished.settings, ("baselines", "mark_key"), finished.folder / "other-mark")


def other_mark_of_hypotheses(finished: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Settings:
    return changed(finished.settings, ("hypothesise", "mark_key"), finished.folder / "other-mark")


def hd_bet_gone(finished: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Settings:
    def gone(number: int, folder: Path | None = None) -> Path:
        raise parameters.ParametersError("gone")

    monkeypatch.setattr(judge_spec, "parameter_file", gone)
    return finished.settings


def other_model_in_its_place(finished: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Settings:
    finished.models[0].rename(finished.folder / "aside")
    shutil.copytree(finished.models[1], finished.models[0])
    return finished.settings


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (other_hd_bet, "preprocess"),
        (other_backbone, "features"),
        (drawn_weights, "features"),
        (other_signing_key, "export"),
        (other_mark_key, "synthesise"),
        (other_mark_of_what_is_imputed, "impute"),
        (other_mark_of_what_is_translated, "baselines"),
        (other_mark_of_hypotheses, "hypothesise"),
        (hd_bet_gone, "judge"),
        (other_model_in_its_place, "predict"),
    ],
)
def test_what_lies_outside_of_the_workspace_counts_by_its_content(
    finished: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, change: Callable[..., Settings], name: str
) -> None:
    outside = ("files that it reads from outside the workspace changed",)
    assert stale(finished, change(finished, monkeypatch)) == {name: outside}
    if (finished.folder / "aside").exists():
        shutil.rmtree(finished.models[0])
        (finished.folder / "aside").rename(finished.models[0])
    assert stale(finished, finished.settings) == {} or change in (other_hd_bet, other_backbone, hd_bet_gone)


def test_classes_and_labels_are_content_of_the_cohort(tmp_path: Path) -> None:
    cohort, table = CohortTables(tmp_path), toy_run.scans()
    found = []
    for scans, classes in (
        (table, toy_run.CLASSES),
        (table, toy_run.CLASSES[::-1]),  # the other one is positive
        (table.assign(label=table["label"].where(table["subject"] != "s01", "sick")), toy_run.CLASSES),
        (table.assign(path="/elsewhere"), toy_run.CLASSES),
    ):
        cohort.save(scans, classes)
        found.append(cohort.contents()["fingerprint"])
    assert found[3] == found[0]
    assert len(set(found[:3])) == 3


def test_readers_of_features_go_by_their_content(tmp_path: Path) -> None:
    feature_maps = FeatureStore(tmp_path)
    found = []
    for value, seconds in ((1.0, 1), (1.0, 2), (2.0, 2)):
        feature_maps.save("a", torch.full((1, 1, 1), value))
        feature_maps.finish("a", "the same key", {"seconds": seconds})
        found.append(scan_contents(feature_maps, {"a": "the same key"})["fingerprint"])
    assert found[0] == found[1] != found[2]


# --- scans ---


def keys_of(name: str, settings: Settings, workspace: Path) -> dict[str, str]:
    """Scan → key, of a stage that works scan by scan."""
    runtime = Runtime(stage=name, key="", device_name="cpu", workspace=workspace)
    volumes, config = VolumeSet(workspace / "preprocess"), getattr(settings, name)
    if name == "preprocess":
        return dict(preprocess.preprocess_job(CohortTables(workspace / "cohort"), volumes, config, runtime).keys)
    return dict(features.features_job(volumes, FeatureStore(workspace / "features"), config, runtime).keys)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Cohort, split, preprocess and features of six subjects."""
    toy_run.fill(tmp_path, toy_run.scans(6))
    return tmp_path


def different(before: dict[str, str], after: dict[str, str]) -> set[str]:
    """The scans of both that have another key."""
    return {scan for scan in before.keys() & after.keys() if before[scan] != after[scan]}


SCANWISE = {"preprocess": preprocess, "features": features}


@pytest.mark.parametrize("path", [path for path in FIELDS if path[0] in SCANWISE], ids=".".join)
def test_a_setting_is_in_the_key_of_every_scan_or_in_none(workspace: Path, path: tuple[str, ...]) -> None:
    pairs = {"preprocess": {"register_to": {"PET": "MRI"}}} if path[1] == "registration" else {}
    settings = toy_run.settings(**pairs)
    before = keys_of(path[0], settings, workspace)
    after = keys_of(path[0], changed(settings, path), workspace)
    expected = set() if ".".join(path) in NO_RESULT else before.keys() & after.keys()
    if path[1] in ("register_to", "registration"):  # only those that are registered
        expected = {"s04_PET", "s05_PET"}
    assert different(before, after) == expected
    assert before


@pytest.mark.parametrize("name", SCANWISE)
def test_the_version_is_in_the_key_of_every_scan(workspace: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before = keys_of(name, toy_run.settings(), workspace)
    newer = dataclasses.replace(SCANWISE[name].STAGE, version=99)
    monkeypatch.setattr(SCANWISE[name], "STAGE", newer)
    assert different(before, keys_of(name, toy_run.settings(), workspace)) == before.keys() != set()


@pytest.mark.parametrize(
    ("where", "column", "value", "registered", "expected"),
    [
        ("s04_MRI", "sha256", "other", False, {"s04_MRI"}),
        ("s04_MRI", "sha256", "other", True, {"s04_MRI", "s04_PET"}),
        ("s04_PET", "sha256", "other", True, {"s04_PET"}),
        ("s04_PET", "skull_strip", "False", False, {"s04_PET"}),
        ("s04_MRI", "skull_strip", "False", True, {"s04_MRI", "s04_PET"}),
        ("s04_PET", "kind", "image", False, {"s04_PET"}),
        ("s04_PET", "bits", "12", False, {"s04_PET"}),
        ("s04_MRI", "observation", "s04_later", True, {"s04_PET"}),  # its partner is gone
        ("s04_MRI", "path", "/elsewhere/scan.nii", True, set()),
        ("s04_MRI", "label", "other", True, set()),
        ("s04_MRI", "subject", "s99", True, set()),
    ],
)
def test_what_of_a_scan_is_in_its_key_of_preprocess(
    workspace: Path, where: str, column: str, value: str, registered: bool, expected: set[str]
) -> None:
    settings = toy_run.settings(preprocess={"register_to": {"PET": "MRI"} if registered else None})
    before = keys_of("preprocess", settings, workspace)
    table = toy_run.scans(6)
    assert (table.loc[table["scan"] == where, column] != value).all()
    table.loc[table["scan"] == where, column] = value
    CohortTables(workspace / "cohort").save(table.iloc[::-1], toy_run.CLASSES)  # the order of rows does not matter
    assert different(before, keys_of("preprocess", settings, workspace)) == expected


@pytest.mark.parametrize(("mode", "counts"), [("fast", [0]), ("accurate", [0, 1, 2, 3, 4])])
def test_the_hd_bet_networks_in_use_are_in_the_key(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, mode: str, counts: list[int]
) -> None:
    settings, hashes = toy_run.settings(preprocess={"skull_strip_mode": mode}), parameters.PARAMETERS_SHA256
    before = keys_of("preprocess", settings, workspace)
    for number in range(5):
        other = tuple("other" if n == number else each for n, each in enumerate(hashes))
        monkeypatch.setattr(preprocess_spec, "PARAMETERS_SHA256", other)
        found = different(before, keys_of("preprocess", settings, workspace))
        assert found == (before.keys() if number in counts else set()), number


def test_the_weights_and_the_volume_are_in_the_key_of_features(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, drawn = toy_run.settings(), toy_run.settings(features={"weights": "random"})
    before = keys_of("features", usual, workspace)
    assert different(before, keys_of("features", drawn, workspace)) == before.keys()
    scans = VolumeSet(workspace / "preprocess").scans()
    toy_run.finish(VolumeSet(workspace / "preprocess"), scans={**scans, "s02_US": "another volume"})
    assert different(before, keys_of("features", usual, workspace)) == {"s02_US"}
    other_backbone(SimpleNamespace(settings=usual), monkeypatch)
    assert different(before, keys_of("features", usual, workspace)) == before.keys()


def test_from_the_file_to_the_key(picture_cohort: Callable[..., Path], tmp_path: Path) -> None:
    """The content of a file, and what its modality is; neither where it lies nor when it was written."""
    config = picture_cohort(tmp_path / "data", subjects=6, second=1.0, side=8)

    def keys(**overrides: str) -> tuple[dict[str, str], str]:
        settings = load_settings(config, {"cohort.manifest": str(tmp_path / "data" / "cohort.csv"), **overrides})
        stage = BY_NAME["cohort"]
        if stale_reasons(stage, settings, tmp_path / "run"):
            run_stage(stage, settings, tmp_path / "run", device="cpu")
        return keys_of("preprocess", settings, tmp_path / "run"), CohortTables(tmp_path / "run" / "cohort").fingerprint

    before = keys()
    os.utime(tmp_path / "data" / "p01_low.png", (1, 1))
    assert keys() == before
    shutil.move(tmp_path / "data", tmp_path / "aside")
    shutil.copytree(tmp_path / "aside", tmp_path / "data")
    (tmp_path / "data" / "p02_low.png").rename(tmp_path / "data" / "renamed.png")
    text = (tmp_path / "data" / "cohort.csv").read_text()
    (tmp_path / "data" / "cohort.csv").write_text(text.replace("p02_low.png", "renamed.png"))
    shutil.copy(tmp_path / "aside" / "config.yaml", config)
    assert keys() == before
    other = (tmp_path / "data" / "p03_high.png").read_bytes()
    (tmp_path / "data" / "p01_low.png").write_bytes(other + b"x")
    after = keys()
    assert different(before[0], after[0]) == {"p01_low"}
    assert after[1] != before[1]
    stripped = keys(**{"cohort.modalities.high.skull_strip": "false"})
    assert different(after[0], stripped[0]) == {scan for scan in after[0] if scan.endswith("high")}
    assert stripped[1] != after[1]


# --- tasks of the comparison ---

TABLE = toy_run.scans(12)
COMPLETE = next(name for name, rows in TABLE.groupby("subject") if len(rows) == len(toy_run.MODALITIES))
TASKS = (  # scenario and method, of the baselines whose keys are asked for
    ("complete", "linear_set"), ("complete", "multi_cnn"), ("hidden", "linear_set"), ("hidden", "multi_cnn"),
    ("hidden", "pix2pix"), ("hidden", "cyclegan"), (AS_IT_IS, "linear_set"), (AS_IT_IS, "hypermm"),
    ("hidden", "covariates"), (AS_IT_IS, "availability"), (AS_IT_IS, "covariates_images"),
)  # fmt: skip
AGES = pd.DataFrame({"age": "70"}, index=sorted(TABLE["observation"].unique()))
GANS = {task for task in TASKS if task[1] in ("pix2pix", "cyclegan")}


def task_keys(workspace: Path, settings: Settings, **changes: Any) -> dict[tuple[str, str], str]:
    """Scenario and method → key."""
    cohort, split, feature_maps = (
        kind(workspace / name)
        for name, kind in (("cohort", CohortTables), ("split", SplitTables), ("features", FeatureStore))
    )
    cohort.save(changes.get("table", TABLE), changes.get("classes", toy_run.CLASSES))
    parts = {name: "test" if name == changes.get("tested") else "train" for name in TABLE["subject"]}
    split.save_splits(pd.DataFrame([{"repeat": 1, "subject": s, "split": part} for s, part in parts.items()]), {})
    usable = data_of_repeat(cohort, split, feature_maps, 1)
    usable = dataclasses.replace(usable, modalities=(*usable.modalities, *changes.get("more", ())))
    run = ComparisonTasks(
        feature_maps, ComparisonSet(workspace / "baselines"), settings.baselines,
        Runtime(stage="baselines", key="", device_name="cpu", workspace=workspace),
        usable.modalities, False, changes.get("version", 1),
    )  # fmt: skip
    volumes = VolumeSet(workspace / "preprocess")
    hidden = Scenario("hidden", (("PET", changes.get("rate", 0.5)),))
    as_it_is = Scenario(AS_IT_IS, complete_only=False)
    repeat, found = changes.get("repeat", 1), {}
    for scenario in (as_it_is,) if "more" in changes else (Scenario("complete"), hidden, as_it_is):
        left, _ = run.left(scenario, repeat, usable)
        for name, key in TASKS:
            if name == scenario.name and key in SIMPLE:
                run.units(scenario, repeat, left, [SIMPLE[key]], ())
            elif name == scenario.name and key in TABLE_BASELINES:
                imageless(run, scenario, repeat, key, left, covariates=changes.get("ages", AGES), wanted=False)
            elif name == scenario.name:
                translated(
                    run, scenario, repeat, key, left, all_scans=usable.scans, preprocess=volumes,  # type: ignore[arg-type]
                    encoder=lambda: (None, 0.0), wanted=False, marker=Marker(None, "1", ""),
                )  # fmt: skip
            else:
                continue
            found[name, key] = list(run.keys.values())[-1]
    assert len(set(run.keys.values())) == len(run.keys)
    return found


@pytest.fixture
def tasks(tmp_path: Path) -> Callable[..., set[tuple[str, str]]]:
    """Which tasks have another key after a change."""
    toy_run.fill(tmp_path, TABLE)
    before = task_keys(tmp_path, toy_run.settings())

    def changed_by(settings: Settings | None = None, **changes: Any) -> set[tuple[str, str]]:
        if volumes := changes.pop("volumes", None):
            toy_run.finish(VolumeSet(tmp_path / "preprocess"), fingerprint=volumes)
        for scan in changes.pop("feature_maps", ()):
            feature_maps = FeatureStore(tmp_path / "features")
            feature_maps.save(scan, torch.zeros(4, 2, 2))
            feature_maps.finish(scan, "key", {})
            toy_run.finish(feature_maps, **scan_contents(feature_maps, dict.fromkeys(feature_maps.scans(), "key")))
        after = task_keys(tmp_path, settings or toy_run.settings(), **changes)
        return {task for task in after if after[task] != before[task]}

    return changed_by


IN_SOME_TASKS = {
    **dict.fromkeys(("only", "scenarios", "rates", "patients", "published", "workers"), set()),
    # They say which scans are hidden, in scenarios that are none of these; see comparison/test_mechanisms.py.
    **{f"mechanisms.{name}": set() for name in MechanismsConfig.model_fields},
    "curve_rates": {task for task in TASKS if task[0] == "complete"},
    "gan.pix2pix_epochs": {("hidden", "pix2pix")},
    "gan.cyclegan_epochs": {("hidden", "cyclegan")},
    "mark_key": GANS,
    "mark_batch": set(),  # without a key
}


@pytest.mark.parametrize("path", [path for path in FIELDS if path[0] == "baselines"], ids=".".join)
def test_a_setting_is_in_the_key_of_the_tasks_that_it_is_about(
    tasks: Callable[..., set[tuple[str, str]]], path: tuple[str, ...], tmp_path: Path
) -> None:
    usual = GANS if path[1] == "gan" else set(TASKS)
    read_or_make_key(tmp_path / "mark.key", outside=[])
    value = tmp_path / "mark.key" if path[1] == "mark_key" else None
    assert tasks(changed(toy_run.settings(baselines=REASONS), path, value)) == IN_SOME_TASKS.get(
        ".".join(path[1:]), usual
    )


IN_TASKS_OF = {
    "version": ({"version": 2}, set(TASKS)),
    "repeat": ({"repeat": 2}, set(TASKS)),
    "share that is hidden": ({"rate": 0.9}, {task for task in TASKS if task[0] == "hidden"}),
    "feature_map": ({"feature_maps": [f"{COMPLETE}_MRI"]}, set(TASKS)),
    "split": ({"tested": COMPLETE}, set(TASKS)),
    "label": ({"table": TABLE.assign(label=TABLE["label"].where(TABLE["subject"] != COMPLETE, "sick"))}, set(TASKS)),
    "a scan less": ({"table": TABLE[TABLE["scan"] != f"{COMPLETE}_MRI"]}, set(TASKS)),
    "which class is positive": ({"classes": toy_run.CLASSES[::-1]}, set(TASKS)),
    "a class that nobody has": ({"classes": (*toy_run.CLASSES, "other")}, set(TASKS)),
    "a modality that nobody has": ({"more": ["XR"]}, {task for task in TASKS if task[0] == AS_IT_IS}),
    "volume": ({"volumes": "other"}, GANS),
    "covariate": ({"ages": AGES.replace("70", "71")}, {task for task in TASKS if "covariates" in task[1]}),
    "order of rows": ({"table": TABLE.iloc[::-1]}, set()),
    "place of the files": ({"table": TABLE.assign(path="/elsewhere")}, set()),
}


@pytest.mark.parametrize("name", IN_TASKS_OF)
def test_what_of_the_data_is_in_the_key_of_a_task(tasks: Callable[..., set[tuple[str, str]]], name: str) -> None:
    change, expected = IN_TASKS_OF[name]
    assert tasks(**change) == expected  # type: ignore[arg-type]
