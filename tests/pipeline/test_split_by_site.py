"""`split.by` from the command line: what is frozen, what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from pipeline.cli.main import main


@pytest.fixture
def study(picture_cohort: Callable[..., Path], tmp_path: Path) -> Callable[..., int]:
    """Splits the cohort, with these sites of its subjects, and returns the exit code."""
    config = picture_cohort(tmp_path / "data", side=8)
    manifest = pd.read_csv(tmp_path / "data" / "cohort.csv")
    number = manifest["subject"].str[1:].astype(int)
    letters = pd.Series(list("ABC"))

    def split(*words: str, sites: int = 3, moved: str = "", **columns: object) -> int:
        site = letters[number // 2 % sites].to_numpy()
        table = manifest.assign(site=site, **columns)
        table.loc[table["subject"] == moved, "site"] = "C"
        table.to_csv(tmp_path / "data" / "cohort.csv", index=False)
        place = ["--config", str(config), "--workspace", str(tmp_path / "run"), "--quiet", "--stages", "split"]
        return main([*place, *words])

    return split


BY_SITE = ("--split.by", "site", "--split.repeats", "5")


def test_each_site_is_tested_by_a_model_that_never_saw_it(study: Callable[..., int], tmp_path: Path) -> None:
    assert study(*BY_SITE) == 0
    splits = pd.read_csv(tmp_path / "run" / "split" / "splits.csv")
    sites = pd.read_csv(tmp_path / "data" / "cohort.csv").drop_duplicates("subject").set_index("subject")["site"]
    tested = splits.assign(site=splits["subject"].map(sites), tested=splits["split"] == "test")
    assert tested.groupby(["repeat", "site"])["tested"].nunique().eq(1).all()
    assert tested[tested["tested"]].groupby("repeat")["site"].unique().map(list).tolist() == [["A"], ["B"], ["C"]]
    notes = json.loads((tmp_path / "run" / "split" / "manifest.json").read_text())["notes"]
    assert "repeat 2 is tested on site B, which its model never saw" in notes
    before = splits.to_csv()
    assert study(*BY_SITE, "--force", "split") == 0
    assert pd.read_csv(tmp_path / "run" / "split" / "splits.csv").to_csv() == before


def test_another_way_to_split_needs_another_workspace(
    study: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study("--split.repeats", "5") == 0
    path = tmp_path / "run" / "split" / "frozen.json"
    assert json.loads(path.read_text())["made_with"]["by"] == "subject"
    assert study(*BY_SITE) == 2
    assert "split.by = subject (now site)" in capsys.readouterr().err
    assert study(*BY_SITE, "--new-splits") == 0


@pytest.mark.parametrize(
    ("words", "made", "message"),
    [
        (("--split.by", "scanner"), {}, "which is no covariate of this cohort (there is: site)"),
        (BY_SITE, {"sites": 1}, "all subjects have the same (A)"),
        ((*BY_SITE, "--split.new_subjects", "train"), {}, "could put a site on both sides"),
    ],
)
def test_what_cannot_be_done_is_refused(
    study: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    made: dict[str, int],
    message: str,
) -> None:
    assert study(*words, **made) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_patient_who_changes_the_site_is_refused(
    study: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert study(*BY_SITE) == 0
    assert study(*BY_SITE, moved="p00") == 2
    assert "have C both in training and in test" in " ".join(capsys.readouterr().err.split())


def test_a_patient_with_two_sites_in_one_session_is_refused(
    study: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study("--split.repeats", "2")
    manifest = pd.read_csv(tmp_path / "data" / "cohort.csv")
    last = manifest.index[manifest["subject"] == manifest["subject"].iloc[0]][-1]
    assert manifest.loc[last, "site"] == "A"
    manifest.loc[last, "site"] = "B"
    manifest.to_csv(tmp_path / "data" / "cohort.csv", index=False)
    place = ["--config", str(next((tmp_path / "data").glob("*.yaml"))), "--workspace", str(tmp_path / "other")]
    assert main([*place, "--quiet", "--stages", "cohort"]) == 0
    assert "site: the scans of one session have different values" in (
        (tmp_path / "other" / "cohort" / "manifest.json").read_text()
    )
    assert main([*place, "--quiet", "--stages", "split", *BY_SITE]) == 2
    assert "have more than one; each may have one" in capsys.readouterr().err


def test_hospitals_in_two_spellings_are_one(study: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    """A column that is no known code of a category: its numbers 1 and 1.0 would be two hospitals."""
    words = ("--cohort.covariates", "[hospital]", "--split.by", "hospital", "--split.repeats", "5")
    one, other = "1", "1.0"
    assert study(*words, hospital=lambda table: table["site"].map({"A": one, "B": other, "C": "2"})) == 2
    assert "are one in two spellings" in capsys.readouterr().err
