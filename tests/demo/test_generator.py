"""A demo cohort is one file; it is written whole, gone on with, and made again when its options change."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import BaseModel, Field

import demo
from console.errors import InputError
from demo.__main__ import main
from demo.generator import Generator, unseen
from files.writing import PlantedLinkError
from pipeline.cli.main import main as run
from pipeline.core.provenance import REPOSITORY
from preprocessing.encoding import png_bytes

EXAMPLE = re.search(
    r"<!-- stripes.py -->\n```python\n(.*?)```", (REPOSITORY / "docs" / "extend.md").read_text("utf-8"), re.DOTALL
)


class SquaresConfig(BaseModel, frozen=True, extra="forbid"):
    """Grey squares."""

    subjects: int = Field(6, ge=1, description="number of subjects")
    brightness: int = 10


def _manifest(config: SquaresConfig) -> pd.DataFrame:
    names = [f"s{number}" for number in range(config.subjects)]
    return pd.DataFrame({"subject": names, "modality": "m", "path": [f"{name}/square.png" for name in names]})


class Squares:
    """Counts the squares that it makes, and breaks at one of them."""

    def __init__(self, breaks_at: str = "") -> None:
        self.breaks_at, self.made = breaks_at, list[str]()
        self.generator = Generator(SquaresConfig, _manifest, self.files, truth=_manifest)

    def files(self, row: Mapping[str, Any], config: SquaresConfig) -> dict[str, bytes]:
        if row["subject"] == self.breaks_at:
            raise OSError("no such luck")
        self.made.append(row["subject"])
        picture = np.full((8, 8), config.brightness + int(row["subject"][1:]), np.uint8)
        return {row["path"]: png_bytes(picture), f"{row['subject']}/mask.png": png_bytes(picture // 2)}


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- files ---


def test_what_was_broken_off_is_gone_on_with(tmp_path: Path) -> None:
    broken, whole = Squares(breaks_at="s3"), Squares()
    with pytest.raises(OSError, match="no such luck"):
        broken.generator.write(tmp_path / "a", SquaresConfig())
    assert broken.made
    assert not (tmp_path / "a" / "manifest.csv").exists()
    (tmp_path / "a" / broken.made[0] / "square.png").unlink()  # as if it had not come further than to the mask
    whole.generator.write(tmp_path / "a", SquaresConfig())
    assert sorted(whole.made) == sorted({f"s{n}" for n in range(6)} - set(broken.made[1:]))
    whole.generator.write(tmp_path / "b", SquaresConfig())
    assert _contents(tmp_path / "a") == _contents(tmp_path / "b")
    assert len(_contents(tmp_path / "a")) == 2 * 6 + 3


def test_other_options_make_all_anew(tmp_path: Path) -> None:
    squares = Squares()
    squares.generator.write(tmp_path, SquaresConfig())
    squares.generator.write(tmp_path, SquaresConfig())
    assert len(squares.made) == 6
    broken = Squares(breaks_at="s0")
    with pytest.raises(OSError, match="no such luck"):
        broken.generator.write(tmp_path, SquaresConfig(brightness=20))
    assert not (tmp_path / "manifest.csv").exists()
    assert not (tmp_path / "s0" / "square.png").exists()
    squares.generator.write(tmp_path, SquaresConfig(brightness=20))
    fresh = tmp_path.with_name("fresh")
    Squares().generator.write(fresh, SquaresConfig(brightness=20))
    assert _contents(tmp_path) == _contents(fresh)
    (tmp_path / "made_from.json").write_text("{")
    squares.made.clear()
    squares.generator.write(tmp_path, SquaresConfig(brightness=20))
    assert len(squares.made) == 6
    assert _contents(tmp_path) == _contents(fresh)


def test_nobody_elses_files_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("mine")
    with pytest.raises(InputError, match="holds something that is no demo cohort"):
        Squares().generator.write(tmp_path, SquaresConfig())
    assert _contents(tmp_path) == {"manifest.csv": b"mine"}
    Squares().generator.write(tmp_path / "cohort", SquaresConfig())
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "square.png").write_text("mine")
    for file in (tmp_path / "cohort" / "s0").iterdir():
        file.unlink()
    (tmp_path / "cohort" / "s0").rmdir()
    (tmp_path / "cohort" / "s0").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PlantedLinkError):
        Squares().generator.write(tmp_path / "cohort", SquaresConfig(brightness=20))
    assert (tmp_path / "elsewhere" / "square.png").read_text() == "mine"


def test_what_is_done_is_counted(tmp_path: Path) -> None:
    seen: list[tuple[int, str]] = []

    def progress(total: int, unit: str) -> Any:
        seen.append((total, unit))
        return unseen(total, unit)

    Squares().generator.write(tmp_path, SquaresConfig(), progress)
    Squares().generator.write(tmp_path, SquaresConfig(), progress)
    assert seen == [(6, "scan"), (0, "scan")]


@pytest.mark.parametrize("name", demo.generator_names())
def test_what_a_generator_lists_is_what_it_makes(name: str, tmp_path: Path) -> None:
    generator = demo.load_generator(name)
    small = {"phantoms": {"mri_voxel_mm": 6, "pet_voxel_mm": 6}, "biopsies": {"picture_px": 64, "fewest": 1, "most": 1}}
    config = generator.config(subjects=2, **small[name])
    manifest = generator.write(tmp_path, config)
    table = pd.read_csv(manifest)
    assert table["path"].is_unique
    assert all((tmp_path / path).is_file() for path in table["path"])
    assert set(table["subject"]) == set(pd.read_csv(tmp_path / "truth.csv")["subject"])
    assert not {"mri_sign", "pet_sign", "crowding", "picture"} & set(table.columns)


# --- one file ---


@pytest.fixture
def stripes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example of docs/extend.md as a file of the package demo; the config of a run that names it."""
    assert EXAMPLE is not None
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "stripes.py").write_text(EXAMPLE[1], "utf-8")
    (tmp_path / "code" / "_helper.py").write_text("")
    monkeypatch.setattr(demo, "__path__", [*demo.__path__, str(tmp_path / "code")])
    config = tmp_path / "stripes.yaml"
    config.write_text(
        "name: stripes\ndemo: {subjects: 12}\ncohort: {manifest: stripes, modalities: {stripes: {kind: image}}}\n"
    )
    return config


