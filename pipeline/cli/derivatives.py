"""The preprocessed scans of a run as BIDS derivatives: python -m pipeline.cli.derivatives WORKSPACE OUT."""

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
    """The options."""
    options = Parser(
        prog="python -m pipeline.cli.derivatives",
        description="Copy the preprocessed volumes and masks of a finished run into BIDS derivatives.",
    )
    options.add_argument("workspace", type=typed_path, help="of a run whose stage preprocess is finished")
    options.add_argument("out", type=typed_path, help="folder to make; must not be there")
    options.add_argument("--kind", action="append", default=[], metavar="MRI=T1w", help="what BIDS calls a modality")
    options.add_argument("--group-readable", action="store_true", help="let your group read it; else you alone")
    return options


def main(argv: Sequence[str]) -> int:
    """Run it; the exit code is 0, or 2 for what a person has to mend."""
    return exit_code(lambda: _run(argv))


def _run(argv: Sequence[str]) -> int:
    options = parser().parse_args(argv)
    with readable_by(FOR_THE_GROUP if options.group_readable else PRIVATE):
        try:
            derivatives(options)
        except UnicodeError:
            raise
        except ValueError as error:  # of `intake.bids.derivatives`; its words are for a person
            raise InputError(str(error)) from error
    return 0


def derivatives(options: argparse.Namespace) -> None:
    """The preprocessed volumes and masks of a finished run as BIDS derivatives."""
    workspace, out = real_path(options.workspace), real_path(options.out)
    tables, volumes = CohortTables(workspace / "cohort"), VolumeSet(workspace / "preprocess")
    manifest = volumes.manifest
    if manifest is None:
        raise InputError(f"{volumes.folder} is not finished; run --stages preprocess first")
    if os.path.lexists(options.out):
        raise InputError(f"{options.out} is there already; name a folder that is not")
    places = {scan: volumes.folder_of(scan) for scan in volumes.scans()}
    whole = {scan: place for scan, place in places.items() if (place / "volume.nii.gz").exists()}
    laid_out = bids_derivatives(
        tables.scans(),
        volumes={scan: place / "volume.nii.gz" for scan, place in whole.items()},
        masks={scan: place / "mask.nii.gz" for scan, place in whole.items()},
        spacing_mm=_of_manifest(volumes, (int, float), "made_from", "settings", "spacing_mm"),
        version=_of_manifest(volumes, str, "git_commit"),
        kinds=pairs(options.kind) or None,
    )
    _write_whole(laid_out, out)
    say(f"{len(laid_out.copies)} files → {options.out}")


def _of_manifest(volumes: VolumeSet, kind: type | tuple[type, ...], *keys: str) -> Any:
    """A value of the stage's manifest.

    Raises:
        InputError: it is not there, or of another kind.
    """
    found: Any = volumes.manifest
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    if not isinstance(found, kind):
        raise InputError(f"{volumes.folder / 'manifest.json'} is damaged: {'.'.join(keys)} is {found!r}; run --stages "
                         "preprocess again")  # fmt: skip
    return found


def _write_whole(laid_out: Derivatives, out: Path) -> None:
    """Write a data set; `out` appears with all of it, or not at all.

    Raises:
        PlantedLinkError: a file of the workspace is a link, which could lead anywhere.
    """
    part = out.with_name(f".{uuid.uuid4().hex[:8]}-{out.name}")
    try:
        for target, source in laid_out.copies.items():
            if source.is_symlink():
                raise PlantedLinkError(source)
            shutil.copyfile(source, real_folder((part / target).parent, below=part) / Path(target).name)
        for target, text in laid_out.texts.items():
            (real_folder((part / target).parent, below=part) / Path(target).name).write_text(text, "utf-8")
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


if __name__ == "__main__":
    show_warnings_safely()
    raise SystemExit(main(sys.argv[1:]))
