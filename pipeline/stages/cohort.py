"""Read the manifest, check all of it, and write the tables that every later stage reads."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from cohort.covariates import covariate_notes
from cohort.manifest import CohortConfig, check_manifest, class_names, first_subjects, reading_notes, usable_rows
from cohort.origin import is_synthetic, real_only, synthetic_subjects
from cohort.splits import SPLITS
from cohort.table_members import value_notes
from cohort.tables import ManifestError, Problem, read_rows, read_table, shortened
from console.errors import InputError, PreconditionError
from demo import load_generator
from files.naming import as_on_disk
from files.reading import UnusableFileError, file_sha256
from files.writing import real_folder
from intake.breakhis import breakhis_folder
from pipeline.core.provenance import digest
from pipeline.core.runtime import Runtime
from pipeline.store.base import read_record, write_record
from pipeline.store.tables import CohortTables
from preprocessing.picture_depth import bits_for
from preprocessing.picture_files import largest_of_unknown_depth

DEMO_FOLDER = "demo"  # in the workspace
UNREADABLE = "unreadable"  # instead of a hash
LARGEST_FILE = 20_000_000_000  # bytes; no scan that is read here has as many, and hashing more takes minutes


def cohort(demo: Mapping[str, Any], out: CohortTables, config: CohortConfig, runtime: Runtime) -> None:
    """Write one row per scan, with the hash of its file; make a demo cohort first if one is named.

    Raises:
        PreconditionError: the manifest has problems, or synthetic scans were made anew after they were judged; the
            message names all of them, with their rows.
    """
    check_manifest_given(config)
    manifest = config.manifest if isinstance(config.manifest, Path) else _demo(str(config.manifest), demo, runtime)
    try:
        table, unreadable, notes = read_manifest(manifest, config)
        for note in notes:
            runtime.note(note)
        folder = manifest if manifest.is_dir() else manifest.parent
        unusable: list[dict[str, str]] = []
        if config.label is None:
            table, unusable = usable_rows(table, folder=folder, config=config, unreadable=unreadable)
        scans = pd.DataFrame(columns=[*CohortTables.COLUMNS, "row"], dtype=str)
        if len(table) or config.label is not None:
            smallest_class = len(SPLITS)  # one subject for each split
            scans = check_manifest(table, folder=folder, config=config, smallest_class=smallest_class)
    except ManifestError as error:
        raise PreconditionError(f"the manifest {manifest} cannot be used:\n{error}") from error
    learnt = [*value_notes(scans, config.tables()), *covariate_notes(scans)] if config.label else []
    for note in (*reading_notes(table, config), *learnt):
        runtime.note(note)
    if config.limit is not None:
        scans = first_subjects(real_only(scans), config.limit)
        runtime.note(f"cohort.limit: only {scans['subject'].nunique()} subjects take part")
    if made := synthetic_subjects(scans):
        runtime.note(f"{len(made)} patients are synthetic: they are trained on, and count as nobody in any result")
    scans["skull_strip"] = [str(config.modalities[m].skull_strip) for m in scans["modality"]]
    normalise = {name: each.normalise if each.kind == "volume" else "" for name, each in config.modalities.items()}
    scans["normalise"] = [normalise[m] for m in scans["modality"]]
    scans["trust"] = [config.modalities[m].trust or "" for m in scans["modality"]]
    files = scans["kind"] != "table"
    scans["sha256"] = ""
    scans.loc[files, "sha256"] = _hashes([Path(path) for path in scans.loc[files, "path"]], out, runtime)
    if changed := shortened(list(_changed_since_judged(scans, table))):
        raise PreconditionError(f"the manifest {manifest} cannot be used:\n{ManifestError(*changed)}")
    scans["bits"] = _bits(scans, out, config, runtime)
    _check_same_content(scans, runtime)
    out.save(scans.drop(columns="row"), class_names(scans["label"], config.positive), unusable)


def _demo(name: str, options: Mapping[str, Any], runtime: Runtime) -> Path:
    """Make the missing files of the demo cohort in the workspace; return its manifest."""
    generator = load_generator(name)
    folder = real_folder(runtime.workspace / DEMO_FOLDER, below=runtime.workspace)
    return generator.write(folder, generator.config(**options), runtime.progress)


def read_manifest(manifest: Path, config: CohortConfig) -> tuple[pd.DataFrame, list[Problem], list[str]]:
    """Read the manifest, or make it from file names; return it, unreadable rows, and notes on files left out.

    Only where nothing is learnt does the table go on without rows that cannot be read.

    Raises:
        ManifestError: It cannot be read, has no picture, or does not have the requested patients.
    """
    if config.layout == "table":
        return (*read_rows(manifest), []) if config.label is None else (read_table(manifest), [], [])
    try:
        found = breakhis_folder(manifest, balanced=config.balanced)
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
        raise ManifestError(Problem(f"{error.filename} {reason}", f"a folder {reason}")) from error
    return found.scans, [], found.notes()


def _changed_since_judged(scans: pd.DataFrame, table: pd.DataFrame) -> Iterator[Problem]:
    """Yield the synthetic scans whose file is not the one that was judged.

    Args:
        scans: with the hash of every file, `UNREADABLE` or "" where there is none.
        table: the manifest, with the hash of what was judged.
    """
    made = scans[is_synthetic(scans) & ~scans["sha256"].isin(["", UNREADABLE])]
    judged = table.rename(columns=str.strip).reindex(columns=["sha256"], fill_value="")["sha256"].str.strip()
    for scan, row, found in made[["scan", "row", "sha256"]].itertuples(index=False):
        if (expected := judged[row - 2].lower()) != found:
            why = (
                "its file is another one than was judged; it was made anew after it was judged"
                if expected
                else "the manifest does not say which file was judged (sha256 is empty)"
            )
            text = f"the synthetic scan {scan}: {why}: run judge again where it was made, and take judge/manifest.csv"
            yield Problem(text, "a synthetic scan is not the one that was judged", row)


def _check_same_content(scans: pd.DataFrame, runtime: Runtime) -> None:
    """Note scans of different subjects with the same content: one could be in training and in test.

    Raises:
        PreconditionError: the two subjects have different labels.
    """
    for _, group in scans[~scans["sha256"].isin(["", UNREADABLE])].groupby("sha256"):
        if group["subject"].nunique() > 1:
            names = ", ".join(group["scan"])
            if group["label"].nunique() > 1:
                raise PreconditionError(
                    f"the scans {names} have the same content, but different labels; one must be a mistake"
                )
            runtime.note(f"the scans {names} of different subjects have the same content; is one a copy?")


def _bits(scans: pd.DataFrame, out: CohortTables, config: CohortConfig, runtime: Runtime) -> list[str]:
    """Return for each scan the bits of its modality's 16-bit pictures that do not say theirs, "" if there are none.

    They are set, or as many as the largest value of all needs; for new patients they are set by the model.
    """
    bits = {name: each.bits for name, each in config.modalities.items()}
    files = read_record(out.folder / "files.json") or {}
    known = [files.get(str(Path(path)), [None] * 4)[3] for path in scans["path"]]
    largest = scans.assign(largest=known)[lambda table: table["kind"] == "image"].dropna(subset="largest")
    for name, values in largest.groupby("modality")["largest"] if config.label is not None else ():
        if bits[name] is None:
            bits[name] = taken = bits_for(int(values.max()))
            fewer = sum(bits_for(int(value)) < taken for value in values)
            runtime.note(
                f"{name}: {len(values)} 16-bit pictures do not say how many bits their camera has; {taken} are taken, "
                f"since their largest value is {int(values.max()):,}"
                + (f" ({fewer} of them would fit into fewer; are those of another camera?)" if fewer else "")
                + f". If it has other bits, set cohort.modalities.{name}.bits"
            )
    return [str(bits[modality] or "") for modality in scans["modality"]]


def _hashes(paths: list[Path], out: CohortTables, runtime: Runtime) -> list[str]:
    """Return the SHA-256 of every file; record it, and the largest value of 16-bit pictures of unknown depth.

    Files whose size and time are as recorded are not read again.
    """
    known = read_record(out.folder / "files.json") or {}
    current = {}
    with runtime.progress(len(paths), "file") as progress:
        for path in paths:
            try:
                status = path.stat()
                if status.st_size > LARGEST_FILE:
                    raise UnusableFileError(f"it has {status.st_size:,} bytes; at most {LARGEST_FILE:,} are read")
                before = known.get(str(path))
                if before and before[:2] == [status.st_size, status.st_mtime_ns] and len(before) == 4:
                    current[str(path)] = before
                else:
                    facts = [file_sha256(path), largest_of_unknown_depth(path)]
                    current[str(path)] = [status.st_size, status.st_mtime_ns, *facts]
            except (OSError, UnusableFileError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                runtime.note(f"{path} cannot be read ({reason}); preprocess will leave it out")
            progress.advance()
    write_record(out.folder / "files.json", current)
    return [current[str(path)][2] if str(path) in current else UNREADABLE for path in paths]


def check_manifest_given(config: CohortConfig) -> None:
    """Check that a manifest is given and exists."""
    if config.manifest is None:
        raise InputError("no manifest is given; type --cohort my_cohort.csv (docs/manifest.md describes it)")
    if not isinstance(config.manifest, Path):
        return
    if config.layout == "breakhis" and not config.manifest.is_dir():
        raise InputError(
            f"{config.manifest} is no folder; with cohort.layout breakhis, --cohort takes the folder of it"
        )
    if config.layout == "table" and not config.manifest.is_file():
        raise InputError(f"there is no manifest {config.manifest}; --cohort takes a CSV or TSV file")


def manifest_state(config: CohortConfig) -> Any:
    """Return the content of the manifest, and a hash of size and time of every file that it names."""
    if not isinstance(config.manifest, Path):
        return None
    try:
        table, unreadable, _ = read_manifest(config.manifest, config)
        content = digest([table.to_dict("split"), *map(str, unreadable)])
        paths = table.get("path", ())
    except ManifestError:
        return None  # the stage itself reports the error
    root = config.manifest if config.manifest.is_dir() else config.manifest.parent
    state = hashlib.sha256()
    for name in paths:
        path = as_on_disk(root.absolute() / str(name).strip())
        try:
            status = path.stat()
            closed = "" if os.access(path, os.R_OK) else "|may not be read"  # once it may, it is hashed
            state.update(f"{name}|{status.st_size}|{status.st_mtime_ns}{closed}\n".encode())
        except OSError:
            state.update(f"{name}|not there\n".encode())
    return [content, state.hexdigest()]
