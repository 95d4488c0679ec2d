"""The way in and out for others' folders: DICOM or BIDS to a manifest, preprocessed scans to BIDS derivatives.

python -m pipeline.intake dicom EXPORT OUT --key FILE [--patients CSV --keep diagnosis] [--name T1w=MRI …]
python -m pipeline.intake pseudonym ID [ID …] --key FILE
python -m pipeline.intake bids DATASET MANIFEST.csv [--label diagnosis] [--name T1w=MRI …]
python -m pipeline.intake derivatives WORKSPACE OUT [--kind MRI=T1w …]
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from files.writing import write_table
from pipeline.runtime import InputError


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(
        prog="python -m pipeline.intake", description="DICOM or BIDS to a manifest; preprocessed scans to BIDS."
    )
    ways = options.add_subparsers(dest="way", required=True, metavar="dicom|pseudonym|bids|derivatives")
    way = ways.add_parser("dicom", help="convert a folder of DICOM files; patients get pseudonyms")
    way.add_argument("export", type=Path, help="folder of DICOM files; nothing is written there")
    way.add_argument("out", type=Path, help="where volumes, manifest.csv and left_out.csv go")
    way.add_argument("--key", type=Path, required=True, help="file of the secret key; made if it is not there")
    way.add_argument("--patients", type=Path, help="CSV with patient_id, as in DICOM, and the columns to keep")
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
    way.add_argument("--key", type=Path, required=True, help="file of the secret key")
    way = ways.add_parser("bids", help="write the manifest of a BIDS data set")
    way.add_argument("dataset", type=Path)
    way.add_argument("manifest", type=Path, help="CSV to write")
    way.add_argument("--label", default="diagnosis", help="column of participants.tsv with the class")
    way.add_argument("--runs", choices=("first", "last", "all"), default="first", help="which runs of a scan")
    _names(way)
    way = ways.add_parser("derivatives", help="copy the preprocessed scans of a run into BIDS derivatives")
    way.add_argument("workspace", type=Path)
    way.add_argument("out", type=Path, help="folder to make; must not be there")
    way.add_argument("--kind", action="append", default=[], metavar="MRI=T1w", help="what BIDS calls a modality")
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
    from cohort.manifest import ManifestError
    from preprocessing.errors import ScanError
    from preprocessing.pseudonyms import KeyFileError

    options = parser().parse_args(words)
    try:
        {"dicom": dicom, "pseudonym": pseudonyms, "bids": bids, "derivatives": derivatives}[options.way](options)
    except (InputError, ManifestError, ScanError, KeyFileError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
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
        print(f"note: made a new key, {options.key}; pseudonyms of other keys do not agree with its own")
    patients = None if options.patients is None else read_table(options.patients)
    if options.memory_gb is not None and not 0 < options.memory_gb < 1e6:
        raise InputError(
            f"--memory-gb {options.memory_gb:g}: expected the GB of memory that a series may take, such as 8"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    found = import_dicom(
        options.export,
        options.out,
        key=key,
        config=config,
        patients=patients,
        keep=options.keep,
        limits=Limits(memory_gb=options.memory_gb, setting="--memory-gb"),
    )
    write_table(options.out / "manifest.csv", found.scans)
    write_table(options.out / "left_out.csv", found.left_out)
    counts = ", ".join(f"{count} {name}" for name, count in found.scans["modality"].value_counts().items())
    print(f"{len(found.scans)} volumes{f' ({counts})' if counts else ''} → {options.out / 'manifest.csv'}")
    print(f"{len(found.left_out)} series left out, with reasons → {options.out / 'left_out.csv'}")
    for reason, count in found.skipped.items():
        print(f"{count} files skipped: {reason}")
    for note in found.notes:
        print(f"note: {note}")


def pseudonyms(options: argparse.Namespace) -> None:
    """Print the pseudonym of each patient id."""
    from preprocessing.pseudonyms import pseudonym, read_or_make_key

    if not options.key.exists():
        raise InputError(f"there is no key file {options.key}")
    key = read_or_make_key(options.key, outside=[])
    for patient in options.patients:
        print(f"{patient} {pseudonym(patient, key)}")


def bids(options: argparse.Namespace) -> None:
    """A BIDS data set to a manifest, with absolute paths."""
    from cohort.bids import read_bids

    found = read_bids(options.dataset, label=options.label, runs=options.runs, names=_pairs(options.name) or None)
    scans = found.scans.assign(path=[str((options.dataset / path).resolve()) for path in found.scans["path"]])
    scans.to_csv(options.manifest, index=False, lineterminator="\n")
    print(f"{len(scans)} scans → {options.manifest}")
    for row in found.left_out.itertuples():
        print(f"left out: {' '.join(filter(None, (row.subject, row.session, row.path)))}: {row.reason}")


def derivatives(options: argparse.Namespace) -> None:
    """The preprocessed volumes and masks of a finished run as BIDS derivatives."""
    from cohort.bids_derivatives import bids_derivatives
    from pipeline.artifacts import CohortTables, VolumeSet

    tables, volumes = CohortTables(options.workspace / "cohort"), VolumeSet(options.workspace / "preprocess")
    manifest = volumes.manifest
    if manifest is None:
        raise InputError(f"{volumes.folder} is not finished; run --stages preprocess first")
    if options.out.exists():
        raise InputError(f"{options.out} is there already; name a folder that is not")
    places = {scan: volumes.place(scan) for scan in volumes.scans()}
    whole = {scan: place for scan, place in places.items() if (place / "volume.nii.gz").exists()}
    laid_out = bids_derivatives(
        tables.scans(),
        volumes={scan: place / "volume.nii.gz" for scan, place in whole.items()},
        masks={scan: place / "mask.nii.gz" for scan, place in whole.items()},
        spacing_mm=manifest["made_from"]["settings"]["spacing_mm"],
        version=manifest["git_commit"],
        kinds=_pairs(options.kind) or None,
    )
    for target, source in laid_out.copies.items():
        (options.out / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, options.out / target)
    for target, text in laid_out.texts.items():
        (options.out / target).parent.mkdir(parents=True, exist_ok=True)
        (options.out / target).write_text(text, "utf-8")
    print(f"{len(laid_out.copies)} files → {options.out}")


def _pairs(given: list[str]) -> dict[str, str]:
    pairs = dict(word.split("=", 1) for word in given if "=" in word)
    if len(pairs) != len(given):
        raise InputError(f"{given}: expected words such as T1w=MRI, each name once")
    return pairs


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
