"""The doctor finds what is wrong, says what to do, changes nothing and never breaks."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from console.errors import InputError
from devices import memory
from pipeline.cli.main import main
from pipeline.core.provenance import REPOSITORY
from pipeline.doctor import checks, disk, machine, run
from pipeline.doctor.checks import CheckContext, Finding, run_checks
from pipeline.settings import load_settings

CONFIGS = REPOSITORY / "configs"


@pytest.fixture
def patient(tmp_path: Path) -> Callable[..., CheckContext]:
    """Settings as typed, a workspace that is not there, and a device."""

    def make(config: str | Path = "demo", device: str = "cpu", **settings: str) -> CheckContext:
        file = config if isinstance(config, Path) else CONFIGS / f"{config}.yaml"
        overrides = {key.replace("__", "."): value for key, value in settings.items()}
        made = CheckContext(lambda: load_settings(file, overrides), lambda name: tmp_path / "runs" / name, device)
        made.settings = made.load()
        return made

    return make


def _lines(findings: Iterator[Finding]) -> list[str]:
    return [str(finding) for finding in findings]


# --- the whole of it ---


def test_a_sound_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The demo, real networks included; nothing is made where the workspace will be."""
    before = sorted(tmp_path.rglob("*"))
    assert main(["--doctor", "--workspace", str(tmp_path / "run"), "--device", "cpu"]) == 0
    output = capsys.readouterr()
    lines = output.out.splitlines()
    assert all(line.startswith(("ok    ", "warn  ")) for line in lines)
    for text in ("packages are installed in the versions", "settings demo", "ok    CPU: ", "--device cpu takes cpu",
                  "60 scans of the demo cohort phantoms", f"workspace {tmp_path / 'run'}: will be made",
                  "file locks work",
                  "weights of vgg16", "HD-BET (fast): 0.model", "manifest: phantoms",
                  "smoke run on cpu: HD-BET, backbone and set model gave finite numbers"):  # fmt: skip
        assert sum(text in line for line in lines) == 1, text
    assert output.err == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_a_warning_is_no_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--config", str(CONFIGS / "adni.yaml"), "--features.weights", "random", "--workspace", str(tmp_path)]
    assert main([*argv, "--doctor"]) == 0
    output = capsys.readouterr().out
    assert "warn  manifest: none is given" in output
    assert not any(line.startswith("fail") for line in output.splitlines())


def test_bad_settings_are_a_line_and_the_rest_is_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--doctor", "--features.backbone", "vgg12"]) == 2
    lines = capsys.readouterr().out.splitlines()
    (bad,) = [line for line in lines if line.startswith("fail")]
    assert "settings:" in bad
    assert "there are vgg11, vgg16 and timm:<name>" in bad
    assert any(line.startswith("ok    CPU: ") for line in lines)
    assert any(line.startswith("warn  smoke run: not checked") for line in lines)


def test_without_a_single_package() -> None:
    """`-S` hides all that is installed. And the terminal cannot show an arrow."""
    argv = [sys.executable, "-S", "run_pipeline.py", "--doctor"]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    shown = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, env=ascii_only)
    assert shown.returncode == 2
    assert shown.stderr == ""
    assert "fail  packages not installed: torch, monai, " in shown.stdout
    assert r"\u2192 pip install --constraint constraints.txt --editable ." in shown.stdout
    assert "ok    Python" in shown.stdout or "warn  Python" in shown.stdout


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, run_pipeline; assert not {'torch', 'monai', 'pandas'} & set(sys.modules); "
    code += "import pipeline.settings, pipeline.specs.registry, pipeline.doctor.disk, pipeline.doctor.offline_weights; "
    code += "assert not {'torch', 'monai', 'sklearn', 'skimage'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)


