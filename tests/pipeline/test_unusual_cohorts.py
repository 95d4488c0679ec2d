"""Cohorts that are not two classes, one session and a full split."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.cli.main import main

pytestmark = pytest.mark.usefixtures("thin_backbone")


def words_of(config: Path, workspace: Path) -> list[str]:
    return ["--config", str(config), "--workspace", str(workspace), "--quiet"]


def test_three_classes_several_sessions_several_scans_of_a_modality(
    picture_cohort: Callable[..., Path], tmp_path: Path
) -> None:
    config = picture_cohort(tmp_path / "data", subjects=18)
    manifest = pd.read_csv(tmp_path / "data" / "cohort.csv")
    number = manifest["subject"].str[1:].astype(int)
    manifest["class"] = [("none", "mild", "severe")[n % 3] for n in number]
    for path, n in zip(manifest["path"], number, strict=True):
        pixels = np.random.default_rng(n).integers(0, 60, (48, 48, 3)) + np.array([80 * (n % 3), 0, 0])
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "data" / path)
    manifest["session"] = "first"
    extra = manifest[manifest["modality"] == "low"].iloc[:6].assign(session="second")
    again = manifest[manifest["modality"] == "low"].iloc[:3].copy()
    for index, frame in enumerate((extra, again)):
        names = [f"{index}_{name}" for name in frame["path"]]
        for old, new in zip(frame["path"], names, strict=True):
            content = (tmp_path / "data" / old).read_bytes()
            (tmp_path / "data" / new).write_bytes(content + b"\0" * (index + 1))
        frame["path"] = names
    pd.concat([manifest, extra, again]).to_csv(tmp_path / "data" / "cohort.csv", index=False)
    words = [*words_of(config, tmp_path / "run"), "--cohort.positive", "null", "--features.keep_slices", "true"]
    assert main(words) == 2  # none, unless it is said to be a class
    words += ["--cohort.not_missing", "[none]"]
    assert main(words) == 0
    assert json.loads((tmp_path / "run" / "cohort" / "classes.json").read_text()) == ["mild", "none", "severe"]
    predictions = pd.read_csv(tmp_path / "run" / "classify" / "predictions.csv")
    columns = [c for c in predictions if c.startswith("probability_")]
    assert columns == ["probability_mild", "probability_none", "probability_severe"]
    np.testing.assert_allclose(predictions[columns].sum(axis=1), 1, atol=1e-6)
    splits = pd.read_csv(tmp_path / "run" / "split" / "splits.csv")
    assert not splits.duplicated(["repeat", "subject"]).any()
    part = splits.set_index(["repeat", "subject"])["split"]
    assert all(part[r, s] == "test" for r, s in zip(predictions["repeat"], predictions["subject"], strict=True))
    metrics = json.loads((tmp_path / "run" / "classify" / "metrics.json").read_text())
    assert "threshold_validation" not in metrics
    assert metrics["threshold_half"]["auc"]["mean"] > 0.7


def test_a_validation_split_with_one_class_is_handled_and_noted(
    picture_cohort: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = picture_cohort(tmp_path / "data", subjects=16)
    manifest = pd.read_csv(tmp_path / "data" / "cohort.csv")
    parts = {f"p{n:02d}": "train" if n < 10 else "test" for n in range(16)} | {"p08": "validation", "p06": "validation"}
    manifest["split"] = manifest["subject"].map(parts)
    manifest.to_csv(tmp_path / "data" / "cohort.csv", index=False)
    assert main(words_of(config, tmp_path / "run")) == 0
    shown = capsys.readouterr().out
    assert "the validation split has one class only" in shown
    assert "threshold stays at 0.5" in shown
    metrics = json.loads((tmp_path / "run" / "classify" / "metrics.json").read_text())
    assert set(metrics["thresholds"].values()) == {0.5}


def test_hidden_scans_take_no_part(picture_cohort: Callable[..., Path], tmp_path: Path) -> None:
    config = picture_cohort(tmp_path / "data", subjects=16, second=1.0)
    words = [*words_of(config, tmp_path / "run"), "--split.missing", "{high: 0.5}"]
    assert main(words) == 0
    table = pd.read_csv(tmp_path / "run" / "split" / "availability.csv")
    hidden = set(table.loc[~table["available"], "scan"])
    assert len(hidden) == 8
    predictions = pd.read_csv(tmp_path / "run" / "classify" / "predictions.csv")
    used = {scan for scans in predictions["scans_used"] for scan in scans.split(";")}
    assert not used & hidden


@pytest.mark.slow
def test_the_report_shows_in_a_browser(picture_cohort: Callable[..., Path], tmp_path: Path) -> None:
    """A screenshot of the page in headless Chromium, where there is one, is a page and not a blank."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium here")
    config = picture_cohort(tmp_path / "data", subjects=12)
    assert main(words_of(config, tmp_path / "run")) == 0
    page, picture = tmp_path / "run" / "report" / "report.html", tmp_path / "shot.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [chromium, *flags, "--window-size=1100,1600", f"--screenshot={picture}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    pixels = np.asarray(Image.open(picture).convert("L"))
    assert pixels.shape == (1600, 1100)
    assert (pixels < 100).mean() > 0.005  # ink
    assert pixels.std() > 10


