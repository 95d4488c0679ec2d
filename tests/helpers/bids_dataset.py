"""BIDS data sets of empty files made here, and what the intake makes of them."""

from pathlib import Path
from typing import Any

from intake.bids.read import read_bids

TABLE = "participant_id\tage\tsex\tdiagnosis\nsub-01\t71\tF\tAD\nsub-02\t68\tM\tCN\n"


def dataset(root: Path, *paths: str, participants: str | None = TABLE) -> Path:
    """Empty files under their names."""
    root.mkdir(exist_ok=True)
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)
    if participants is not None:
        (root / "participants.tsv").write_text(participants, "utf-8")
    return root


def paths(root: Path, **arguments: Any) -> list[str]:
    return list(read_bids(root, **arguments).scans["path"])


def left_out(root: Path, **arguments: Any) -> dict[str, str]:
    table = read_bids(root, **arguments).left_out
    return dict(zip(table["path"].where(table["path"] != "", table["subject"]), table["reason"], strict=True))
