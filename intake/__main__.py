"""Convert DICOM or BIDS folders, or the LGG Segmentation Dataset, to a manifest.

python -m intake dicom EXPORT OUT --key FILE [--patients CSV --keep diagnosis] [--name T1w=MRI …]
python -m intake pseudonym ID [ID …] --key FILE
python -m intake bids DATASET MANIFEST.csv [--label diagnosis] [--name T1w=MRI …]
python -m intake lgg FOLDER OUT [--voxel-mm X Y Z] [--patients CSV --keep idh]
"""

import argparse
import sys
from collections.abc import Sequence

import pandas as pd
from pydantic import ValidationError

from cohort.names import broken_ids
from cohort.tables import read_table
from console.errors import InputError
from console.exit_codes import exit_code
from console.messages import say, show_warnings_safely
from console.parser import Parser, pairs, real_path, typed_path
from files.tables import write_table
from files.writing import FOR_THE_GROUP, PRIVATE, readable_by
from intake.bids.read import read_bids
from intake.dicom.convert import import_dicom
from intake.dicom.rules import DicomConfig
from intake.lgg import import_lgg, manifest_of
from intake.pseudonyms import pseudonym, read_or_make_key
from preprocessing.limits import Limits


def parser() -> Parser:
    """Build the parser of the options."""
    options = Parser(prog="python -m intake", description="DICOM, BIDS or LGG to a manifest.")
    ways = options.add_subparsers(dest="way", required=True, metavar="dicom|pseudonym|bids|lgg")
    way = ways.add_parser("dicom", help="convert a folder of DICOM files; patients get pseudonyms")
    way.add_argument("export", type=typed_path, help="folder of DICOM files; nothing is written there")
    way.add_argument("out", type=typed_path, help="where volumes, manifest.csv and left_out.csv go")
    way.add_argument("--key", type=typed_path, required=True, help="file of the secret key; made if it is not there")
    way.add_argument("--patients", type=typed_path, help="CSV with patient_id, as in DICOM, and the columns to keep")
    way.add_argument("--keep", action="append", default=[], metavar="COLUMN", help="of --patients, such as diagnosis")
    _not_missing(way)
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
    _not_missing(way)
    way.add_argument("--runs", choices=("first", "last", "all"), default="first", help="which runs of a scan")
    _names(way)
    way = ways.add_parser("lgg", help="convert the LGG Segmentation Dataset, slices as tif, to volumes")
    way.add_argument("folder", type=typed_path, help="of the download, with kaggle_3m in it; nothing is written there")
    way.add_argument("out", type=typed_path, help="where volumes, manifests and left_out.csv go")
    way.add_argument(
        "--voxel-mm",
        type=float,
        nargs=3,
        metavar=("X", "Y", "Z"),
        help="size of a pixel and distance of slices, which the files do not say; left out: invented",
    )
    way.add_argument("--patients", type=typed_path, help="CSV with patient_id (TCGA-CS-4941) and the columns to keep")
    way.add_argument("--keep", action="append", default=[], metavar="COLUMN", help="of --patients, such as idh")
    _not_missing(way)
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


def _not_missing(way: argparse.ArgumentParser) -> None:
    way.add_argument(
        "--not-missing",
        action="append",
        default=[],
        metavar="WORD",
        help="a value here, such as none; elsewhere no value",
    )


def main(argv: Sequence[str]) -> int:
    """Run the command; return exit code 0, or 2 for wrong input."""
    return exit_code(lambda: _run(argv))


def _run(argv: Sequence[str]) -> int:
    ways = {"dicom": dicom, "pseudonym": pseudonyms, "bids": bids, "lgg": lgg}
    options = parser().parse_args(argv)
    with readable_by(FOR_THE_GROUP if getattr(options, "group_readable", False) else PRIVATE):
        try:
            ways[options.way](options)
        except UnicodeError:
            raise
        except ValidationError as error:
            text = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors())
            raise InputError(text.replace("Value error, ", "").removeprefix(": ")) from error
        except ValueError as error:  # from reading the folders; its message is for the user
            raise InputError(str(error)) from error
    return 0


