"""`split.missing` with a mechanism, from the command line."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from pipeline.cli.main import main

Split = Callable[..., int]


@pytest.fixture
def split(picture_cohort: Callable[..., Path], tmp_path: Path) -> Split:
    """Splits 40 subjects with two modalities, ages and sites, and returns the exit code."""
    config = picture_cohort(tmp_path / "data", side=8, subjects=40, second=1.0)
    manifest = pd.read_csv(tmp_path / "data" / "cohort.csv")
    number = manifest["subject"].str[1:].astype(int)
    age = (60 + number % 20).astype(str).where(number != 3, "")
    manifest.assign(age=age, site=number % 2).to_csv(tmp_path / "data" / "cohort.csv", index=False)

    def run(*words: str, workspace: str = "run") -> int:
        place = ["--config", str(config), "--workspace", str(tmp_path / workspace), "--quiet", "--stages", "split"]
        return main([*place, *words])

    return run


def lost(workspace: Path) -> set[str]:
    table = pd.read_csv(workspace / "split" / "availability.csv")
    return set(table.loc[~table["available"], "subject"])


def test_the_covariate_decides_who_loses_the_scan(split: Split, tmp_path: Path) -> None:
    words = ["--split.missing.high.share", "0.5", "--split.missing.high.mechanism", "covariate"]
    words += ["--split.missing.high.of", "age", "--split.missing.high.slope", "20"]
    assert split(*words) == 0
    old = {f"p{n:02d}" for n in range(40) if n % 20 >= 10}
    assert len(lost(tmp_path / "run") & old) >= 19
    notes = json.loads((tmp_path / "run" / "split" / "manifest.json").read_text())["notes"]
    assert "split.missing.high: mechanism covariate of age: unknown of 1 subjects" in notes[0]


def test_a_plain_share_hides_whom_it_always_hid(split: Split, tmp_path: Path) -> None:
    """The first ten of 40 by the hash that was taken before there were mechanisms."""
    names = sorted((f"p{n:02d}" for n in range(40)), key=lambda n: hashlib.sha256(f"0\0high\0{n}".encode()).digest())
    assert split("--split.missing", "{high: 0.25}") == 0
    assert split("--split.missing", "{high: {share: 0.25}}", workspace="other") == 0
    made_from = [json.loads((tmp_path / w / "split" / "manifest.json").read_text())["key"] for w in ("run", "other")]
    assert made_from[0] == made_from[1]
    assert lost(tmp_path / "run") == lost(tmp_path / "other") == set(names[:10])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{high: {share: 0.5, mechanism: itself}}", "what a scan shows is not known when patients are split"),
        ("{high: {share: 0.5, mechanism: covariate, of: agee}}", "is no covariate of this cohort (did you mean 'age'"),
        ("{high: {share: 0.5, mechanism: covariate, of: site}}", "mechanism covariate of site: it is no number"),
        ("{high: {share: 0.5, mechanism: class, value: nobody}}", "split.missing.high: mechanism class: nobody with"),
        ("{high: {share: 0.5, mechanism: class, slop: 1}}", "there is no setting split.missing.high.slop"),
    ],
)
def test_what_cannot_be_is_named(split: Split, value: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert split("--split.missing", value) == 2
    assert words in capsys.readouterr().err
