"""Cells of a manifest are names and never places: whatever they hold, nothing outside of the workspace is touched."""

import random
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from pipeline.cli.main import main

COLUMNS = ("subject", "session", "modality", "site", "path", "class")
WORDS = (
    "..",
    "/",
    "A\r{victim}",
    "A\r\n{victim}",
    "\x1b]0;x\x07",
    "../{victim}",
    "{victim}",
    "A\x0b",
    "‮",
    "\x85",
    " ",
    "'",
)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def write_manifest(path: Path, rows: list[dict[str, str]]) -> None:
    import csv

    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def cohort(picture_cohort: Callable[..., Path], tmp_path: Path) -> Callable[[list[tuple[int, str, str]]], list[str]]:
    """Puts cells into a manifest; returns the words that run it without networks."""
    config = picture_cohort(tmp_path / "data")
    rows = pd.read_csv(tmp_path / "data" / "cohort.csv", dtype=str).to_dict("records")
    rows = [{"session": "", "site": "", **row} for row in rows]

    def put(cells: list[tuple[int, str, str]]) -> list[str]:
        changed = [dict(row) for row in rows]
        for row, column, value in cells:
            changed[row % len(rows)][column] = value
        write_manifest(tmp_path / "data" / "cohort.csv", changed)
        words = ["--config", str(config), "--workspace", str(tmp_path / "run"), "--quiet", "--stages", "preprocess"]
        return [*words, "--cohort.data_root", str(tmp_path / "data")]

    return put


@pytest.mark.parametrize("column", ["subject", "session", "site"])
def test_a_carriage_return_in_a_cell_deletes_nothing(
    cohort: Callable[..., list[str]], tmp_path: Path, column: str, capsys: pytest.CaptureFixture[str]
) -> None:
    victim = tmp_path / "other"
    victim.mkdir()
    (victim / "precious").write_text("x")
    assert main(cohort([(3, column, f"A\r{victim}")])) == 2
    assert f"row 5: {column} holds a line break or another control character ('A\\r" in capsys.readouterr().err
    assert tree(victim) == {"precious": b"x"}


@pytest.mark.parametrize("seed", range(12))
def test_random_cells_touch_nothing_outside(
    cohort: Callable[..., list[str]], tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    dice = random.Random(seed)
    victim = tmp_path / "other"
    victim.mkdir()
    (victim / "precious").write_text("x")
    cells = []
    for _ in range(dice.randint(1, 3)):
        value = "".join(dice.choice(WORDS) for _ in range(dice.randint(1, 2))).format(victim=victim)
        cells.append((dice.randrange(40), dice.choice(COLUMNS), dice.choice(["", "p"]) + value))
    words = cohort(cells)
    before = tree(tmp_path / "data")
    assert main(words) in (0, 2, 3)
    assert "Traceback" not in capsys.readouterr().err
    assert tree(victim) == {"precious": b"x"}
    assert tree(tmp_path / "data") == before


def test_a_worklist_goes_on_without_the_row(cohort: Callable[..., list[str]], tmp_path: Path) -> None:
    """Where nothing is learnt, a row with such a cell is left out with its reason, and the others are done."""
    words = cohort([(3, "subject", f"A\r{tmp_path}")])
    assert main([*words, "--cohort.label", "null", "--cohort.positive", "null"]) == 3
    failures = pd.read_csv(tmp_path / "run" / "failures.csv")
    assert list(failures["scan"]) == ["row 5"]
    assert "control character" in failures["reason"][0]


def test_a_night_goes_on_without_a_row_that_cannot_be_read(cohort: Callable[..., list[str]], tmp_path: Path) -> None:
    words = cohort([])
    manifest = tmp_path / "data" / "cohort.csv"
    lines = manifest.read_text("utf-8").splitlines()
    lines[2] = lines[2].removesuffix('"')
    lines[4] += ',"one",more'
    manifest.write_text("\n".join(lines), "utf-8")
    assert main([*words, "--cohort.label", "null", "--cohort.positive", "null"]) == 3
    failures = pd.read_csv(tmp_path / "run" / "failures.csv")
    assert list(failures["scan"]) == ["row 3", "row 5"]
    assert "quotation marks do not match" in failures["reason"][0]
    assert "has 8 cells under 6 columns" in failures["reason"][1]


def test_what_a_word_or_a_comma_stands_for_is_said(
    cohort: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = cohort([(0, "site", "NA"), (1, "site", "n/a")])
    assert main([*words, "--stages", "cohort"]) == 0
    assert "site: 2 cells stand for no value ('NA', 'n/a') and count as empty" in capsys.readouterr().out
    assert main([*cohort([(0, "subject", "P00")]), "--stages", "cohort"]) == 2
    assert "subjects 'P00' (row 2) and 'p00' (row 3) differ only in case or spaces" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a/b", "..", ".x", "a\\\\b", "a\\rb", "", "x" * 61])
def test_modalities_whose_names_are_places_are_refused(
    cohort: Callable[..., list[str]], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    modalities = f'{{low: {{kind: image}}, high: {{kind: image}}, "{name}": {{kind: image}}}}'
    assert main([*cohort([]), "--cohort.modalities", modalities]) == 2
    assert "cannot be the name of a modality" in capsys.readouterr().err
