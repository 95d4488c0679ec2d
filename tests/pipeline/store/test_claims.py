"""Claims of workers on scans, and files that move to the artifact as a whole."""

from pathlib import Path

import pytest

from pipeline.store.claims import ScanClaims, StagingArea
from pipeline.store.scan_set import ScanSet
from pipeline.store.volumes import VolumeSet


@pytest.fixture
def claims(tmp_path: Path) -> ScanClaims:
    claims = ScanClaims(tmp_path, "this run")
    claims.open()
    return claims


def test_claims_are_counted_until_the_scan_is_finished(claims: ScanClaims) -> None:
    assert claims.claim_of("a") == {}
    for times in (1, 2, 3):
        claims.claim("a", f"worker {times}")
        assert claims.claim_of("a")["times"] == times
    assert claims.claim_of("b") == {}
    claims.release("a")
    assert claims.claim_of("a") == {}
    claims.release("a")  # twice does no harm


def test_only_the_last_claim_holds(claims: ScanClaims) -> None:
    claims.claim("a", "first")
    assert claims.holds("a", "first")
    claims.claim("a", "second")
    assert not claims.holds("a", "first")
    assert claims.holds("a", "second")
    claims.release_all()
    assert not claims.holds("a", "second")
    assert claims.dispatching_run() == "this run"


def test_another_run_takes_over_and_blames_nobody(claims: ScanClaims, tmp_path: Path) -> None:
    claims.claim("a", "first")
    other = ScanClaims(tmp_path, "another run")
    assert other.claim_of("a") == {}
    other.open()
    assert not claims.holds("a", "first")
    assert other.dispatching_run() == "another run"
    other.close()
    assert other.dispatching_run() is None
    assert list(tmp_path.iterdir()) == []


def test_a_scan_called_like_the_file_of_the_run(claims: ScanClaims) -> None:
    claims.claim("run", "worker")
    assert claims.dispatching_run() == "this run"
    assert claims.holds("run", "worker")


def test_files_appear_when_they_are_complete_and_replace_what_was_there(tmp_path: Path) -> None:
    out = VolumeSet(tmp_path / "preprocess")
    (out.begin("a") / "left.png").write_bytes(b"of another setting")
    out.finish("a", "old", {})
    (out.begin("b") / "b.png").write_bytes(b"b")
    out.finish("b", "kept", {})
    staging = StagingArea(out, "worker")
    staging.reset("a")
    assert isinstance(staging.staged, VolumeSet)
    staging.staged.save_picture("a", b"new")
    staging.staged.finish("a", "new", {})
    assert out.has("a", "old")
    assert staging.staged.has("b", "kept")  # other scans are read where they belong
    staging.commit("a")
    assert out.has("a", "new")
    assert sorted(path.name for path in out.folder_of("a").iterdir()) == ["picture.png", "record.json"]
    assert not staging.staged.folder_of("a").exists()


def test_the_staging_area_is_empty_for_every_scan(tmp_path: Path) -> None:
    out = ScanSet(tmp_path)
    staging = StagingArea(out, "worker")
    staging.reset("a")
    (staging.staged.begin("a") / "half.png").write_bytes(b"half")
    staging.reset("a")
    assert not staging.staged.folder_of("a").exists()
