"""Exports that hang, flood or lead elsewhere: what is wrong is counted or told, and the rest is converted."""

import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.dicom_series import KEY, SLICES, converted, reasons, write_series
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from files.writing import PlantedLinkError
from intake.__main__ import main as intake
from intake.dicom import header
from intake.dicom.convert import import_dicom
from intake.dicom.series import DEFLATED, read_dicom_folder
from preprocessing.limits import Limits

PIXELS = b"\xe0\x7f\x10\x00"  # the tag
SEQUENCE = b"\x00\x52\x30\x92SQ\0\0"  # frames of an enhanced image
ITEM = b"\xfe\xff\x00\xe0"


def one(folder: Path, change: Callable[[bytes], bytes]) -> Path:
    """A folder with one image, changed."""
    write_series(folder, slices=1)
    (path,) = folder.iterdir()
    path.write_bytes(change(path.read_bytes()))
    return folder


def before_pixels(more: bytes) -> Callable[[bytes], bytes]:
    return lambda whole: whole[: whole.rindex(PIXELS)] + more + whole[whole.rindex(PIXELS) :]


def test_deflated_files_are_counted_and_not_inflated(tmp_path: Path) -> None:
    """A megabyte of it holds a gigabyte."""
    write_series(tmp_path / "in" / "a")
    for path in (tmp_path / "in" / "a").iterdir():
        image = dcmread(path)
        image.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        image.save_as(path, enforce_file_format=True)
    whole = path.read_bytes()
    packer = zlib.compressobj(9, wbits=-15)
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(512)) + packer.flush()
    path.write_bytes(whole[: whole.index(b"1.2.840.10008.1.2.1.99") + 22] + bomb)
    write_series(tmp_path / "in" / "b", patient="B")
    tracemalloc.start()
    content = read_dicom_folder(tmp_path / "in")
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
    assert dict(content.skipped) == {DEFLATED: SLICES}
    assert len(converted(tmp_path / "in").scans) == 1


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "more",
    [
        SEQUENCE + struct.pack("<I", 16_000_000) + (ITEM + bytes(4)) * 2_000_000,  # takes gigabytes once taken apart
        (SEQUENCE + b"\xff\xff\xff\xff" + ITEM + b"\xff\xff\xff\xff") * 5000,  # 5000 deep
        b"\x00\x52\x29\x92OB\0\0\xfe\xff\xff\xff",  # four gigabytes, it says
        SEQUENCE + struct.pack("<I", 30_000_000) + bytes(30_000_000),
    ],
    ids=["items", "deep", "length", "large"],
)
def test_a_header_that_floods_is_damaged(tmp_path: Path, more: bytes) -> None:
    folder = one(tmp_path / "in", before_pixels(more))
    tracemalloc.start()
    content = read_dicom_folder(folder)
    assert tracemalloc.get_traced_memory()[1] < 400e6
    tracemalloc.stop()
    assert content.series == ()
    assert sum(content.skipped.values()) == 1


