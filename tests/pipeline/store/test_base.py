"""Records know whether they are whole, and ids of scans cannot lead out of an artifact's folder."""

import json
import math
from pathlib import Path

import pytest

from files.writing import PlantedLinkError
from pipeline.store.base import Artifact, ArtifactError, read_json, read_record, safe_id, write_record
from pipeline.store.scan_set import ScanSet
from pipeline.store.tables import CohortTables

UNSAFE = ("", ".", "..", "../x", "a/b", "/srv/other", "a\\b", "a\rb", "a\n", "a b", "-x", "x" * 201, "é", "a\0b", "x.y")


def test_a_record_comes_back_whatever_it_holds(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None], "a": {"é": "x", "1": math.nan}, "path": Path("p")}
    write_record(tmp_path / "r.json", value)
    assert read_record(tmp_path / "r.json") == {"b": [1, 2.5, None], "a": {"é": "x", "1": None}, "path": "p"}


@pytest.mark.parametrize("change", ["cut", "value", "added", "list", "deep", "empty", "binary"])
def test_a_changed_record_counts_as_none(tmp_path: Path, change: str) -> None:
    path = tmp_path / "r.json"
    write_record(path, {"key": "k", "content": "c0"})
    text = path.read_text()
    path.write_bytes(
        {
            "cut": text[: len(text) // 2].encode(),
            "value": text.replace("c0", "c1").encode(),
            "added": json.dumps({**json.loads(text), "more": 1}).encode(),
            "list": b"[1, 2]",
            "deep": b"[" * 100_000,
            "empty": b"",
            "binary": b"\xff\xfe\x00",
        }[change]
    )
    assert read_record(path) is None


def test_json_of_another_kind_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "f.json").write_text("[1]")
    assert read_json(tmp_path / "f.json") is None
    assert read_json(tmp_path / "f.json", list) == [1]
    assert read_json(tmp_path) is None


@pytest.mark.parametrize("name", UNSAFE)
def test_an_id_that_is_not_its_own_safe_form_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "x").mkdir()
    scans = ScanSet(tmp_path / "stage")
    for act in (safe_id, scans.folder_of, scans.begin, scans.remove, scans.record, scans.check, scans.invalidate):
        with pytest.raises(ArtifactError, match="is no id of a scan"):
            act(name)
    assert (tmp_path / "x").is_dir()


def test_a_scan_that_is_a_link_is_not_deleted_through(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "record.json").write_text("x")
    scans = ScanSet(tmp_path / "stage")
    scans.folder.mkdir()
    (scans.folder / "s1").symlink_to(tmp_path / "precious")
    for act in (scans.begin, scans.remove):
        with pytest.raises(PlantedLinkError):
            act("s1")
    scans.invalidate_all()
    assert (tmp_path / "precious" / "record.json").read_text() == "x"


def test_forgetting_does_not_go_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "precious" / "s").mkdir(parents=True)
    (tmp_path / "precious" / "s" / "record.json").write_text("x")
    (tmp_path / "stage").symlink_to(tmp_path / "precious")
    with pytest.raises(PlantedLinkError):
        Artifact(tmp_path / "stage").invalidate_all()
    assert (tmp_path / "precious" / "s" / "record.json").exists()


@pytest.mark.parametrize("name", ["/srv/other", "..", "a\rb"])
def test_a_table_from_elsewhere_cannot_name_a_folder(tmp_path: Path, name: str) -> None:
    import pandas as pd

    cells = dict.fromkeys(CohortTables.COLUMNS, "x")
    tables = CohortTables(tmp_path)
    tables.save(pd.DataFrame([{**cells, "scan": "a"}, {**cells, "scan": name}]), ("x",))
    with pytest.raises(ArtifactError, match="is no id of a scan"):
        tables.scans()
    tables.save(pd.DataFrame([{**cells, "scan": "a"}, {**cells, "scan": "A"}]), ("x",))
    with pytest.raises(ArtifactError, match="names a scan twice"):
        tables.scans()
