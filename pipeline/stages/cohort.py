"""Read the manifest, check all of it, and write the tables that every later stage goes by."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cohort.manifest import CohortConfig
from cohort.splits import PARTS
from pipeline.artifacts import CohortTables, PhantomCohort, read_json, write_json
from pipeline.provenance import file_sha256
from pipeline.runtime import InputError, Refused, Runtime
from pipeline.stage import Stage
from pipeline.stages.phantoms import STAGE as PHANTOMS

if TYPE_CHECKING:
    import pandas as pd

UNREADABLE = "unreadable"  # instead of a hash


def cohort(phantoms: PhantomCohort, out: CohortTables, config: CohortConfig, runtime: Runtime) -> None:
    """Write one row a scan, with the hash of its file.

    Raises:
        Refused: the manifest has problems; all of them are named, with their rows.
    """
    from cohort.manifest import ManifestError, check_manifest, class_names, first_subjects, read_table

    _ready(config)
    manifest = config.manifest if isinstance(config.manifest, Path) else phantoms.manifest_csv
    try:
        scans = check_manifest(
            read_table(manifest),
            folder=manifest.parent,
            config=config,
            smallest_class=len(PARTS),  # one subject for each part
        )
    except ManifestError as error:
        raise Refused(f"the manifest {manifest} cannot be used:\n{error}") from error
    if config.limit is not None:
        scans = first_subjects(scans, config.limit)
        runtime.note(f"cohort.limit: only {scans['subject'].nunique()} subjects take part")
    scans["skull_strip"] = [str(config.modalities[m].skull_strip) for m in scans["modality"]]
    scans["sha256"] = _hashes([Path(path) for path in scans["path"]], out, runtime)
    _say_same_content(scans, runtime)
    out.save(scans.drop(columns="row"), class_names(scans["label"], config.positive))


def _say_same_content(scans: "pd.DataFrame", runtime: Runtime) -> None:
    """A scan copied to another subject could be learnt from and tested on.

    Raises:
        Refused: the two subjects have different labels.
    """
    for _, group in scans[scans["sha256"] != UNREADABLE].groupby("sha256"):
        if group["subject"].nunique() > 1:
            names = ", ".join(group["scan"])
            if group["label"].nunique() > 1:
                raise Refused(f"the scans {names} have the same content, but different labels; one must be a mistake")
            runtime.note(f"the scans {names} of different subjects have the same content; is one a copy?")


def _hashes(paths: list[Path], out: CohortTables, runtime: Runtime) -> list[str]:
    """SHA-256 of every file; those whose size and time are as recorded are not read again."""
    known = read_json(out.folder / "files.json") or {}
    current = {}
    with runtime.progress(len(paths), "file") as progress:
        for path in paths:
            status = path.stat()
            before = known.get(str(path))
            if before and before[:2] == [status.st_size, status.st_mtime_ns]:
                current[str(path)] = before
            else:
                try:
                    content = file_sha256(path)
                except OSError as error:
                    runtime.note(f"{path} cannot be read ({error.strerror}); preprocess will leave it out")
                    content = UNREADABLE
                current[str(path)] = [status.st_size, status.st_mtime_ns, content]
            progress.advance()
    write_json(out.folder / "files.json", current)
    return [current[str(path)][2] for path in paths]


def _ready(config: CohortConfig) -> None:
    """A manifest is given and there."""
    if config.manifest is None:
        raise InputError("no manifest is given; type --cohort my_cohort.csv (docs/guide.md says what it holds)")
    if isinstance(config.manifest, Path) and not config.manifest.is_file():
        raise InputError(f"there is no manifest {config.manifest}; --cohort takes a CSV or TSV file")


def _outside(config: CohortConfig) -> Any:
    """Content of the manifest; size and time of every file that it names."""
    if not isinstance(config.manifest, Path):
        return None
    from cohort.manifest import ManifestError, read_table

    try:
        content = hashlib.sha256(config.manifest.read_bytes()).hexdigest()
        paths = read_table(config.manifest).get("path", ())
    except (OSError, ManifestError):
        return None  # the stage itself says what is wrong
    state = hashlib.sha256()
    for name in paths:
        path = config.manifest.parent / str(name).strip()
        try:
            status = path.stat()
            state.update(f"{name}|{status.st_size}|{status.st_mtime_ns}\n".encode())
        except OSError:
            state.update(f"{name}|not there\n".encode())
    return [content, state.hexdigest()]


STAGE = Stage(
    cohort,
    config=CohortConfig,
    writes=CohortTables,
    version=1,
    reads={"phantoms": PHANTOMS},
    outside=_outside,
    ready=_ready,
)
