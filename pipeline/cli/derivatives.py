"""Copy the preprocessed scans of a run into BIDS derivatives: python -m pipeline.cli.derivatives WORKSPACE OUT."""

import argparse
import os
import shutil
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from console.errors import InputError
from console.exit_codes import exit_code
from console.messages import say, show_warnings_safely
from console.parser import Parser, pairs, real_path, typed_path
from files.writing import FOR_THE_GROUP, PRIVATE, PlantedLinkError, readable_by, real_folder
from intake.bids.derivatives import Derivatives, bids_derivatives
from pipeline.store.tables import CohortTables
from pipeline.store.volumes import VolumeSet


def parser() -> Parser:
    """Return the parser of the options."""
    options = Parser(
        prog="python -m pipeline.cli.derivatives",
        description="Copy the preprocessed volumes and masks of a finished run into BIDS derivatives.",
    )
    options.add_argument("workspace", type=typed_path, help="of a run whose stage preprocess is finished")
    options.add_argument("out", type=typed_path, help="folder to make; must not exist yet")
    options.add_argument("--kind", action="append", default=[], metavar="MRI=T1w", help="what BIDS calls a modality")
    options.add_argument("--group-readable", action="store_true", help="let your group read it; else you alone")
    return options


def main(argv: Sequence[str]) -> int:
    """Copy the files and return the exit code: 0, or 2 if the input has to be corrected."""
    return exit_code(lambda: _run(argv))


def _run(argv: Sequence[str]) -> int:
    options = parser().parse_args(argv)
    with readable_by(FOR_THE_GROUP if options.group_readable else PRIVATE):
        try:
            derivatives(options)
        except UnicodeError:
            raise
        except ValueError as error:  # of `intake.bids.derivatives`; its message is written for the user
            raise InputError(str(error)) from error
    return 0


def derivatives(options: argparse.Namespace) -> None:
    """Copy the preprocessed volumes and masks of a finished run into BIDS derivatives.

    Args:
        options: as `parser` reads them.

    Raises:
        InputError: the stage preprocess is not finished, or the target folder exists.
    """
    workspace, out = real_path(options.workspace), real_path(options.out)
    tables, volumes = CohortTables(workspace / "cohort"), VolumeSet(workspace / "preprocess")
    manifest = volumes.manifest
    if manifest is None:
        raise InputError(f"{volumes.folder} is not finished; run --stages preprocess first")
    if os.path.lexists(options.out):
        raise InputError(f"{options.out} exists already; name a folder that does not")
    folders = {scan: volumes.folder_of(scan) for scan in volumes.scans()}
    whole = {scan: folder for scan, folder in folders.items() if (folder / "volume.nii.gz").exists()}
    laid_out = bids_derivatives(
        tables.scans(),
        volumes={scan: folder / "volume.nii.gz" for scan, folder in whole.items()},
        masks={scan: folder / "mask.nii.gz" for scan, folder in whole.items()},
        spacing_mm=_manifest_value(volumes, (int, float), "made_from", "settings", "spacing_mm"),
        version=_manifest_value(volumes, str, "git_commit"),
        kinds=pairs(options.kind) or None,
    )
    _write_whole(laid_out, out)
    say(f"{len(laid_out.copies)} files → {options.out}")


def _manifest_value(volumes: VolumeSet, kind: type | tuple[type, ...], *keys: str) -> Any:
    """Return a value of the stage's manifest.

    Raises:
        InputError: the value is missing, or of another type.
    """
    value: Any = volumes.manifest
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, kind):
        raise InputError(f"{volumes.folder / 'manifest.json'} is damaged: {'.'.join(keys)} is {value!r}; run --stages "
                         "preprocess again")  # fmt: skip
    return value


def _write_whole(laid_out: Derivatives, out: Path) -> None:
    """Write a data set; `out` appears only when all files are written.

    Raises:
        PlantedLinkError: a file of the workspace is a symbolic link.
    """
    partial = out.with_name(f".{uuid.uuid4().hex[:8]}-{out.name}")
    try:
        for target, source in laid_out.copies.items():
            if source.is_symlink():
                raise PlantedLinkError(source)
            shutil.copyfile(source, real_folder((partial / target).parent, below=partial) / Path(target).name)
        for target, text in laid_out.texts.items():
            (real_folder((partial / target).parent, below=partial) / Path(target).name).write_text(text, "utf-8")
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


if __name__ == "__main__":
    show_warnings_safely()
    raise SystemExit(main(sys.argv[1:]))