def test_private_items_are_counted_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pydicom takes a private sequence of unknown length apart as it reads; a tenth of the limit, and of its memory."""
    monkeypatch.setattr(header, "MOST_ITEMS", header.MOST_ITEMS // 10)
    sequence = b"\x01\x60\x10\x10SQ\0\0\xff\xff\xff\xff" + (ITEM + bytes(4)) * 200_000
    folder = one(tmp_path / "in", before_pixels(sequence + b"\xfe\xff\xdd\xe0" + bytes(4)))
    tracemalloc.start()
    content = read_dicom_folder(folder)
    assert tracemalloc.get_traced_memory()[1] < 40e6
    tracemalloc.stop()
    assert (content.series, sum(content.skipped.values())) == ((), 1)


@pytest.mark.timeout(60)
def test_pipes_and_links_out_of_the_export_are_counted(tmp_path: Path) -> None:
    write_series(tmp_path / "elsewhere", patient="somebody else")
    write_series(tmp_path / "in" / "a")
    os.mkfifo(tmp_path / "in" / "pipe")
    (tmp_path / "in" / "zero").symlink_to("/dev/zero")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    for number, path in enumerate((tmp_path / "elsewhere").iterdir()):
        (tmp_path / "in" / f"out{number}").symlink_to(path)
    inner = tmp_path / "in" / "annex"  # as git-annex keeps them
    (tmp_path / "in" / "a").rename(inner)
    for path in inner.iterdir():
        (tmp_path / "in" / f"of {path.name}").symlink_to(path)
    content = read_dicom_folder(tmp_path / "in")
    assert dict(content.skipped) == {
        "link that leads nowhere, or special file": 2,
        "link that leads out of the folder": SLICES,
        "second copy of an image": SLICES,
    }
    assert len(content.series) == 1
    (tmp_path / "door").symlink_to(tmp_path / "in")  # the folder itself may be reached through a link
    assert len(read_dicom_folder(tmp_path / "door").series) == 1


def test_pixels_that_take_too_much_are_not_given_to_dcm2niix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """65,535 by 65,535 in a few compressed bytes."""
    write_series(tmp_path / "in" / "a")
    for path in (tmp_path / "in" / "a").iterdir():
        image = dcmread(path)
        image.compress(RLELossless, generate_instance_uid=False)
        image.Rows = image.Columns = 65535
        image.save_as(path, enforce_file_format=True)
    monkeypatch.setattr("intake.dicom.convert._run_dcm2niix", lambda *a, **b: pytest.fail("dcm2niix was started"))
    (reason,) = reasons(converted(tmp_path / "in"))
    assert "converting 12 files takes about 4.1e+02 GB of memory" in reason
    assert "set --memory-gb to" in reason


def test_what_dcm2niix_makes_is_measured_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = bytearray(352)
    for place, layout, *values in ((0, "i", 348), (40, "8h", 3, 1000, 1000, 900, 1, 1, 1, 1), (70, "hh", 4, 16)):
        struct.pack_into(f"<{layout}", header, place, *values)
    struct.pack_into("<f232x4s", header, 108, 352, b"n+1")
    (tmp_path / "header").write_bytes(header)
    program = tmp_path / "liar"
    copy = f'exec cp "{tmp_path}/header" "$2/scan.nii"'
    program.write_text(f'#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\n{copy}\n')
    program.chmod(0o755)
    monkeypatch.setattr("intake.dicom.convert.dcm2niix", SimpleNamespace(bin=str(program)))
    write_series(tmp_path / "in")
    (reason,) = reasons(converted(tmp_path / "in", limits=Limits(memory_gb=4, setting="--memory-gb")))
    assert "reading 1000x1000x900 voxels takes about 18 GB of memory" in reason


def test_what_dcm2niix_makes_may_be_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "broken"
    program.write_text('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\nexec cp "$0" "$2/scan.nii"\n')
    program.chmod(0o755)
    monkeypatch.setattr("intake.dicom.convert.dcm2niix", SimpleNamespace(bin=str(program)))
    write_series(tmp_path / "in")
    (reason,) = reasons(converted(tmp_path / "in"))
    assert reason.startswith("dcm2niix made a file that cannot be read")


@pytest.mark.parametrize(
    "script", ["head -c 2000000000 /dev/zero > $2/scan.nii && exit 0", "a=$(yes); exit 0", "yes | head -c 200000000"]
)
def test_dcm2niix_takes_no_more_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Neither disk nor memory; and what it prints is not kept."""
    program = tmp_path / "greedy"
    program.write_text(f'#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\n{script}\nexit 1\n')
    program.chmod(0o755)
    monkeypatch.setattr("intake.dicom.convert.dcm2niix", SimpleNamespace(bin=str(program)))
    monkeypatch.setattr("intake.dicom.convert.LONGEST_S", 20)
    monkeypatch.setattr("intake.dicom.convert.ITS_OWN_BYTES", 100_000_000)
    write_series(tmp_path / "in")
    tracemalloc.start()
    (reason,) = reasons(converted(tmp_path / "in", limits=Limits(memory_gb=0.1)))
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
    assert reason.startswith("dcm2niix failed with exit code")


def test_nothing_is_written_through_a_link_in_the_output(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    subject = str(import_dicom(tmp_path / "in", tmp_path / "first", key=KEY).scans["subject"][0])
    out.mkdir()
    elsewhere.mkdir()
    (out / subject).symlink_to(elsewhere)
    with pytest.raises(PlantedLinkError):
        import_dicom(tmp_path / "in", out, key=KEY)
    assert list(elsewhere.iterdir()) == []


def test_the_tables_replace_links(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "mine.txt").write_text("mine")
    for name in ("manifest.csv", "left_out.csv"):
        (tmp_path / "out" / name).symlink_to(tmp_path / "mine.txt")
    argv = ["dicom", str(tmp_path / "in"), str(tmp_path / "out"), "--key", str(tmp_path / "key")]
    assert intake([*argv, "--memory-gb", "4"]) == 0
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert (tmp_path / "out" / "manifest.csv").read_text().startswith("subject,session,modality,path")
    for value in ("0", "-1", "nan", "inf"):
        assert intake([*argv, "--memory-gb", value]) == 2
