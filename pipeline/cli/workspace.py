"""Files of a workspace that belong to no stage: settings.yaml, failures.csv, earlier splits."""

import contextlib
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from console.errors import InputError
from files.reading import UnusableFileError, read_bytes
from files.safe_yaml import MOST_YAML
from files.tables import write_rows
from files.writing import replacing
from pipeline.core.provenance import settings_yaml
from pipeline.settings import Settings
from pipeline.specs.registry import STAGES
from pipeline.store.base import Artifact, read_record, write_record

FORMAT, FORMAT_FILE = 2, "workspace.json"


def collect(workspace: Path) -> tuple[list[dict[str, str]], list[str]]:
    """Return failures and notes of all stages, including earlier runs and interrupted stages."""
    failures: list[dict[str, str]] = []
    notes: list[str] = []
    for stage in STAGES:
        folder = workspace / stage.name
        manifest = Artifact(folder).manifest
        if manifest is None:
            failed = {path.parent.name: read_record(path) or {} for path in sorted(folder.glob("*/failure.json"))}
            manifest = {"failures": [{"scan": scan, "reason": f.get("reason", "")} for scan, f in failed.items()]}
        failures += [{"stage": stage.name, **failure} for failure in manifest.get("failures", ())]
        notes += [f"{stage.name}: {note}" for note in manifest.get("notes", ())]
    return failures, notes


def write_failures(failures: Sequence[Mapping[str, str]], workspace: Path, *, for_spreadsheets: bool = False) -> None:
    """Write `failures.csv`: one row per scan that could not be used, with the stage and the reason.

    Args:
        failures: as from `collect`.
        workspace: of the run.
        for_spreadsheets: as in `files.tables.write_rows`.
    """
    columns, scans = ("stage", "scan", "subject", "modality", "path", "reason"), {}
    with contextlib.suppress(OSError, UnusableFileError, csv.Error):  # a damaged table has its own message
        text = read_bytes(workspace / "cohort" / "scans.csv").decode("utf-8", "replace")
        scans = {row.get("scan"): row for row in csv.DictReader(io.StringIO(text, newline=""))}
    rows = [{**{c: scans.get(failure["scan"], {}).get(c, "") for c in columns}, **failure} for failure in failures]
    write_rows(workspace / "failures.csv", columns, rows, for_spreadsheets=for_spreadsheets)


def save_settings(settings: Settings, workspace: Path) -> bytes | None:
    """Write the settings of this run to `settings.yaml`, as a config file; return the previous content."""
    path = workspace / "settings.yaml"
    before = None
    with contextlib.suppress(FileNotFoundError, UnusableFileError):  # what is no regular file is not restored
        before = None if path.is_symlink() else read_bytes(path, most=MOST_YAML)
    with replacing(path) as partial:
        partial.write_text(settings_yaml(settings), "utf-8")
    return before


def restore_settings(before: bytes | None, workspace: Path) -> None:
    """Put `settings.yaml` back after a run that was refused."""
    if before is not None:
        with replacing(workspace / "settings.yaml") as partial:
            partial.write_bytes(before)


def set_splits_aside(workspace: Path) -> None:
    """Set the frozen splits aside as `splits.before.csv`, so that new ones are made."""
    (workspace / "split" / "manifest.json").unlink(missing_ok=True)
    splits = workspace / "split" / "splits.csv"
    if splits.exists():
        splits.replace(splits.with_name("splits.before.csv"))


def check_format(workspace: Path) -> None:
    """Refuse a workspace whose files have names and columns of an earlier program.

    Raises:
        InputError: The workspace has another format.
    """
    if not (workspace / "settings.yaml").is_file():
        return
    record = read_record(workspace / FORMAT_FILE) or {"format": "an earlier one"}
    if record.get("format") != FORMAT:
        raise InputError(
            f"{workspace} has the format {record.get('format')}, this program writes format {FORMAT}: files, columns "
            "and settings were renamed. Name another --workspace, or go on with the program that made it"
        )


def write_format(workspace: Path) -> None:
    """Record the format of a new workspace."""
    if not (workspace / FORMAT_FILE).exists():
        write_record(workspace / FORMAT_FILE, {"format": FORMAT})
