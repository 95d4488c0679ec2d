"""The stages joint and impute from the command line, and their section of the report."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.cli.main import main

pytestmark = pytest.mark.usefixtures("thin_backbone")
QUICK = ["--pretrain.epochs", "1", "--joint.draws", "3", "--impute.draws", "2"]
SECTION = 'id="joint"'


def test_named_stages_run_and_the_report_has_their_section(
    tmp_path: Path, picture_cohort: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--config", str(picture_cohort(tmp_path / "data")), "--quiet", "--workspace", str(tmp_path / "run"), *QUICK]
    page = tmp_path / "run" / "report" / "report.html"
    assert main(argv) == 0
    assert not (tmp_path / "run" / "joint").exists()
    assert SECTION not in page.read_text("utf-8")
    assert main([*argv, "--stages", "joint,impute,report"]) == 0
    text = page.read_text("utf-8")
    assert SECTION in text
    assert "Imputed values were never measured" in text
    assert (tmp_path / "run" / "impute" / "imputed.csv").exists()
    capsys.readouterr()
    assert main([*argv, "--stages", "joint,impute,report", "--dry-run"]) == 0
    states = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert all("run" not in states[name].split()[1:2] for name in ("joint", "impute", "report"))
    assert main([*argv, "--stages", "report", "--split.missing", "{low: 0.3}"]) == 0  # the joint model is older now
    assert SECTION not in page.read_text("utf-8")
    assert "the joint model is of earlier data and not shown" in capsys.readouterr().out
