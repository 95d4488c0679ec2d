"""Notes on scans in hand, and files that move to their place as a whole."""

from pathlib import Path

import pytest

from pipeline.store.claims import Desk, InHand
from pipeline.store.scan_set import ScanSet
from pipeline.store.volumes import VolumeSet


@pytest.fixture
def hand(tmp_path: Path) -> InHand:
    hand = InHand(tmp_path, "this run")
    hand.open()
    return hand


def test_beginnings_are_counted_until_the_end(hand: InHand) -> None:
    assert hand.begun("a") == {}
    for times in (1, 2, 3):
        hand.begin("a", f"worker {times}")
        assert hand.begun("a")["times"] == times
    assert hand.begun("b") == {}
    hand.end("a")
    assert hand.begun("a") == {}
    hand.end("a")  # twice does no harm


def test_only_the_last_who_began_holds_the_scan(hand: InHand) -> None:
    hand.begin("a", "first")
    assert hand.holds("a", "first")
    hand.begin("a", "second")
    assert not hand.holds("a", "first")
    assert hand.holds("a", "second")
    hand.forget_all()
    assert not hand.holds("a", "second")
    assert hand.runs_here() == "this run"


def test_another_run_takes_over_and_blames_nobody(hand: InHand, tmp_path: Path) -> None:
    hand.begin("a", "first")
    other = InHand(tmp_path, "another run")
    assert other.begun("a") == {}
    other.open()
    assert not hand.holds("a", "first")
    assert other.runs_here() == "another run"
    other.close()
    assert other.runs_here() is None
    assert list(tmp_path.iterdir()) == []


def test_a_scan_called_like_the_note_of_the_run(hand: InHand) -> None:
    hand.begin("run", "worker")
    assert hand.runs_here() == "this run"
    assert hand.holds("run", "worker")


def test_files_appear_when_they_are_complete_and_replace_what_was_there(tmp_path: Path) -> None:
    out = VolumeSet(tmp_path / "preprocess")
    (out.begin("a") / "left.png").write_bytes(b"of another setting")
    out.finish("a", "old", {})
    (out.begin("b") / "mine.png").write_bytes(b"b")
    out.finish("b", "kept", {})
    desk = Desk(out, "worker")
    desk.clear("a")
    assert isinstance(desk.staged, VolumeSet)
    desk.staged.save_picture("a", b"new")
    desk.staged.finish("a", "new", {})
    assert out.has("a", "old")
    assert desk.staged.has("b", "kept")  # what is not in hand is read where it belongs
    desk.hand_in("a")
    assert out.has("a", "new")
    assert sorted(path.name for path in out.place("a").iterdir()) == ["picture.png", "record.json"]
    assert not desk.staged.place("a").exists()


def test_the_desk_is_empty_for_every_scan(tmp_path: Path) -> None:
    out = ScanSet(tmp_path)
    desk = Desk(out, "worker")
    desk.clear("a")
    (desk.staged.begin("a") / "half.png").write_bytes(b"half")
    desk.clear("a")
    assert not desk.staged.place("a").exists()
