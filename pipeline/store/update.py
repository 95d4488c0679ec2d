"""The artifact of the stage update: sums over patients, who is in, and what was said of each before it was learnt."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import safetensors
import safetensors.numpy

from files.reading import file_sha256
from files.writing import real_folder, replacing
from models.joint.blocks import Blocks
from models.joint.sums import Cell, Sums
from pipeline.core.provenance import digest
from pipeline.store.base import Artifact, ArtifactError, read_record, write_record
from pipeline.store.subject_hashes import add_hashes, hashed_in
from synthesis.updating import Updated

RECORD, LOG, FORGOTTEN = "versions.json", "prequential.csv", "forgotten.json"


class UpdateSet(Artifact):
    """`versions.json` (who is in, every update), `state-N.safetensors` (sums, and what each patient gave), the log.

    Unlike other artifacts it is made from its own earlier state; `versions.json` names the file of the state that
    counts and is replaced at once, so an interrupted update leaves the earlier version. It holds personal data.
    """

    FILES: ClassVar = (RECORD, LOG)
    LOG_COLUMNS: ClassVar = ("version", "subject", "truth", "has", "how", "log_loss", "surprise")

    def record(self) -> dict[str, Any] | None:
        """Return what `save` wrote; None before the first version.

        Raises:
            ArtifactError: it is there and not as it was written.
        """
        path = self.folder / RECORD
        if not path.exists():
            return None
        record = read_record(path)
        if record is None:
            raise ArtifactError(
                f"{path} is damaged, and with it the history of all updates. Bring the folder {self.folder} back from "
                "a copy, or remove it to start anew with the patients of today's manifest"
            )
        return record

    def state(self) -> Updated | None:
        """Return the patients who are in, and their sums; None before the first version.

        Raises:
            ArtifactError: it is not as it was written.
        """
        record = self.record()
        if record is None:
            return None
        path = self.folder / Path(record["state"]).name
        try:
            whole = file_sha256(path) == record["sha256"]
            arrays = safetensors.numpy.load_file(path) if whole else {}
        except (OSError, safetensors.SafetensorError) as error:
            raise ArtifactError(f"{path} cannot be read: {error}. Bring the folder back from a copy") from error
        if not whole:
            raise ArtifactError(f"{path} is not as it was written. Bring the folder {self.folder} back from a copy")
        blocks = Blocks(tuple(record["blocks"]), tuple(int(size) for size in record["blocks"].values()))
        cells = {
            (int(cell["class"]), tuple(bool(each) for each in cell["has"])): Cell(
                float(arrays["counts"][number]), arrays[f"sums.{number}.total"], arrays[f"sums.{number}.outer"]
            )
            for number, cell in enumerate(record["cells"])
        }
        return Updated(
            Sums(blocks, len(record["classes"]), cells),
            tuple(record["subjects"]),
            arrays["rows"],
            arrays["labels"],
            arrays["weights"],
        )

    def save(self, state: Updated, log: pd.DataFrame, facts: dict[str, Any]) -> None:
        """Write a state, the log, and the record that names them; files of earlier states are removed.

        Args:
            state: who is in.
            log: `LOG_COLUMNS` and a probability for each class.
            facts: `classes`, `scores_of`, `versions`, a list of updates, and `sessions`, the one that each patient was
                learnt from; those of who is not in are left out.
        """
        real_folder(self.folder, below=self.folder.parent)
        cells = list(state.sums.cells.items())
        arrays = {"rows": state.rows, "labels": state.labels, "weights": state.weights}
        arrays["counts"] = np.array([float(cell.count) for _, cell in cells])
        for number, (_, cell) in enumerate(cells):
            arrays |= {f"sums.{number}.total": cell.total, f"sums.{number}.outer": cell.outer}
        content = safetensors.numpy.save({name: np.ascontiguousarray(each) for name, each in arrays.items()})
        name = f"state-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
        with replacing(self.folder / name) as partial:
            partial.write_bytes(content)
        self.save_table(LOG, log, self.LOG_COLUMNS)
        blocks = state.sums.blocks
        write_record(
            self.folder / RECORD,
            {
                "state": name,
                "sha256": file_sha256(self.folder / name),
                "blocks": dict(zip(blocks.names, blocks.sizes, strict=True)),
                "cells": [{"class": label, "has": list(pattern)} for (label, pattern), _ in cells],
                "subjects": list(state.subjects),
                **facts,
                "sessions": {n: each for n, each in facts.get("sessions", {}).items() if n in state.subjects},
            },
        )
        for old in self.folder.glob("state-*.safetensors"):
            if old.name != name:
                old.unlink()

    def log(self) -> pd.DataFrame:
        """Return the log, one row for each patient of each update."""
        try:
            return pd.read_csv(
                self.folder / LOG,
                dtype={"subject": str, "truth": str, "has": str, "how": str},
                keep_default_na=False,
                na_values={"log_loss": [""], "surprise": [""]},
            )
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"cannot read {self.folder / LOG}: {error}; bring the folder back from a copy"
            ) from error

    def forgotten(self, subjects: Sequence[str]) -> list[str]:
        """Return those of some subjects who were to be forgotten; only hashes of their ids are kept."""
        return hashed_in(self.folder / FORGOTTEN, subjects) or []

    def never_again(self, subject: str) -> None:
        """Note, as a hash, that a subject was to be forgotten."""
        real_folder(self.folder, below=self.folder.parent)
        add_hashes(self.folder / FORGOTTEN, [subject])

    def contents(self) -> dict[str, Any]:
        """Return the fingerprint of the state and of all updates, and counts."""
        record = self.record() or {}
        return {
            "fingerprint": digest([record["sha256"], record["versions"]]),
            "counts": {"versions": len(record["versions"]), "patients": len(record["subjects"])},
        }


def expired_calibration(workspace: Path) -> str:
    """Return a sentence if the exported model of a workspace was calibrated before its newest update, or "".

    Patients came with a manifest: the newest version names those that it knows, and the exported model has its own.
    """
    record = read_record(workspace / "update" / RECORD) or {}
    exported = (Artifact(workspace / "export").manifest or {}).get("made_from", {}).get("inputs", {}).get("cohort")
    known = record.get("cohorts") or _cohort_of(workspace / "update")
    versions = len(record.get("versions", ()))
    if not exported or not known or exported in known or versions < 2:
        return ""
    return (
        f"the calibration of {workspace.name}/export/bundle has expired: patients have come since ({versions} versions "
        "in update/versions.json); type --stages export"
    )


def expired_beside(bundle: Path) -> str:
    """Return the same of an exported model that lies where it was made; of a copy elsewhere nothing is known: ""."""
    folder = bundle.resolve()
    return expired_calibration(folder.parent.parent) if folder.parts[-2:] == ("export", "bundle") else ""


def _cohort_of(folder: Path) -> list[str]:
    """Return the manifest that a version of an earlier program was made from."""
    cohort = (Artifact(folder).manifest or {}).get("made_from", {}).get("inputs", {}).get("cohort")
    return [cohort] if cohort else []
