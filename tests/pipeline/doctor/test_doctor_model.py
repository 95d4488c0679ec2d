"""The doctor before a night with an exported model: the model, the room, the manifest; and no patient in its lines."""

import csv
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from cohort.manifest import CohortConfig, check_manifest
from cohort.tables import ManifestError, Problem, read_table
from console.errors import InputError
from models.set_model import SetModel
from pipeline.cli.main import main
from pipeline.core.provenance import REPOSITORY, result_settings
from pipeline.deployment.bundle import Bundle
from pipeline.deployment.bundle_writer import Export, write_bundle
from pipeline.doctor import disk, machine, run
from pipeline.doctor.checks import CheckContext, Finding
from pipeline.settings import load_settings
from pipeline.specs.features import STAGE as FEATURES
from pipeline.specs.preprocess import STAGE as PREPROCESS

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = ("Hopper", "Noether", "Wu-Chien", "1912-05-31")  # of patients: in subjects, paths, cells of any column
MODALITIES = ("high", "low", "seldom")


def _export(folder: Path, *, feature_map_shape: tuple[int, int, int] = (512, 7, 7)) -> Path:
    """A bundle for `picture_cohort`, its backbone drawn and its network never trained."""
    config = load_settings(REPOSITORY / "configs" / "adni.yaml", {"features.weights": "random"})
    network = {
        "modalities": 3, "feature_map_shape": list(feature_map_shape), "classes": 2, "embedding": 3,
        "hidden": 4, "rho_hidden": [], "aggregate": "mean",
    }  # fmt: skip
    stages = (PREPROCESS, FEATURES)
    sections = {stage.name: getattr(config, stage.name) for stage in stages}
    described = Export(
        name="by-hand",
        version="2.0.1",
        authors="Nobody",
        copyright="nobody's",
        classes=("well", "sick"),
        modalities=MODALITIES,
        trained=MODALITIES[:2],
        network=network,
        kinds={name: {"kind": "image", "skull_strip": True} for name in MODALITIES},
        settings={name: result_settings(section) for name, section in sections.items()},
        weights={stage.name: stage.external_state(sections[stage.name]) for stage in stages},
        stage_versions={stage.name: stage.version for stage in stages},
        calibration={
            "temperature": {"value": 1.0, "n": 20, "reason": ""},
            "conformal": {"subsets": []},
            "expected_changes": [],
            "outliers": {},
        },
        references={},
        test={},
        subjects={},
        scans={},
    )
    torch.manual_seed(0)
    write_bundle(folder / "bundle", described, SetModel(**network).eval(), card="# Card\n", onnx=None)
    return folder / "bundle"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _export(tmp_path_factory.mktemp("model"))


@pytest.fixture
def asked(tmp_path: Path) -> Callable[..., CheckContext]:
    """What `--model MODEL --cohort MANIFEST` and settings say, for single checks."""

    def make(model: Path, manifest: Path | None = None, **settings: str) -> CheckContext:
        overrides = {"predict.model": str(model)} | ({"cohort.manifest": str(manifest)} if manifest else {})
        overrides |= {key.replace("__", "."): value for key, value in settings.items()}
        made = CheckContext(
            lambda: load_settings(model / "configs" / "settings.yaml", overrides), tmp_path.joinpath, "cpu"
        )
        made.settings = made.load()
        return made

    return make


def _new_patients(data: Path, *more: str, header: str = "subject,session,modality,path") -> Path:
    """A manifest of four pictures that can be used, and these rows; what the pictures are called names their patients.

    `data` is where `picture_cohort` wrote.
    """
    rows = [header]
    for number, name in enumerate(NAMES):
        shutil.copy(data / f"p{number:02d}_low.png", data / f"{name}.png")
        rows.append(f"{name},,low,{name}.png")
    (data / "new_patients.csv").write_text("\n".join([*rows, *more, ""]), "utf-8")
    return data / "new_patients.csv"