def dicom(options: argparse.Namespace) -> None:
    """Convert a folder of DICOM files to NIfTI volumes and a manifest."""
    config = DicomConfig(names=pairs(options.name), session_days=options.session_days)
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
    result = import_dicom(
        options.export,
        out,
        key=key,
        config=config,
        patients=patients,
        keep=tuple(dict.fromkeys(options.keep)),
        not_missing=options.not_missing,
        limits=Limits(memory_gb=options.memory_gb, setting="--memory-gb"),
    )
    write_table(out / "manifest.csv", result.scans)
    write_table(out / "left_out.csv", result.left_out)
    counts = ", ".join(f"{count} {name}" for name, count in result.scans["modality"].value_counts().items())
    say(f"{len(result.scans)} volumes{f' ({counts})' if counts else ''} → {options.out / 'manifest.csv'}")
    say(f"{len(result.left_out)} series left out, with reasons → {options.out / 'left_out.csv'}")
    for reason, count in result.skipped.items():
        say(f"{count} files skipped: {reason}")
    for note in result.notes:
        say(f"note: {note}")
    if result.scans.empty:
        why = f"reasons are in {options.out / 'left_out.csv'}" if len(result.left_out) else "it has no DICOM series"
        raise InputError(f"nothing in {options.export} could be used: {why}")


def pseudonyms(options: argparse.Namespace) -> None:
    """Print the pseudonym of each patient id."""
    if not options.key.exists():
        raise InputError(f"there is no key file {options.key}")
    key = read_or_make_key(options.key, outside=[])
    for number, what in broken_ids(pd.Series(options.patients, dtype=str), dates=False).items():
        raise InputError(f"{options.patients[number]!r} {what}")
    for patient in options.patients:
        say(f"{patient} {pseudonym(patient, key)}")


def bids(options: argparse.Namespace) -> None:
    """Write the manifest of a BIDS data set, with absolute paths."""
    result = read_bids(
        options.dataset,
        label=options.label,
        runs=options.runs,
        names=pairs(options.name) or None,
        not_missing=options.not_missing,
    )
    for row in result.left_out.itertuples():
        named = " ".join(filter(None, (row.subject, row.session, row.path)))
        say(f"left out: {': '.join(filter(None, (named, row.reason)))}")
    if result.scans.empty:
        raise InputError(f"no scan of {options.dataset} can be used; {options.manifest} is not written")
    scans = result.scans.assign(path=[str((options.dataset / path).resolve()) for path in result.scans["path"]])
    write_table(real_path(options.manifest.parent) / options.manifest.name, scans)
    say(f"{len(scans)} scans → {options.manifest}; {len(result.left_out)} left out")


def lgg(options: argparse.Namespace) -> None:
    """Convert the LGG Segmentation Dataset to NIfTI volumes and a manifest for every label."""
    if options.voxel_mm is not None and not all(0.05 <= size <= 50 for size in options.voxel_mm):
        raise InputError(f"--voxel-mm {options.voxel_mm}: expected three sizes of .05 to 50 mm, such as 0.9 0.9 5")
    if options.keep and options.patients is None:
        raise InputError("--keep names columns of the table of patients; give that, too, with --patients")
    out = real_path(options.out)
    if out.is_relative_to(real_path(options.folder)):
        raise InputError(f"{options.out} is in the download, {options.folder}, where nothing is written; name another")
    out.mkdir(parents=True, exist_ok=True)
    earlier = sorted(path.name for path in out.glob("*.csv"))
    result = import_lgg(
        options.folder,
        out,
        voxel_mm=None if options.voxel_mm is None else tuple(options.voxel_mm),
        patients=None if options.patients is None else read_table(options.patients),
        keep=tuple(dict.fromkeys(options.keep)),
        not_missing=tuple(options.not_missing),
    )
    write_table(out / "all.csv", result.scans)
    write_table(out / "left_out.csv", result.left_out)
    for row in result.left_out.itertuples():
        say(f"left out: {' '.join(filter(None, (row.subject, row.modality)))}: {row.reason}")
    for note in result.notes:
        say(f"note: {note}")
    if result.scans.empty:
        raise InputError(f"no patient of {options.folder} could be used; reasons are in {options.out / 'left_out.csv'}")
    invented = "0.9 × 0.9 mm, 140 mm over the number of slices" if options.voxel_mm is None else "that of --voxel-mm"
    say(
        f"note: the files do not say how large voxels are and which way the head lies: voxel size is {invented}, axes "
        "are as radiologists show them; the headers have code 0 (unknown), so configs need trust: sform"
    )
    counts = ", ".join(f"{count} {name}" for name, count in result.scans["modality"].value_counts().items())
    say(f"{len(result.scans)} volumes ({counts}) → {options.out / 'all.csv'}; {len(result.left_out)} left out")
    for label in ("grade", *options.keep):
        manifest = manifest_of(result.scans, label)
        write_table(out / f"{label}.csv", manifest)
        say(f"{manifest['subject'].nunique()} patients with {label} → {options.out / f'{label}.csv'}")
    for name in earlier:
        if name.removesuffix(".csv") not in ("all", "left_out", "grade", *options.keep):
            say(f"note: {options.out / name} is of an earlier run, and was not written anew")


if __name__ == "__main__":
    show_warnings_safely()
    raise SystemExit(main(sys.argv[1:]))
