"""The way in and out for others' folders: DICOM or BIDS to a manifest, preprocessed scans to BIDS derivatives.

python -m pipeline.intake dicom EXPORT OUT --key FILE [--patients CSV --keep diagnosis] [--name T1w=MRI …]
python -m pipeline.intake pseudonym ID [ID …] --key FILE
python -m pipeline.intake bids DATASET MANIFEST.csv [--label diagnosis] [--name T1w=MRI …]
python -m pipeline.intake derivatives WORKSPACE OUT [--kind MRI=T1w …]
"""

import argparse
import os
import shutil
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from files.writing import FOR_THE_GROUP, PRIVATE, PlantedLinkError, readable_by, real_folder, write_table
from pipeline.last_resort import exit_code
from pipeline.runtime import InputError
from pipeline.terminal import Parser, real_path, say, show_warnings_safely, typed_path

if TYPE_CHECKING:
    from cohort.bids_derivatives import Derivatives
    from pipeline.artifacts import VolumeSet


def parser() -> Parser:
    """The options."""
    options = Parser(
        prog="python -m pipeline.intake", description="DICOM or BIDS to a manifest; preprocessed scans to BIDS."
    )
    ways = options.add_subparsers(dest="way", required=True, metavar="dicom|pseudonym|bids|derivatives")
    way = ways.add_parser("dicom", help="convert a folder of DICOM files; patients get pseudonyms")
    way.add_argument("export", type=typed_path, help="folder of DICOM files; nothing is written there")
    way.add_argument("out", type=typed_path, help="where volumes, manifest.csv and left_out.csv go")
    way.add_argument("--key", type=typed_path, required=True, help="file of the secret key; made if it is not there")
    way.add_argument("--patients", type=typed_path, help="CSV with patient_id, as in DICOM, and the columns to keep")
    way.add_argument("--keep", action="append", default=[], metavar="COLUMN", help="of --patients, such as diagnosis")
    way.add_argument(
        "--session-days", type=int, default=0, metavar="N", help="scans up to N days after a visit's first belong to it"
    )
    way.add_argument(
        "--memory-gb",
        type=float,
        metavar="GB",
        help="main memory that a series may take; left out: 3/4 of the machine's",
    )
    _names(way)
    way = ways.add_parser("pseudonym", help="what patients of your own are called, for who has the key")
    way.add_argument("patients", nargs="+", metavar="ID", help="patient id, as in DICOM")
    way.add_argument("--key", type=typed_path, required=True, help="file of the secret key")
    way = ways.add_parser("bids", help="write the manifest of a BIDS data set")
    way.add_argument("dataset", type=typed_path, help="its top folder, with participants.tsv")
    way.add_argument("manifest", type=typed_path, help="CSV to write")
    way.add_argument("--label", default="diagnosis", help="column of participants.tsv with the class")
    way.add_argument("--runs", choices=("first", "last", "all"), default="first", help="which runs of a scan")
    _names(way)
    way = ways.add_parser("derivatives", help="copy the preprocessed scans of a run into BIDS derivatives")
    way.add_argument("workspace", type=typed_path, help="of a run whose stage preprocess is finished")
    way.add_argument("out", type=typed_path, help="folder to make; must not be there")
    way.add_argument("--kind", action="append", default=[], metavar="MRI=T1w", help="what BIDS calls a modality")
    for name, way in ways.choices.items():
        if name != "pseudonym":
            way.add_argument("--group-readable", action="store_true", help="let your group read it; else you alone")
    return options


def _names(way: argparse.ArgumentParser) -> None:
    way.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="T1w=MRI",
        help="what the manifest calls T1w, T2w, FLAIR, FDG-PET or PET",
    )


def main(words: Sequence[str]) -> int:
    """Run it; the exit code is 0, or 2 for what a person has to mend."""
    return exit_code(lambda: _run(words))


def _run(words: Sequence[str]) -> int:
    from pydantic import ValidationError

    ways = {"dicom": dicom, "pseudonym": pseudonyms, "bids": bids, "derivatives": derivatives}
    options = parser().parse_args(words)
    with readable_by(FOR_THE_GROUP if getattr(options, "group_readable", False) else PRIVATE):
        try:
            ways[options.way](options)
        except UnicodeError:
            raise
        except ValidationError as error:
            told = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors())
            raise InputError(told.replace("Value error, ", "").removeprefix(": ")) from error
        except ValueError as error:  # of the rooms that read others' folders; their words are for a person
            raise InputError(str(error)) from error
    return 0


