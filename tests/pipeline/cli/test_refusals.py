"""Whatever is typed, or lies where a file is expected: exit code 2 and a sentence, never a traceback."""

import importlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from console.exit_codes import PACKAGE_ERRORS, READER_GONE, USER_ERRORS, exit_code, explained
from files.reading import read_bytes
from files.writing import PlantedLinkError
from intake import __main__ as intake
from pipeline.cli import derivatives
from pipeline.cli.main import main
from pipeline.core.provenance import REPOSITORY

MINIMAL = "name: x\ncohort: {modalities: {T1: {}}, positive: a}\n"
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, full of things that are not what they are taken for."""
    monkeypatch.chdir(tmp_path)
    configs = {
        "good": MINIMAL, "bomb": BOMB, "deep": "[" * 20_000, "list": "[1, 2]", "keys": "1: 2", "empty": "",
        "twice": MINIMAL + "name: y\n", "inner": "name: x\ncohort: {positive: a, positive: b}\n",
        "date": "a: 2020-13-45",
        "dots": MINIMAL.replace("name: x", "name: .."), "dot": MINIMAL.replace("name: x", "name: ."),
        "three": MINIMAL.replace("name: x", "name: '...'"), "flag": MINIMAL.replace("name: x", "name: '-x'"),
        "null": "a: \0", "self": "a: &a [*a]", "python": "a: !!python/object/apply:os.system ['true']",
        "long": MINIMAL.replace("name: x", f"name: {'x' * 300}"),
    }  # fmt: skip
    for name, text in configs.items():
        (tmp_path / f"{name}.yaml").write_text(text, "utf-8")
    (tmp_path / "binary.yaml").write_bytes(bytes(range(256)))
    (tmp_path / "large.yaml").write_bytes(b"#" * 1_000_001)
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "ring").symlink_to("ring")
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "other" / "cohort").mkdir(parents=True)
    (tmp_path / "other" / "cohort" / "precious").write_text("of someone else")
    for name in (".lock", "logs", "settings.yaml"):
        for kind in ("link", "folder", "pipe"):
            workspace = tmp_path / f"{kind}{name}"
            workspace.mkdir()
            if kind == "link":
                (workspace / name).symlink_to(tmp_path / "victim")
            elif kind == "pipe":
                os.mkfifo(workspace / name)
            else:
                (workspace / name).mkdir()
    return tmp_path


NAMED = "--config good.yaml --workspace run"
RUNS = {  # what is typed → what is said
    "--config nowhere.yaml": "cannot read nowhere.yaml",
    "--config folder.yaml": "Is a directory",
    "--config pipe": "pipe is a pipe, a device or a socket",
    "--config /dev/zero": "a device",
    "--config ring": "cannot read ring: Too many levels",
    "--config binary.yaml": "binary.yaml is not YAML",
    "--config bomb.yaml": "bomb.yaml is no config file: line",
    "--config deep.yaml": "more than 100 levels",
    "--config large.yaml": "at most 1,000,000 are read",
    "--config list.yaml": "list.yaml holds no settings",
    "--config keys.yaml": "keys.yaml holds no settings",
    "--config empty.yaml": "empty.yaml holds no settings",
    "--config twice.yaml": "line 3: 'name' is there already, in line 1",
    "--config inner.yaml": "line 2: 'positive' is there already",
    "--config date.yaml": "month must be in 1..12",
    "--config dots.yaml": "name: string should match pattern",
    "--config dot.yaml": "name: string should match pattern",
    "--config three.yaml": "name: string should match pattern",
    "--config flag.yaml": "name: string should match pattern",
    "--config null.yaml": "is not YAML",
    "--config self.yaml": "lies inside of what it repeats",
    "--config python.yaml": "could not determine a constructor",
    "--config long.yaml": "has 300 bytes",
    "--config {file}/good.yaml": "Not a directory",
    "--config EMPTY": "'' is no path",
    "--config good.yaml --workspace EMPTY": "'' is no path",
    "--config good.yaml --workspace NUL": "is no path",
    "--config good.yaml --cohort EMPTY": "'' is no path",
    "--config good.yaml --workspace {checkout}": "would be the folder of this program",
    "--config good.yaml --workspace {checkout}/docs/..": "would be the folder of this program",
    "--config good.yaml --workspace / --limit 6": "would be the folder of this program, or one above it",
    "--config good.yaml --workspace ~": "would be your home folder",
    "--config good.yaml --workspace other": "has cohort in it, but no settings.yaml",
    "--config good.yaml --workspace file": "cannot write to the workspace",
    "--config good.yaml --workspace file/run": "cannot write to the workspace",
    "--config good.yaml --workspace ring": "cannot write to the workspace",
    "--config good.yaml --workspace pipe": "cannot write to the workspace",
    "--config good.yaml --workspace link.lock": "link.lock/.lock: a link to elsewhere",
    "--config good.yaml --workspace folder.lock": "folder.lock/.lock: Is a directory",
    "--config good.yaml --workspace pipe.lock": "pipe.lock/.lock is a pipe",
    "--config good.yaml --workspace linklogs": "linklogs/logs: a link to elsewhere",
    "--config good.yaml --workspace pipelogs": "pipelogs/logs",
    "--config good.yaml --workspace foldersettings.yaml": "foldersettings.yaml/settings.yaml: it is a folder",
    f"{NAMED} --limit x": "--limit: invalid int value: 'x'",
    f"{NAMED} --limit -5": "cohort.limit",
    f"{NAMED} --limit": "--limit: expected one argument",
    f"{NAMED} --workers x": "executor.workers",
    f"{NAMED} --workers -1 --executor dask": "executor.workers",
    f"{NAMED} --worker-memory much --executor dask": "executor.worker_memory",
    f"{NAMED} --scheduler nonsense --executor dask": "executor.scheduler",
    f"{NAMED} --executor cloud": "--executor: invalid choice: 'cloud'",
    f"{NAMED} --stages ESC": r"no stage '\x1b]0;x\x07'",
    f"{NAMED} --stages ,": "--stages names no stage",
    f"{NAMED} --stages report\nx": "there is no stage",
    f"{NAMED} --force nothing": "--force: there is no stage",
    f"{NAMED} --split.missing {{PET:0.5,PET:0.3": "split.missing",
    f"{NAMED} --split.missing {{a:&a[*a]}}": "",
    f"{NAMED} --report.title DEEP": "--report.title: line 1: the YAML has more than 100 levels",
    f"{NAMED} --split.missing TWICE": "--split.missing: line 1: 'T1' is there already",
    f"{NAMED} --split.seed 1 --split.seed.x 2": "split.seed",
    f"{NAMED} --executor.slurm.cores 4 --executor.slurm {{}}": "settings inside of slurm were given as well",
    f"{NAMED} --..": "needs a value",
    f"{NAMED} --.=1": "there is no setting",
    f"{NAMED} --{'a.' * 5000}b 1": "there is no setting a.a.a",
    f"{NAMED} --name.x 1": "name",
    f"{NAMED} --name=..": "there is no option --name=..",
    f"{NAMED} --classify.learning_rate .nan": "classify.learning_rate",
    f"{NAMED} --classify.learning_rate 1{'0' * 400}": "classify.learning_rate",
    f"{NAMED} ESC": r"there is no option \x1b]0;x\x07",
    "--model nowhere": "there is no model nowhere",
    "--model file": "there is no model file",
    "--model pipe": "there is no model pipe",
    "--model folder": "folder",
    "--model ring": "there is no model ring",
    "--config good.yaml --weights-from file": "there is no such folder",
    "--config good.yaml --weights-from nowhere": "there is no such folder",
    "--config good.yaml --weights-from ring": "there is no such folder",
    "--config good.yaml --weights-from EMPTY": "'' is no path",
    "--config good.yaml --fetch-weights file": "--fetch-weights",
    "--config good.yaml --fetch-weights file/x": "--fetch-weights",
    "--config good.yaml --fetch-weights ring": "--fetch-weights",
}  # fmt: skip
INTAKES = {
    "": "required",
    "nonsense": "invalid choice: 'nonsense'",
    "ESC": r"\x1b]0;x\x07",
    "bids folder": "required: manifest",
    "bids nowhere m.csv": "there is no folder nowhere",
    "bids file m.csv": "there is no folder file",
    "bids ring m.csv": "there is no folder ring",
    "bids folder m.csv": "no sub-* folders",
    "bids EMPTY m.csv": "'' is no path",
    "bids folder m.csv --runs some": "invalid choice: 'some'",
    "bids {bids} folder": "folder: it is a folder; expected a file",
    "bids {bids} file/m.csv": "file: it is there already",
    "bids {bids} /sys/m.csv": "not allowed",
    "dicom nowhere out --key key": "",
    "dicom folder out --key file": "holds no key",
    "dicom other out --key folder": "cannot be read: Is a directory",
    "dicom folder out --key pipe": "pipe is a pipe",
    "dicom folder out --key nowhere/key": "make the folder",
    "dicom folder out --key folder/key": "lies inside of",
    "dicom folder file --key key": "file: it is there already",
    "dicom folder ring --key key": "ring",
    "dicom folder folder/out --key key": "lie in one another",
    "dicom folder out --key key --patients nowhere.csv": "nowhere.csv",
    "dicom folder out --key key --patients folder": "Is a directory",
    "dicom folder out --key key --session-days x": "invalid int value: 'x'",
    "dicom folder out --key key --session-days -1": "session_days: Input should be greater",
    "dicom folder out --key key --name T1w": "expected pairs such as T1w=MRI",
    "pseudonym p --key nowhere": "there is no key file",
    "pseudonym p --key file": "holds no key",
    "pseudonym p --key pipe": "is a pipe",
    "pseudonym p --key ring": "there is no key file",
}
DERIVATIVES = {
    "nowhere out": "not finished",
    "file out": "not finished",
    "ring out": "its links lead in a ring",
    "ring": "required: out",
}
STANDS_FOR = {
    "EMPTY": "", "NUL": "a\0b", "ESC": "\x1b]0;x\x07", "DEEP": "[" * 3000, "TWICE": "{T1: 0.5, T1: 0.3}",
    "~": str(Path.home()),
}  # fmt: skip


def refused(command: Callable[[list[str]], int], line: str, capsys: pytest.CaptureFixture[str], **named: object) -> str:
    """What is said, all of it on stderr, at exit code 2."""
    argv = [
        STANDS_FOR.get(argument) if argument in STANDS_FOR else argument for argument in line.split(" ") if argument
    ]
    argv = [argument.replace("{checkout}", str(REPOSITORY)) for argument in argv]
    for name, value in named.items():
        argv = [argument.replace(f"{{{name}}}", str(value)) for argument in argv]
    assert command(argv) == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: ")
    assert "Traceback" not in output.err + output.out
    assert "a bug" not in output.err
    assert "\x1b" not in output.err
    assert len(output.err) < 2000
    return output.err


@pytest.mark.parametrize(("line", "expected"), RUNS.items(), ids=lambda value: str(value)[:60].encode("unicode_escape"))
def test_runs(line: str, expected: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in refused(main, line, capsys, file=folder / "file")
    assert not (folder / "victim").exists()
    assert (folder / "other" / "cohort" / "precious").read_text() == "of someone else"
    assert not (REPOSITORY / ".lock").exists()


@pytest.mark.parametrize(
    ("line", "expected"), INTAKES.items(), ids=lambda value: str(value)[:60].encode("unicode_escape")
)
def test_intake(line: str, expected: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bids = folder / "data set" / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    bids.parent.mkdir(parents=True)
    bids.touch()
    (folder / "data set" / "participants.tsv").write_text("participant_id\tdiagnosis\nsub-01\tCN\n")
    (folder / "data").symlink_to("data set")
    for name in ("file", "key"):
        (folder / name).touch()
        (folder / name).chmod(0o600)
    (folder / "key").write_text("ab" * 32)
    assert expected in refused(intake.main, line, capsys, bids="data")


@pytest.mark.parametrize(("line", "expected"), DERIVATIVES.items())
def test_derivatives(line: str, expected: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in refused(derivatives.main, line, capsys)


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("PRETRAIN", '{"epochs": 7', "environment"),
        ("PRETRAIN", "[" * 100_000, "environment"),
        ("PRETRAIN", "5", "pretrain"),
        ("PRETRAIN__EPOCHS", "many", "pretrain.epochs"),
        ("PRETRAIN__EPOCHS__X", "1", "pretrain"),
        ("CLASSIFY__HIDDEN", "7, 1", "environment"),
        ("PRETRIAN__EPOCHS", "1", "did you mean pretrain"),
        ("__", "1", "there is no setting"),
        ("NAME", "\udcff", "name"),
        ("NAME", "..", "name: string should match pattern"),
        ("EXECUTOR" + "__X" * 3000, "1", "there is no setting executor"),
    ],
    ids=lambda value: str(value)[:30].encode("unicode_escape"),
)
def test_environment(
    variable: str,
    text: str,
    expected: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(f"HYPERMM_{variable}", text)
    assert expected in refused(main, NAMED, capsys)


# --- by the kind of the error, wherever it is from ---


def test_every_kind_that_is_named_is_there() -> None:
    for name in (*USER_ERRORS, *PACKAGE_ERRORS):
        module, _, kind = name.rpartition(".")
        imported = sys.modules.get(module) or importlib.import_module(module)
        assert issubclass(getattr(imported, kind), Exception), name
        assert f"{getattr(imported, kind).__module__}.{kind}" == name  # explained() compares these


def damaged_safetensors(folder: Path) -> None:
    from safetensors.torch import load_file

    (folder / "w.safetensors").write_bytes(b"\xff" * 100)
    load_file(folder / "w.safetensors")


def not_utf8(folder: Path) -> None:
    (folder / "t").write_bytes(b"\xff")
    (folder / "t").read_text("utf-8")


def empty_table(folder: Path) -> None:
    import pandas as pd

    (folder / "t.csv").touch()
    pd.read_csv(folder / "t.csv")


def nested(folder: Path) -> None:
    json.loads("[" * 200_000)


@pytest.mark.parametrize(
    ("reader", "expected"),
    [
        (damaged_safetensors, "a file of weights or features is damaged"),
        (not_utf8, "is not UTF-8 text"),
        (empty_table, "a table is damaged"),
        (nested, "nested too deep"),
        (lambda folder: json.loads("{"), "a file is not JSON"),
        (lambda folder: read_bytes(Path("/dev/zero")), "/dev/zero is a pipe, a device"),
        (lambda folder: (folder / "gone").read_bytes(), "gone: it is not there"),
        (lambda folder: folder.read_bytes(), "it is a folder; expected a file"),
        (lambda folder: (folder / ("n" * 300)).open("w"), "a path is too long"),
        (lambda folder: (folder / "a\udcff").write_text("x\udcff", "utf-8"), "is not UTF-8 text"),
    ],
)  # fmt: skip
def test_kinds_of_damage(
    reader: Callable[[Path], object], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(lambda: bool(reader(tmp_path))) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert expected in message


def test_a_bug_is_named_a_bug_and_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> int:
        raise KeyError("\x1b]0;x\x07")

    for error in (KeyError("x"), TypeError("x"), ValueError("x"), OSError("x"), ConnectionResetError(104, "x")):
        assert explained(error) == ""
    assert exit_code(broken) == 1
    message = capsys.readouterr().err
    assert "Traceback" in message
    assert message.endswith("a bug: please report it with the lines above\n")
    assert "\x1b" not in message


def test_a_reader_that_has_closed_the_output_is_no_bug() -> None:
    """As in `python -m demo phantoms --help | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "demo", "phantoms", "--help"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, cwd=REPOSITORY, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (READER_GONE, b"")


def test_a_planted_link_is_named(tmp_path: Path) -> None:
    assert explained(PlantedLinkError(tmp_path)) == (
        f"{tmp_path}: a link to elsewhere lies where the pipeline writes; remove it, or name another folder"
    )


def test_intake_on_a_full_disk(folder: Path) -> None:
    """No file may be larger than 0 bytes, which the kernel reports as it reports a full disk."""
    (folder / "set" / "sub-01" / "anat").mkdir(parents=True)
    (folder / "set" / "sub-01" / "anat" / "sub-01_T1w.nii.gz").touch()
    (folder / "set" / "participants.tsv").write_text("participant_id\tdiagnosis\nsub-01\tCN\n")
    script = "import sys; from intake.__main__ import main; sys.exit(main(['bids', 'set', 'm.csv']))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 2, done.stderr
    assert "error: the disk is full" in done.stderr  # after a word of joblib, whose semaphores need a file too
    assert not [path for path in folder.iterdir() if "m.csv" in path.name]
