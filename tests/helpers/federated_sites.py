"""Workspaces of three sites after the stage features, one without PET, with the settings that made them."""

import dataclasses
from pathlib import Path

import pandas as pd
from helpers import toy_run

from models.federated_hypermm import Rounds
from pipeline.federation.rounds import Job, job_of_workspace
from pipeline.store.base import read_record, write_record
from pipeline.store.tables import SplitTables

SITES = ("east", "north", "west")
ROUNDS = Rounds(extractor=3, classifier=4, learning_rate=1e-2, classifier_learning_rate=1e-2, batch_size=8)
MADE = {
    "cohort": {"settings": {"modalities": {
        name: {"kind": "volume", "skull_strip": True, "normalise": "minmax"} for name in ("MRI", "PET")
    }}},
    "preprocess": {"version": 1, "settings": {"spacing_mm": 1.5}, "external": None},
    "features": {"version": 1, "settings": {"backbone": "vgg11"}, "external": "random"},
}  # fmt: skip


def patients(site: int, subjects: int = 60) -> pd.DataFrame:
    """MRI and PET; the second site has no PET."""
    table = toy_run.scans(subjects * (site + 1))
    number = table["subject"].str[1:].astype(int)
    kept = (number >= subjects * site) & (table["modality"] != "US") & ~((site == 1) & (table["modality"] == "PET"))
    return table[kept].assign(split="")


def fill(workspace: Path, table: pd.DataFrame) -> None:
    """Write a workspace with one repeat, and what its stages say they were made from."""
    toy_run.fill(workspace, table)
    split = SplitTables(workspace / "split")
    one = split.splits()
    split.save_splits(one[one["repeat"] == 1], {})
    toy_run.finish(split, **split.contents())
    for stage, made in MADE.items():
        path = workspace / stage / "manifest.json"
        write_record(path, {**(read_record(path) or {}), "made_from": made})


def make(folder: Path) -> dict[str, Path]:
    """Site → workspace."""
    for number, name in enumerate(SITES):
        fill(folder / name, patients(number))
    return {name: folder / name for name in SITES}


def job(workspace: Path, *, timeout_s: int = 60, **rounds: object) -> Job:
    """A short training."""
    return job_of_workspace(workspace, dataclasses.replace(ROUNDS, **rounds), repeat=1, timeout_s=timeout_s)  # type: ignore[arg-type]