def test_names_that_look_like_missing_values_and_no_validation_scan(
    picture_cohort: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A class called None, a subject called NA; and every validation scan is broken."""
    config = picture_cohort(tmp_path / "data", subjects=12)
    manifest = pd.read_csv(tmp_path / "data" / "cohort.csv")
    manifest["class"] = manifest["class"].replace({"well": "None", "sick": "1"})
    parts = {f"p{n:02d}": "train" if n < 6 else "validation" if n < 8 else "test" for n in range(12)}
    manifest["split"] = manifest["subject"].map(parts)
    for path in manifest.loc[manifest["split"] == "validation", "path"]:
        (tmp_path / "data" / path).write_bytes(path.encode())
    manifest["subject"] = manifest["subject"].replace({"p11": "NA"})
    manifest.to_csv(tmp_path / "data" / "cohort.csv", index=False)
    assert (
        main([*words_of(config, tmp_path / "run"), "--cohort.positive", "1", "--cohort.not_missing", "[None, NA]"]) == 3
    )
    shown = capsys.readouterr().out
    assert "no validation" in shown
    predictions = pd.read_csv(tmp_path / "run" / "classify" / "predictions.csv", keep_default_na=False)
    assert "NA" in set(predictions["subject"])
    assert set(predictions["truth"]) == {"None", "1"}


def test_what_was_deleted_is_made_again(picture_cohort: Callable[..., Path], tmp_path: Path) -> None:
    config = picture_cohort(tmp_path / "data", subjects=12)
    assert main(words_of(config, tmp_path / "run")) == 0
    gone = [
        tmp_path / "run" / name for name in ("report/report.html", "classify/metrics.json", "split/availability.csv")
    ]
    for path in gone:
        path.unlink()
    stale = tmp_path / "run" / "pretrain" / "repeat-9"
    stale.mkdir()
    assert main(words_of(config, tmp_path / "run")) == 0
    assert all(path.exists() for path in gone)


def test_a_workspace_that_cannot_be_written_to_is_said(
    picture_cohort: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = picture_cohort(tmp_path / "data", subjects=12)
    (tmp_path / "file").write_text("in the way")
    assert main(words_of(config, tmp_path / "file" / "run")) == 2
    assert "cannot write to the workspace" in capsys.readouterr().err


def test_a_scan_copied_to_another_subject_is_found(
    picture_cohort: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = picture_cohort(tmp_path / "data", subjects=12)
    manifest = pd.read_csv(tmp_path / "data" / "cohort.csv")
    for victim, code in (("p02", 0), ("p01", 2)):
        shutil.copy(tmp_path / "data" / "p00_low.png", tmp_path / "data" / f"{victim}_copy.png")
        label = manifest.loc[manifest["subject"] == victim, "class"].iloc[0]
        row = {"subject": victim, "modality": "low", "path": f"{victim}_copy.png", "class": label}
        pd.concat([manifest, pd.DataFrame([row])]).to_csv(tmp_path / "data" / "cohort.csv", index=False)
        assert main([*words_of(config, tmp_path / "run"), "--stages", "cohort"]) == code
        output = capsys.readouterr()
        assert "p00_low" in output.out + output.err
        assert "same content" in output.out + output.err


def test_a_refused_run_leaves_what_was_finished(
    picture_cohort: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = picture_cohort(tmp_path / "data", subjects=12)
    words = words_of(config, tmp_path / "run")
    assert main(words) == 0
    settings = (tmp_path / "run" / "settings.yaml").read_text()
    for wrong in (
        ["--split.seed", "9"],
        ["--cohort", str(tmp_path / "no.csv")],
        ["--device", "cuda:9", "--force", "split"],
    ):
        assert main([*words, *wrong]) == 2
        assert (tmp_path / "run" / "settings.yaml").read_text() == settings
        capsys.readouterr()
        assert main([*words, "--dry-run"]) == 0
        assert capsys.readouterr().out.count("up to date") == 8, wrong