def test_a_new_demo_cohort_is_one_file(stripes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--config", str(stripes), "--workspace", str(tmp_path / "run"), "--stages", "cohort", "--quiet"]
    assert run(argv) == 0
    scans = pd.read_csv(tmp_path / "run" / "cohort" / "scans.csv")
    assert scans["label"].value_counts().to_dict() == {"well": 6, "ill": 6}
    assert all(Path(path).parent == tmp_path / "run" / "demo" for path in scans["path"])
    assert sorted(p.name for p in (tmp_path / "run" / "cohort").iterdir()) == [
        "classes.json", "files.json", "left_out.json", "manifest.json", "scans.csv"
    ]  # fmt: skip
    capsys.readouterr()
    assert run([*argv, "--dry-run"]) == 0
    assert "up to date" in capsys.readouterr().out
    assert run([*argv, "--demo.subjects", "14", "--dry-run"]) == 0
    assert "demo.subjects changed from 12 to 14" in capsys.readouterr().out
    assert run([*argv, "--demo.subjects", "14"]) == 0
    assert len(pd.read_csv(tmp_path / "run" / "cohort" / "scans.csv")) == 14
    (tmp_path / "run" / "demo" / "s03.png").unlink()
    assert run([*argv, "--demo.subjects", "14"]) == 0
    assert (tmp_path / "run" / "demo" / "s03.png").exists()
    capsys.readouterr()
    assert run([*argv, "--demo.subject", "14"]) == 2
    assert "there is no setting demo.subject; did you mean demo.subjects?" in capsys.readouterr().err
    assert run(["--help-settings"]) == 0
    assert "demo, where cohort.manifest is stripes: Striped pictures" in capsys.readouterr().out


def test_the_command_makes_the_same_files(stripes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--config", str(stripes), "--workspace", str(tmp_path / "run"), "--stages", "cohort", "--quiet"]
    assert run(argv) == 0
    capsys.readouterr()
    assert main(["stripes", str(tmp_path / "out"), "--subjects", "12"]) == 0
    assert "12 scans → " in capsys.readouterr().out
    assert _contents(tmp_path / "out") == _contents(tmp_path / "run" / "demo")
    assert (tmp_path / "out" / "s00.png").stat().st_mode & 0o077 == 0
    assert main(["stripes", str(tmp_path / "shared"), "--subjects", "6", "--group-readable"]) == 0
    assert (tmp_path / "shared" / "s00.png").stat().st_mode & 0o077 == 0o040


# --- the command ---


def test_the_command_lists_what_there_is(stripes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == ["biopsies", "phantoms", "stripes"]
    with pytest.raises(SystemExit) as end:
        main(["phantoms", "--help"])
    assert end.value.code == 0
    assert "--mri-voxel-mm VALUE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["fantoms", "OUT"], "there is no demo cohort 'fantoms' (did you mean 'phantoms'?)"),
        (["phantoms"], "the following arguments are required: OUT"),
        (["phantoms", "OUT", "--subject", "9"], "unrecognized arguments: --subject 9"),
        (["phantoms", "OUT", "--subjects", "1"], "--subjects: Input should be greater than or equal to 2"),
        (["phantoms", "OUT", "--mri-voxel-mm", "x"], "--mri-voxel-mm: Input should be a valid number"),
        (["biopsies", "OUT", "--fewest", "9", "--most", "8"], "error: fewest is 9 and most is 8"),
    ],
)
def test_mistakes_are_a_sentence(
    argv: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
