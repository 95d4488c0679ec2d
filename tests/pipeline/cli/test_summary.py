"""Names out of others' files neither steer the terminal nor are markup."""

import csv
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from console.errors import InputError
from console.messages import show_warnings_safely
from intake import __main__ as intake
from pipeline.cli import summary
from pipeline.cli.main import main
from pipeline.core.progress import Progress
from pipeline.doctor.checks import Finding

EVIL = "M1[/red]\x1b]0;owned\x07\r\nreport: elsewhere/x\u202e"
SHOWN = "M1[/red]\\x1b]0;owned\\x07"
STEERING = ("\x1b", "\x07", "\r", "\u202e")


def steered(text: str) -> list[str]:
    return [repr(c) for c in STEERING if c in text]


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """The results of a run whose metrics and modalities are called by somebody else."""
    (tmp_path / "classify").mkdir()
    summary = {"mean": 0.9, "std": None, "low": 0.8, "high": 0.95}
    metrics = {"test_predictions": 4, "test_subjects": EVIL, "repeats": "[/red]", "threshold_half": {EVIL: summary}}
    (tmp_path / "classify" / "metrics.json").write_text(json.dumps(metrics))
    names = ["modalities", "subjects", "n", "threshold"]
    names += [f"{metric}_{end}" for metric in ("auc", "balanced_accuracy") for end in ("mean", "low", "high")]
    with (tmp_path / "classify" / "subsets.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([names, [EVIL, "[/any]", "[bold]", "0.5", *["0.5"] * 6]])
    return tmp_path


STEPS = [SimpleNamespace(stage=SimpleNamespace(name="classify"), state="run", reasons=(EVIL, EVIL))]


def test_the_summary(finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    failures = [{"stage": "preprocess", "scan": EVIL, "reason": EVIL}]
    summary.print_summary(STEPS, failures, [EVIL], finished)  # type: ignore[arg-type]
    shown = capsys.readouterr().out
    assert not steered(shown)
    assert shown.count(SHOWN) == 6  # title, metric, modality, note, scan and reason
    assert "[/any]" in shown
    assert "[bold]" in shown
    assert "\nreport: elsewhere/x" not in shown


def test_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    for explain in (False, True):
        summary.print_plan(STEPS, explain=explain)  # type: ignore[arg-type]
    shown = capsys.readouterr().out
    assert not steered(shown)
    assert shown.count(SHOWN) == 4
    assert "\nreport: elsewhere/x" not in shown


@pytest.mark.parametrize("damage", ["[1]", '{"threshold_half": 3}', '{"threshold_half": {"auc": []}}', '"text"'])
def test_damaged_results_are_named(finished: Path, damage: str) -> None:
    (finished / "classify" / "metrics.json").write_text(damage)
    with pytest.raises(InputError, match=r"the results in .*classify are damaged .*--force classify"):
        summary.print_summary(STEPS, [], [], finished)  # type: ignore[arg-type]


@pytest.mark.parametrize("command", [main, intake.main])
@pytest.mark.parametrize(
    "argv", [[EVIL], ["--config", EVIL], ["--limit", EVIL], ["bids", EVIL, "x"], ["--stages", EVIL]]
)
def test_what_was_typed(
    command: Callable[[list[str]], int], argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(argv) == 2
    output = capsys.readouterr()
    assert not steered(output.out + output.err)
    assert "\nreport: elsewhere/x" not in output.err


def test_the_doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("pipeline.cli.main.run_checks", lambda patient: iter([Finding("warn", EVIL, EVIL)]))
    assert main(["--doctor"]) == 0
    assert not steered(capsys.readouterr().out)


def test_help_is_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "\nexamples:\n  python run_pipeline.py --stages" in capsys.readouterr().out


def test_a_progress_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    bar = Progress("[/red]", 2, "[/scan]")
    assert bar.bar is not None
    bar.advance()
    bar.bar.refresh()
    bar.close()
    assert "MarkupError" not in capsys.readouterr().err


def test_warnings_of_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    show_warnings_safely()
    assert not steered(warnings.formatwarning(EVIL, UserWarning, "file", 1))
