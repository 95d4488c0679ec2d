"""The stages joint and impute from the command line, and their section of the report."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from intake.pseudonyms import read_or_make_key
from pipeline.cli.main import main
from preprocessing.encoding import png_pixels

pytestmark = pytest.mark.usefixtures("thin_backbone")
QUICK = ["--pretrain.epochs", "1", "--joint.draws", "3", "--impute.draws", "2"]
FEW = ["--recycle.labelled", "[1.0]", "--recycle.rho", "[0.5]", "--recycle.epochs", "1", "--recycle.patients", "20"]
SECTION = 'id="joint"'


def test_named_stages_run_and_the_report_has_their_section(
    tmp_path: Path, picture_cohort: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    read_or_make_key(tmp_path / "mark.key", outside=[])
    argv = ["--config", str(picture_cohort(tmp_path / "data")), "--quiet", "--workspace", str(tmp_path / "run"), *QUICK]
    argv += ["--impute.mark_key", str(tmp_path / "mark.key")]
    page = tmp_path / "run" / "report" / "report.html"
    assert main(argv) == 0
    assert not (tmp_path / "run" / "joint").exists()
    assert SECTION not in page.read_text("utf-8")
    assert main([*argv, "--stages", "joint,impute,hypothesise,update,recycle,report", *FEW]) == 0
    text = page.read_text("utf-8")
    assert all(f'id="{name}"' in text for name in ("hypotheses", "updated", "recycled"))
    assert SECTION in text
    assert "Imputed values were never measured" in text
    assert (tmp_path / "run" / "impute" / "imputed.csv").exists()
    marks = check_pictures(tmp_path / "run" / "impute")
    assert (marks["mean"], marks["standard deviation"]) == ({"batch": "1", "weak": marks["mean"]["weak"]}, None)
    assert "Imputed beside real scans, and where we do not know" in text
    capsys.readouterr()
    assert main([*argv, "--stages", "joint,impute,hypothesise,update,recycle,report", *FEW, "--dry-run"]) == 0
    states = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert all(
        "run" not in states[name].split()[1:2] for name in ("joint", "hypothesise", "update", "recycle", "report")
    )
    assert main([*argv, "--stages", "report", "--split.missing", "{low: 0.3}"]) == 0  # the joint model is older now
    said = capsys.readouterr().out
    for name in (SECTION, 'id="hypotheses"', 'id="recycled"'):
        assert name not in page.read_text("utf-8")
    assert "the joint model is of earlier data and not shown" in said
    assert "the hypotheses were asked of earlier data and are not shown" in said
    assert "the stage recycle is of earlier data and not shown" in said
    (tmp_path / "run" / "joint" / "manifest.json").unlink()  # as after an interruption
    assert main([*argv, "--stages", "report", "--split.missing", "{low: 0.3}"]) == 0
    said = capsys.readouterr().out
    assert "the last run of the stage joint did not finish; it is not shown; type --stages joint,report" in said
    assert "the joint model is of earlier data" not in said


def check_pictures(folder: Path) -> dict[str, dict[str, object] | None]:
    """Look at the pictures of missing scans; return what one of them and its spread say of their marks."""
    found = {}
    for path in sorted(folder.glob("repeat-1/imputed_*.png")):
        said = json.loads(path.with_suffix(".json").read_text())
        assert (said["origin"], said["levels"]) == ("imputed", 255)
        assert png_pixels(path.read_bytes()).shape == (64, 64, 3)
        found[said["statistic"]] = said["mark"]
    assert set(found) == {"mean", "standard deviation", "draw 1", "draw 2"}
    return found