def dicom(options: argparse.Namespace) -> None:
    """A folder of DICOM files to NIfTI volumes and a manifest."""
    from cohort.manifest import read_table
    from preprocessing.dicom_conversion import import_dicom
    from preprocessing.dicom_rules import DicomConfig
    from preprocessing.limits import Limits
    from preprocessing.pseudonyms import read_or_make_key

    config = DicomConfig(names=_pairs(options.name), session_days=options.session_days)
    new = not options.key.exists()
    key = read_or_make_key(options.key, outside=[options.export, options.out])
    if new:
        say(f"note: made a new key, {options.key}; pseudonyms of other keys do not agree with its own")
    patients = None if options.patients is None else read_table(options.patients)
    if options.memory_gb is not None and not 0 < options.memory_gb < 1e6:
        raise InputError(
            f"--memory-gb {options.memory_gb:g}: expected the GB of memory that a series may take, such as 8"
        )
    out = real_path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    found = import_dicom(
        options.export,
        out,
        key=key,
        config=config,
        patients=patients,
        keep=options.keep,
        limits=Limits(memory_gb=options.memory_gb, setting="--memory-gb"),
    )
    write_table(out / "manifest.csv", found.scans)
    write_table(out / "left_out.csv", found.left_out)
    counts = ", ".join(f"{count} {name}" for name, count in found.scans["modality"].value_counts().items())
    say(f"{len(found.scans)} volumes{f' ({counts})' if counts else ''} → {options.out / 'manifest.csv'}")
    say(f"{len(found.left_out)} series left out, with reasons → {options.out / 'left_out.csv'}")
    for reason, count in found.skipped.items():
        say(f"{count} files skipped: {reason}")
    for note in found.notes:
        say(f"note: {note}")


def pseudonyms(options: argparse.Namespace) -> None:
    """Print the pseudonym of each patient id."""
    from preprocessing.pseudonyms import pseudonym, read_or_make_key

    if not options.key.exists():
        raise InputError(f"there is no key file {options.key}")
    key = read_or_make_key(options.key, outside=[])
    for patient in options.patients:
        say(f"{patient} {pseudonym(patient, key)}")


def bids(options: argparse.Namespace) -> None:
    """A BIDS data set to a manifest, with absolute paths."""
    from cohort.bids import read_bids

    found = read_bids(options.dataset, label=options.label, runs=options.runs, names=_pairs(options.name) or None)
    scans = found.scans.assign(path=[str((options.dataset / path).resolve()) for path in found.scans["path"]])
    write_table(real_path(options.manifest.parent) / options.manifest.name, scans)
    say(f"{len(scans)} scans → {options.manifest}")
    for row in found.left_out.itertuples():
        say(f"left out: {' '.join(filter(None, (row.subject, row.session, row.path)))}: {row.reason}")


def derivatives(options: argparse.Namespace) -> None:
    """The preprocessed volumes and masks of a finished run as BIDS derivatives."""
    from cohort.bids_derivatives import bids_derivatives
    from pipeline.artifacts import CohortTables, VolumeSet

    workspace, out = real_path(options.workspace), real_path(options.out)
    tables, volumes = CohortTables(workspace / "cohort"), VolumeSet(workspace / "preprocess")
    manifest = volumes.manifest
    if manifest is None:
        raise InputError(f"{volumes.folder} is not finished; run --stages preprocess first")
    if os.path.lexists(options.out):
        raise InputError(f"{options.out} is there already; name a folder that is not")
    places = {scan: volumes.place(scan) for scan in volumes.scans()}
    whole = {scan: place for scan, place in places.items() if (place / "volume.nii.gz").exists()}
    laid_out = bids_derivatives(
        tables.scans(),
        volumes={scan: place / "volume.nii.gz" for scan, place in whole.items()},
        masks={scan: place / "mask.nii.gz" for scan, place in whole.items()},
        spacing_mm=_of_manifest(volumes, (int, float), "made_from", "settings", "spacing_mm"),
        version=_of_manifest(volumes, str, "git_commit"),
        kinds=_pairs(options.kind) or None,
    )
    _write_whole(laid_out, out)
    say(f"{len(laid_out.copies)} files → {options.out}")


def _of_manifest(volumes: "VolumeSet", kind: type | tuple[type, ...], *keys: str) -> Any:
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


def _write_whole(laid_out: "Derivatives", out: Path) -> None:
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


def _pairs(given: list[str]) -> dict[str, str]:
    pairs = dict(word.split("=", 1) for word in given if "=" in word)
    if len(pairs) != len(given):
        raise InputError(f"{given}: expected words such as T1w=MRI, each name once")
    return pairs


if __name__ == "__main__":
    show_warnings_safely()
    raise SystemExit(main(sys.argv[1:]))
