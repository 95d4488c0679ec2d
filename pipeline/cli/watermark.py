"""Make the key of a watermark, and look for its mark in images.

python -m pipeline.cli.watermark new KEYFILE                makes a key, for its owner alone
python -m pipeline.cli.watermark verify FILES --key KEYFILE prints z and p of each image, and what was found

FILES are volumes (NIfTI, MGH, MetaImage, NRRD), pictures (PNG, JPEG, TIFF), single DICOM files, or folders of DICOM
files. docs/watermark.md explains the figures.

exit codes of verify: 0 every image carries the mark; 3 some do not; 2 some cannot be read, or the key cannot be used
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from console.errors import InputError
from console.exit_codes import BAD_INPUT, DONE, SOME_SCANS_FAILED, exit_code
from console.messages import make_streams_safe, say, show_warnings_safely
from console.parser import Parser, typed_path
from files.reading import UnusableFileError, read_bytes
from intake.dicom.convert import convert_series
from intake.dicom.images import slice_positions
from intake.dicom.series import Series, read_dicom_folder
from intake.dicom.verify import verified
from intake.pseudonyms import read_or_make_key
from pipeline.store.marking import existing_key
from preprocessing.errors import MemoryLimitError, ScanError
from preprocessing.picture_files import PICTURE_SUFFIXES
from preprocessing.pictures import read_picture
from preprocessing.space import FORMS, Form
from preprocessing.volumes import DETACHED_SUFFIXES, ITK_SUFFIXES, NIBABEL_SUFFIXES, read_volume
from synthesis.mark_detection import Found, detect
from synthesis.mark_views import Image, image_of_picture, image_of_volume

DEFAULT_BATCH = "1"
MOST_P = 1e-3  # at which an image counts as marked
MOST_DICOM = 4_000_000_000  # bytes of a single file
VOLUME_SUFFIXES = (*NIBABEL_SUFFIXES, *ITK_SUFFIXES, *DETACHED_SUFFIXES)


def parser() -> Parser:
    """Return the parser of the options."""
    options = Parser(
        prog="python -m pipeline.cli.watermark",
        description="Make the key of a watermark, and look for its mark in images.",
    )
    ways = options.add_subparsers(dest="way", required=True, metavar="new|verify")
    way = ways.add_parser("new", help="make a key, for its owner alone")
    way.add_argument("key", type=typed_path, metavar="KEYFILE", help="file to make; must not exist yet")
    way = ways.add_parser(
        "verify",
        help="print z and p of images",
        epilog="exit codes: 0 every image carries the mark; 3 some do not; 2 some cannot be read, or the key cannot be "
        "used",
    )
    way.add_argument("files", nargs="+", type=typed_path, metavar="FILE", help="image, or folder of DICOM files")
    way.add_argument("--key", type=typed_path, required=True, metavar="KEYFILE", help="file of the secret key")
    way.add_argument(
        "--batch",
        action="append",
        metavar="NAME",
        help=f"what was marked together; may be given again; default {DEFAULT_BATCH}",
    )
    way.add_argument("--fast", action="store_true", help="only as the image lies: not turned, mirrored or resized")
    way.add_argument("--trust", choices=FORMS, help="affine of NIfTIs to use where sform and qform contradict")
    return options


def main(argv: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    return exit_code(lambda: _run(argv))


def _run(argv: Sequence[str]) -> int:
    options = parser().parse_args(argv)
    return _new(options.key) if options.way == "new" else _verify(options)


def _new(path: Path) -> int:
    if os.path.lexists(path):
        raise InputError(f"{path} exists already; no key is overwritten, since its marks could not be shown any more")
    read_or_make_key(path, outside=[])
    say(f"made {path}; keep it: without it no mark can be shown, and whoever has it can mark and unmark")
    return DONE


def _verify(options: argparse.Namespace) -> int:
    key = existing_key(options.key)
    batches = list(dict.fromkeys(options.batch or [DEFAULT_BATCH]))
    marked, without, unread = 0, 0, 0
    for path in options.files:
        for name, image, problem in images_of(path, options.trust):
            if image is None:
                say(f"{name}: cannot be read: {problem}", file=sys.stderr)
                unread += 1
                continue
            found = detect(image, key, batches, thorough=not options.fast)
            say(f"{name}: {sentence(found)}")
            marked, without = marked + (found.p <= MOST_P), without + (found.p > MOST_P)
    say(f"{marked} marked, {without} without a mark of this key{f', {unread} not read' if unread else ''}")
    return BAD_INPUT if unread else SOME_SCANS_FAILED if without else DONE


def sentence(found: Found) -> str:
    """Return z, p and the conclusion in words."""
    how = f" ({found.how})" if found.how and found.p <= MOST_P else ""
    p = f"{found.p:.2g}" if found.p > 0 else "< 1e-300"
    return f"z = {found.z:.1f}, p = {p}: {'marked' if found.p <= MOST_P else 'no mark of this key'}{how}"


def images_of(path: Path, trust: Form | None) -> Iterator[tuple[str, Image | None, str]]:
    """Yield the name, the image or None, and why it cannot be read, of everything at a path."""
    name = path.name.lower()
    try:
        if path.is_dir():
            yield from _series_below(path)
        elif name.endswith(VOLUME_SUFFIXES):
            volume = read_volume(path, trust=trust)
            yield str(path), image_of_volume(volume[0].numpy(), volume.affine.numpy()), ""
        elif name.endswith(PICTURE_SUFFIXES):
            yield str(path), image_of_picture(read_picture(path).pixels), ""
        else:
            yield from _single_dicom(path)
    except (ScanError, MemoryLimitError, UnusableFileError) as error:
        yield str(path), None, str(error)
    except OSError as error:
        yield str(path), None, f"{error.strerror or error}"


def _single_dicom(path: Path) -> Iterator[tuple[str, Image | None, str]]:
    """Read a file that may be DICOM with many frames, through a folder of its own."""
    content = read_bytes(path, most=MOST_DICOM)
    with tempfile.TemporaryDirectory(prefix="mark-") as folder:
        Path(folder, "image").write_bytes(content)
        for _, image, problem in _series_below(Path(folder)):
            other = "no image read here; expected NIfTI, MGH, MetaImage, NRRD, PNG, JPEG, TIFF or DICOM"
            yield str(path), image, other if problem == NO_SERIES else problem


NO_SERIES = "no series of DICOM images in this folder"


def _series_below(folder: Path) -> Iterator[tuple[str, Image | None, str]]:
    series = read_dicom_folder(folder).series
    if not series:
        yield str(folder), None, NO_SERIES
    for place, each in enumerate(series, start=1):
        name = f"{folder}, series {each.number if each.number is not None else place}"
        try:
            yield name, _image_of_series(each), ""
        except (ScanError, MemoryLimitError) as error:
            yield name, None, str(error)


def _image_of_series(series: Series) -> Image:
    """Convert a series, as the intake does, and compare it with its files."""
    if series.damaged:
        raise ScanError(f"{series.damaged} of its images are cut short; export the series again")
    positions, counts = slice_positions(series.images)
    if not positions or len(set(counts)) > 1 or counts[0] != 1:
        raise ScanError("its images make no single volume: slices are missing, repeated or without a position")
    voxels, affine = convert_series(series.images, slices=len(positions))
    volume = verified(voxels, affine, series.images)
    return image_of_volume(volume.voxels, volume.affine)


if __name__ == "__main__":
    make_streams_safe()
    show_warnings_safely()
    raise SystemExit(main(sys.argv[1:]))