def test_a_check_that_breaks_is_a_finding(
    patient: Callable[..., CheckContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    def burning_house(patient: CheckContext) -> Iterator[Finding]:
        yield Finding("ok", "the door")
        raise RuntimeError("fire\non two floors")

    def refused(patient: CheckContext) -> Iterator[Finding]:
        yield from ()
        raise InputError("no such thing; name another")

    monkeypatch.setattr(machine, "CHECKS", (burning_house, refused))
    monkeypatch.setattr(run, "CHECKS", ())
    assert _lines(run_checks(patient()))[3:] == [
        "ok    the door",
        "fail  burning house: RuntimeError: fire on two floors  → if the message does not help, report it",
        "fail  refused: no such thing; name another",
    ]
    monkeypatch.setitem(sys.modules, "pipeline.doctor.machine", None)
    assert "fail  pipeline.doctor.machine cannot be loaded: ModuleNotFoundError" in _lines(run_checks(patient()))[3]


# --- Python and packages ---


@pytest.mark.parametrize(
    ("version", "status"), [((3, 10, 9), "fail"), ((3, 11, 0), "ok"), ((3, 13, 1), "warn"), ((4, 0, 0), "warn")]
)
def test_python(
    version: tuple, status: str, patient: Callable[..., CheckContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "sys", SimpleNamespace(version_info=version, executable="/python"))
    (finding,) = checks.python(patient())
    assert finding.status == status
    assert ".".join(map(str, version)) in finding.message
    assert ("PYTHON=python3.11" in finding.remedy) is (status != "ok")


def test_packages_against_their_pins(patient: Callable[..., CheckContext], monkeypatch: pytest.MonkeyPatch) -> None:
    real = checks._installed
    odd = {"scipy": "0.1", "torch": real("torch").split("+")[0] + "+cu126", "monai": None, "ruff": None, "onnx": "9"}
    monkeypatch.setattr(checks, "_installed", lambda name: odd.get(name, real(name)))
    findings = list(checks.packages(patient()))
    assert [f.status for f in findings] == ["warn", "warn", "fail", "ok"]
    texts = [str(f) for f in findings]
    assert "package scipy is 0.1; " in texts[0]
    assert "→ pip install -c constraints.txt scipy==" in texts[0]
    assert "package onnx is 9" in texts[1]
    assert "packages not installed: monai  →" in texts[2]


@pytest.mark.parametrize(
    ("config", "missing", "named"),
    [("demo", "nilearn", True), ("demo", "onnx", True), ("adni", "onnx", False), ("adni", "nilearn", False)],
)
def test_the_extra_demo_only_where_it_is_needed(
    config: str, missing: str, named: bool, patient: Callable[..., CheckContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "_installed", lambda name: None if name == missing else "1")
    (finding,) = checks.settings(patient(config))
    assert finding.status == ("warn" if named else "ok")
    assert (missing in finding.message) is named


# --- device ---


def _gpu(monkeypatch: pytest.MonkeyPatch, **facts: object) -> None:
    usual = {"free": 70e9, "archs": ["sm_80", "sm_90", "compute_90"], "capability": (9, 0)} | facts
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda n: SimpleNamespace(name="H100"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda n: usual["capability"])
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: usual["archs"])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda n: (usual["free"], 80e9))


@pytest.mark.parametrize(
    ("facts", "status", "expected"),
    [
        ({}, "ok", "GPU 0: H100, compute capability 9.0, driver 560.35.03, 70.0 GB of 80.0 GB memory free"),
        ({"free": 9e9}, "warn", "9.0 GB of 80.0 GB memory free: another process holds the rest  → see nvidia-smi"),
        ({"archs": ["sm_50", "sm_60"]}, "fail", "this torch has no code for it (sm_50, sm_60)  → take another build"),
    ],
)
def test_gpus(
    facts: dict,
    status: str,
    expected: str,
    patient: Callable[..., CheckContext],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  560.35.03  Fri Aug 16\nGCC version: gcc\n")
    monkeypatch.setattr(machine, "NVIDIA_DRIVER", driver)
    _gpu(monkeypatch, **facts)
    (line,) = [f for f in machine.device(patient()) if f.message.startswith("GPU 0")]
    assert line.status == status
    assert expected in str(line)


@pytest.mark.parametrize(
    ("arch", "capability", "runs"),
    [("sm_80", (8, 6), True), ("sm_86", (8, 0), False), ("sm_80", (9, 0), False), ("sm_90a", (9, 0), True),
     ("compute_80", (9, 0), True), ("compute_90", (8, 9), False), ("sm_120", (12, 0), True)],
)  # fmt: skip
def test_which_code_runs_on_which_gpu(arch: str, capability: tuple[int, int], runs: bool) -> None:
    """NVIDIA, CUDA C++ Programming Guide, "Binary Compatibility" and "PTX Compatibility"."""
    assert machine._runs_on(arch, capability) is runs


def test_a_gpu_that_torch_cannot_use(
    patient: Callable[..., CheckContext], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "version").write_text("NVRM version: 560.35.03")
    monkeypatch.setattr(machine, "NVIDIA_DRIVER", tmp_path / "version")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert any("a build without CUDA  → install the CUDA build" in line for line in _lines(machine.device(patient())))
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert any("built for CUDA 12.6, but finds no GPU" in line for line in _lines(machine.device(patient())))


def test_a_device_that_is_not_there(patient: Callable[..., CheckContext]) -> None:
    for check in (machine.device, run.smoke_run):
        first = next(iter(check(patient(device="cuda:7"))))
        assert first.status == "fail"
        assert "cuda:7 is not present" in first.message


def test_memory_is_what_the_container_may_take(
    patient: Callable[..., CheckContext], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "max").write_text("max\n")
    (tmp_path / "limit").write_text("2000000000\n")
    for file, status in (("max", "ok"), ("limit", "warn")):
        monkeypatch.setattr(memory, "CGROUP_LIMITS", (str(tmp_path / file),))
        monkeypatch.setattr(machine.os, "sysconf", lambda name: 4096 if name == "SC_PAGE_SIZE" else 4_000_000)
        (line,) = [f for f in machine.device(patient()) if f.message.startswith("CPU")]
        assert line.status == status
        assert ("16.4 GB" if status == "ok" else "2.0 GB") in line.message


# --- disk, workspace, locks ---


@pytest.mark.parametrize(("free", "status"), [(1e6, "fail"), (1e12, "ok")])
def test_free_disk(
    free: float, status: str, patient: Callable[..., CheckContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    examined = patient()
    monkeypatch.setattr(disk, "free_bytes", lambda path: free)
    (finding,) = machine.free_disk(examined)
    assert finding.status == status
    assert " are still to be written (60 scans of the demo cohort phantoms), " in finding.message
    assert finding.message.endswith("; stage baselines not counted")
    assert (finding.remedy == "free some space, or name another --workspace") is (status == "fail")


def test_workspace(patient: Callable[..., CheckContext], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examined = patient()
    (finding,) = machine.workspace(examined)
    assert (finding.status, finding.message) == (
        "ok",
        f"workspace {tmp_path / 'runs' / 'demo'}: will be made in {tmp_path}, may be written to",
    )
    with monkeypatch.context() as patch:
        patch.setattr(machine.os, "access", lambda folder, mode: folder != tmp_path)
        (finding,) = machine.workspace(examined)
        assert finding.status == "fail"
        assert f"{tmp_path} may not be written to" in finding.message
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").write_text("a file")
    (finding,) = machine.workspace(examined)
    assert "is a file, not a folder" in finding.message
    examined.workspace_of = lambda name: tmp_path / ("x" * 300)
    with pytest.raises(InputError, match="has 300 bytes"):
        list(machine.workspace(examined))


def test_locks(patient: Callable[..., CheckContext], monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.cli.lock import locked

    examined = patient()
    (finding,) = machine.locks(examined)
    assert (finding.status, finding.message.split(" in ")[0]) == ("ok", "file locks work")
    with locked(examined.workspace):
        (finding,) = machine.locks(examined)
    assert (finding.status, finding.message) == ("warn", f"another run is under way in {examined.workspace}")
    with locked(examined.workspace):
        (examined.workspace / ".lock").unlink()
        (finding,) = machine.locks(examined)
    assert finding.status == "warn"
    (examined.workspace / ".lock").symlink_to("elsewhere")
    (finding,) = machine.locks(examined)
    assert (finding.status, finding.message.split("/")[-1]) == ("fail", ".lock is a link, which a run would not follow")
    (examined.workspace / ".lock").unlink()
    os.mkfifo(examined.workspace / ".lock")
    (finding,) = machine.locks(examined)
    assert finding.status == "ok"
    monkeypatch.setattr(machine, "_file_system", lambda folder: "nfs4")
    (finding,) = machine.locks(examined)
    assert "is on a network (nfs4)" in finding.message

    def unsupported(handle: int, how: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(machine.fcntl, "flock", unsupported)
    (finding,) = machine.locks(examined)
    assert "knows no file locks: Operation not supported" in finding.message


def test_the_file_system_of_a_folder() -> None:
    assert machine._file_system(Path("/proc")) == "proc"
    assert machine._file_system(Path("/proc/self")) == "proc"


# --- weights, manifest, smoke run ---


def test_weights_of_the_backbone(
    patient: Callable[..., CheckContext], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    examined = patient("adni")
    (finding,) = run.backbone_weights(examined)
    assert finding.status == "fail"
    assert "vgg11-8a719046.pth is not in" in finding.message
    assert examined.broken == {"backbone"}
    (finding,) = run.backbone_weights(patient("adni", features__weights="random"))
    assert (finding.status, "are random" in finding.message) == ("ok", True)
    monkeypatch.setattr("models.weights.weights_identity", lambda name: "timm 1.2.3")
    (finding,) = run.backbone_weights(patient("adni", features__backbone="timm:resnet18"))
    assert (finding.status, "timm 1.2.3" in finding.message) == ("warn", True)


def test_hd_bet_parameters(
    patient: Callable[..., CheckContext], tmp_path: Path, picture_cohort: Callable[..., Path]
) -> None:
    (finding,) = run.hd_bet_parameters(patient(preprocess__skull_strip_mode="accurate"))
    assert (finding.status, "0.model, 1.model, 2.model, 3.model, 4.model" in finding.message) == ("ok", True)
    examined = patient(preprocess__weights=str(tmp_path))
    (finding,) = run.hd_bet_parameters(examined)
    assert finding.status == "fail"
    assert f"there is no file {tmp_path / '0.model'}" in finding.message
    assert examined.broken == {"HD-BET"}
    pictures = picture_cohort(tmp_path / "data", subjects=6)
    (finding,) = run.hd_bet_parameters(patient(pictures, preprocess__weights=str(tmp_path)))
    assert (finding.status, "not needed" in finding.message) == ("ok", True)


def test_manifest(patient: Callable[..., CheckContext], tmp_path: Path, picture_cohort: Callable[..., Path]) -> None:
    config = picture_cohort(tmp_path / "data", subjects=12)
    (finding,) = run.manifest(patient(config))
    assert finding.status == "ok"
    assert "scans of 12 subjects (12 low, " in finding.message
    manifest = tmp_path / "data" / "cohort.csv"
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join([*lines, "p90,lo,p90.png,sick", "p91,low,gone.png,sick"]))
    (finding,) = run.manifest(patient(config))
    assert finding.status == "fail"
    assert "3 problems, the first: row " in finding.message
    assert finding.message.endswith(": its modality is unknown")  # cells may name patients
    manifest.unlink()
    (finding,) = run.manifest(patient(config))
    assert (finding.status, "cannot be read" in finding.message) == ("fail", True)
    (finding,) = run.manifest(patient("adni"))
    assert str(finding) == "warn  manifest: none is given  → --cohort my_cohort.csv"


def test_manifest_of_a_breakhis_folder(patient: Callable[..., CheckContext], tmp_path: Path) -> None:
    kinds = [("B_A", number) for number in (11, 12, 13)] + [("M_DC", number) for number in (21, 22, 23)]
    for kind, slide in kinds:
        (tmp_path / f"SOB_{kind}-14-{slide}000-40-001.png").write_bytes(b"x")
    (finding,) = run.manifest(patient("breakhis", cohort__manifest=str(tmp_path)))
    assert finding.status == "ok", finding
    assert "6 scans of 6 subjects (6 40X)" in finding.message
    asked = patient("breakhis", cohort__manifest=str(tmp_path), cohort__balanced="[24, 29]")
    (finding,) = run.manifest(asked)
    assert (finding.status, finding.remedy) == ("fail", "correct cohort.balanced")


def test_smoke_run_with_weights_missing_draws_its_own(patient: Callable[..., CheckContext]) -> None:
    examined = patient("adni")
    examined.broken |= {"backbone", "HD-BET"}
    (finding,) = run.smoke_run(examined)
    assert finding.status == "ok"
    assert "smoke run on cpu: backbone and set model (random weights) gave finite numbers" in finding.message


@pytest.mark.parametrize("what", ["models.backbone.Backbone", "models.extractor.UniversalExtractor"])
def test_smoke_run_sees_numbers_that_are_not_finite(
    what: str, patient: Callable[..., CheckContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    examined = patient("adni")
    examined.broken |= {"backbone", "HD-BET"}

    def broken(self: torch.nn.Module, first: torch.Tensor, *_: object) -> torch.Tensor:
        return torch.full((len(first), 512, 7, 7), float("nan"))

    monkeypatch.setattr(f"{what}.forward", broken)
    with pytest.raises(RuntimeError, match=r"not finite; try --device cpu"):
        list(run.smoke_run(examined))


def test_smoke_run_sees_a_disk_that_changes_bytes(
    patient: Callable[..., CheckContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.store.features import FeatureStore

    examined = patient("adni")
    examined.broken |= {"backbone", "HD-BET"}
    monkeypatch.setattr(FeatureStore, "load", lambda self, scans: torch.zeros(1, 512, 7, 7))
    with pytest.raises(RuntimeError, match="came back different"):
        list(run.smoke_run(examined))