def _unusable(data: Path) -> list[str]:
    (data / "Noether folder").mkdir(exist_ok=True)
    return [
        "Hopper,,CT of Hopper,Hopper.png",  # modality unknown
        "Hopper,,low,Hopper.png",  # repeats row 2
        "Somebody,,low,Noether.png",  # used in row 3
        "Noether,,low,Noether folder",
        "Noether,,,x.png",
        ",,low,Wu-Chien 2.png",
        "Wu-Chien,1912-05-31,high,Wu-Chien gone.png",
        "Wu-Chien,,high,/Wu-Chien/gone.png",
    ]


def _named(text: str) -> list[str]:
    return [name for name in (*NAMES, "Somebody") if name in text]


# --- the model ---


def test_a_model_and_worklist_that_pass(
    model: Path, tmp_path: Path, picture_cohort: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data = picture_cohort(tmp_path / "data", subjects=6).parent
    manifest = _new_patients(data, *_unusable(data))
    argv = ["--model", str(model), "--cohort", str(manifest), "--workspace", str(tmp_path / "run"), "--device", "cpu"]
    before = sorted(tmp_path.rglob("*"))
    assert main([*argv, "--doctor"]) == 0
    output = capsys.readouterr().out
    for line in (
        "ok    model by-hand 2.0.1: classes well, sick; modalities high, low (no training scans of seldom)\n",
        f"warn  manifest {manifest}: 4 scans of 4 subjects (4 low); 8 of 12 rows would be left out (2: its file is not "
        "there, ",
        "  → a run continues without them and lists them in failures.csv\n",
        "ok    smoke run on cpu: backbone and exported model gave finite numbers",
    ):
        assert line in output
    for kind in ("its modality is unknown", "repeats another row", "its file is used in another row already",
                 "it names a folder, not a file", "modality is empty", "subject is empty"):  # fmt: skip
        assert f"1: {kind}" in output
    assert _named(output) == []
    assert sorted(tmp_path.rglob("*")) == before
    assert main([*argv, "--stages", "preprocess", "--quiet"]) == 3  # and it is what a run leaves out
    with (tmp_path / "run" / "failures.csv").open(encoding="utf-8", newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 8


def test_a_model_that_is_not_whole(
    model: Path,
    asked: Callable[..., CheckContext],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(model, damaged)
    examined = asked(damaged)
    weights = damaged / "models" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (finding,) = run.model(examined)
    assert finding.status == "fail"
    assert f"model: {weights} is not as it was exported: its SHA-256 is" in finding.message
    assert "--model a complete copy" in finding.remedy
    with monkeypatch.context() as patch:
        patch.setattr(run, "_classify", None)  # a network of its own would say nothing of the model
        (finding,) = run.smoke_run(examined)
    assert (finding.status, "on cpu: backbone gave finite" in finding.message) == ("ok", True)
    weights.unlink()
    (finding,) = run.model(examined)
    assert f"{weights} of the exported model cannot be read (No such file" in finding.message
    shutil.rmtree(damaged / "configs")
    assert main(["--doctor", "--model", str(damaged), "--workspace", str(tmp_path / "run")]) == 2
    assert re.search(f"^fail  settings: {damaged}/", capsys.readouterr().out, re.MULTILINE)
    shutil.rmtree(damaged)
    (finding,) = run.model(examined)
    assert (finding.status, "is no exported model" in finding.message) == ("fail", True)


def test_no_model_no_line(asked: Callable[..., CheckContext], model: Path) -> None:
    assert list(run.model(asked(model, predict__model="null"))) == []


def test_settings_that_are_not_those_of_training(asked: Callable[..., CheckContext], model: Path) -> None:
    (finding,) = run.model(asked(model, features__random_seed="5"))
    assert finding.status == "fail"
    assert "modalities high, low" in finding.message
    assert "features.random_seed = 0 (now 5)" in finding.message


def test_the_smoke_run_asks_the_exported_network(
    asked: Callable[..., CheckContext], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = asked(_export(tmp_path, feature_map_shape=(512, 3, 3)))
    assert [f.status for f in run.model(other)] == ["ok"]
    with pytest.raises(InputError, match=re.escape("feature maps (512, 7, 7), the model by-hand reads (512, 3, 3)")):
        list(run.smoke_run(other))
    examined = asked(model)
    assert [f.status for f in run.model(examined)] == ["ok"]
    network = Bundle.read(model).network()
    with torch.no_grad():
        network.classifier.rho[-1].bias.fill_(float("nan"))
    monkeypatch.setattr(Bundle, "network", lambda self: network)
    with pytest.raises(RuntimeError, match="model by-hand gave numbers that are not finite"):
        list(run.smoke_run(examined))


# --- the room ---


def test_only_what_answers_need_is_counted(asked: Callable[..., CheckContext], model: Path) -> None:
    for examined, stages in (
        (asked(model), ["preprocess", "features", "predict"]),
        (asked(model, predict__model="null"), ["preprocess", "features", "pretrain", "classify"]),
    ):
        (finding,) = machine.free_disk(examined)
        needed = disk.bytes_needed(examined.config, disk.count_scans(examined.config), examined.workspace, stages)
        assert f"about {disk.readable_size(needed)} are still to be written" in finding.message
        assert ("baselines" in finding.message) is ("predict" not in stages)


def test_pages_take_what_was_estimated(
    asked: Callable[..., CheckContext], model: Path, tmp_path: Path, picture_cohort: Callable[..., Path]
) -> None:
    """A real night with pictures of noise, which make up most of the pages."""
    data = picture_cohort(tmp_path / "data", subjects=6, side=256).parent
    manifest = _new_patients(data)
    argv = ["--model", str(model), "--cohort", str(manifest), "--workspace", str(tmp_path / "run"), "--quiet"]
    assert main(argv) == 0
    written = sum(file.stat().st_size for file in (tmp_path / "run" / "predict").rglob("*") if file.is_file())
    config = asked(model, manifest).config
    scans = disk.count_scans(config)
    assert 0.8 * written < disk.bytes_needed(config, scans, tmp_path, ["predict"]) < 1.5 * written
    assert disk.bytes_needed(config, scans, tmp_path / "run", ["preprocess", "features", "predict"]) == 0


def test_rows_that_are_left_out_need_no_room(
    asked: Callable[..., CheckContext], model: Path, tmp_path: Path, picture_cohort: Callable[..., Path]
) -> None:
    data = picture_cohort(tmp_path / "data", subjects=6).parent
    manifest = _new_patients(data, *[f"Hopper,{number},CT,ct{number}.nii.gz" for number in range(50)])
    scans = disk.count_scans(asked(model, manifest).config)
    assert (scans.volumes, scans.pictures) == (0, 4)
    overrides = {"cohort.manifest": str(manifest), "cohort.modalities": "{CT: {}, low: {kind: image}}"}
    labelled = load_settings(REPOSITORY / "configs" / "adni.yaml", overrides)
    assert disk.count_scans(labelled).volumes == 50


# --- the manifest of a night ---


def test_a_sound_manifest_without_labels(
    asked: Callable[..., CheckContext], model: Path, tmp_path: Path, picture_cohort: Callable[..., Path]
) -> None:
    manifest = _new_patients(picture_cohort(tmp_path / "data", subjects=6).parent)
    assert list(run.manifest(asked(model, manifest))) == [
        Finding("ok", f"manifest {manifest}: 4 scans of 4 subjects (4 low)")
    ]


@pytest.mark.parametrize(
    ("text", "status", "expected"),
    [
        ("subject,modality\nHopper,low\n", "fail", "1 problem, the first: column 'path' is missing"),
        ("Hopper,low,Noether.png\nNoether,low,Hopper.png\n", "fail", "the first: column 'subject' is missing"),
        ("Hopper,Hopper,x\n1,2,3\n", "fail", "the first: a column is duplicated"),
        (
            "subject,modality,path\nHopper,low,Hopper.png,Noether\n",
            "warn",
            "(1: has 4 cells under 3 columns; put quotes",
        ),
        ('subject,modality,path\nHopper,low,"Hopper.png\n', "warn", "(1: quotation marks do not match)"),
        ("subject,modality,path\nHopper,CT,Hopper.png\n", "warn", "0 scans of 0 subjects; 1 of 1 rows would be left"),
        ("subject,modality,path\nHopper,low,Hopper.png\n", "warn", "0 scans of 0 subjects; 1 of 1 rows would be left"),
        ("subject,modality,path\n", "warn", "0 scans of 0 subjects"),
    ],
)
def test_which_findings_of_the_doctor_stop_a_prediction(
    text: str, status: str, expected: str, asked: Callable[..., CheckContext], model: Path, tmp_path: Path
) -> None:
    manifest = tmp_path / "new_patients.csv"
    manifest.write_text(text, "utf-8")
    examined = asked(model, manifest)
    (finding,) = run.manifest(examined)
    assert finding.status == status, finding
    assert expected in finding.message
    (room,) = machine.free_disk(examined)
    assert _named(str(finding) + str(room)) == []
    argv = ["--model", str(model), "--cohort", str(manifest), "--workspace", str(tmp_path / "run"), "--quiet"]
    refused = main([*argv, "--stages", "cohort"]) == 2
    assert refused == (status == "fail")


def test_a_folder_that_cannot_be_read(
    asked: Callable[..., CheckContext], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> list[Path]:
        raise OSError(5, "Input/output error", "/data/Hopper")

    monkeypatch.setattr(os, "walk", broken)
    examined = asked(model, tmp_path, cohort__layout="breakhis")
    (finding,) = run.manifest(examined)
    (room,) = machine.free_disk(examined)
    assert (finding.status, room.status) == ("fail", "warn")
    assert finding.message.endswith(": a folder cannot be read: Input/output error")
    assert finding.remedy == "correct the path or the permissions, or check the disk"
    assert "is unknown without the manifest" in room.message
    assert _named(str(finding) + str(room)) == []


def test_no_problem_is_told_with_a_cell(tmp_path: Path) -> None:
    """Every kind of problem that a manifest can have: each is recognised, and no cell comes through."""
    config = CohortConfig.model_validate(
        yaml.safe_load("{modalities: {low: {kind: image}}, label: class, positive: sick, data_root: null}")
    )
    (tmp_path / "Hopper.png").write_bytes(b"x")
    (tmp_path / "Noether").mkdir()
    rows = """subject,session,modality,path,class,split
Hopper,1,low,Hopper.png,Noether,train
Hopper,1,low,Hopper.png,noether,test
Wu-Chien,1,low,Hopper.png,Noether,val
Wu-Chien,2,Hopper,Wu-Chien.png,Noether,Hopper
Hopper,2,low,Noether,,train
,,,,Hopper,
Somebody,,low,Somebody.png,Wu-Chien,
"""
    problems: list[Problem] = []
    one_class = "subject,modality,path,class\nHopper,low,Hopper.png,Hopper\n"
    for text, root in ((rows, None), (rows, tmp_path / "elsewhere"), (one_class, None), ("subject,name\n", None)):
        (tmp_path / "m.csv").write_text(text, "utf-8")
        with pytest.raises(ManifestError) as caught:
            check_manifest(read_table(tmp_path / "m.csv"), folder=tmp_path, smallest_class=3,
                           config=config.model_copy(update={"data_root": root}))  # fmt: skip
        problems += caught.value.problems
    messages = [problem.anonymous for problem in problems]
    assert _named("\n".join(map(str, problems))) != []
    assert _named("\n".join(messages)) == []
    assert not any(str(tmp_path) in line or "cannot be named" in line for line in messages), messages
    for text in ("row 5: its modality is unknown", "row 5: its split is unknown", "row 5: its file is not there",
                  "row 6: it names a folder, not a file", "row 3: repeats another row", "row 7: subject is empty",
                  "row 6: the label is empty", "row 4: its file is used in another row already",
                  "row 2: its file lies outside of data_root",
                  "one subject has different labels (rows 2, 3)",
                  "one subject has different splits (rows 2, 3)", "labels differ only in case or spaces",
                  "the split is not given for all subjects, or leaves a split or class out",
                  "no label is the one of cohort.positive",
                  "a class has too few subjects: 1 found (by their last session), 3 needed",
                  "there is only one class", "column 'path' is missing", "there are no scans below the header",
                  "the column of cohort.label is missing"):  # fmt: skip
        assert text in messages, (text, messages)
    (unforeseen,) = ManifestError("Hopper did what nobody foresaw").problems
    assert _named(unforeseen.anonymous) == []
