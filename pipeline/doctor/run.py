"""The doctor's checks of what is run: weights, exported model, manifest, and a smoke run of the real networks."""

import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd
import torch

from cohort.manifest import ManifestError, check_manifest, read_table, usable_rows
from cohort.splits import SPLITS
from console.errors import InputError
from devices.precision import half_precision
from intake.breakhis import breakhis_manifest
from models.backbone import SLICE_SIZE, load_backbone, pool_slices
from models.extractor import UniversalExtractor
from models.set_classifier import SetClassifier
from models.weights import PUBLISHED, WeightsError, present_weights
from pipeline.core.runtime import Runtime
from pipeline.deployment.bundle import Bundle
from pipeline.doctor.checks import CheckContext, Finding, without_names
from pipeline.settings import Settings
from pipeline.stages.predict import check_settings
from pipeline.store.features import FeatureStore
from preprocessing.parameters import ParametersError, numbers_of, parameter_file, read_parameters
from preprocessing.skull_strip import SkullStripper

SMOKE_VOXELS = 64  # sides of the volume; HD-BET takes 0.9 s for it on one core, and 7 s for a head
SMOKE_SLICES = 2


def backbone_weights(patient: CheckContext) -> Iterator[Finding]:
    """The configured backbone's file is there and the published one. Nothing is downloaded to find out."""
    config = patient.config.features
    if config.weights == "random":
        yield Finding("ok", f"weights of {config.backbone} are drawn at random, as features.weights says")
    elif config.backbone.startswith("timm:"):
        from models.weights import weights_identity

        words = f"{config.backbone}: timm finds its weights itself ({weights_identity(config.backbone)})"
        yield Finding("warn", words, "whether they are there, only a run will tell")
    else:
        try:
            path = config.weights if isinstance(config.weights, Path) else None
            found = present_weights(PUBLISHED[config.backbone], path)
        except WeightsError as error:
            patient.broken.add("backbone")
            yield Finding("fail", f"weights of {config.backbone}: {error}", "see the recipe in this line")
            return
        yield Finding("ok", f"weights of {config.backbone}: {found}, {found.stat().st_size / 1e6:.0f} MB, as published")


def hd_bet_parameters(patient: CheckContext) -> Iterator[Finding]:
    """The parameter files of the configured mode are there and the published ones."""
    if not needs_stripping(patient):
        yield Finding("ok", "HD-BET: not needed, no modality is skull-stripped here")
        return
    config = patient.config.preprocess
    folder = config.weights if isinstance(config.weights, Path) else None
    numbers = numbers_of(config.skull_strip_mode)
    try:
        for number in numbers:
            read_parameters(number, folder)
    except ParametersError as error:
        patient.broken.add("HD-BET")
        yield Finding("fail", f"HD-BET: {error}", "see the end of this line")
        return
    names = ", ".join(f"{number}.model" for number in numbers)
    yield Finding(
        "ok", f"HD-BET ({config.skull_strip_mode}): {names} in {parameter_file(0, folder).parent}, as published"
    )


def needs_stripping(patient: CheckContext) -> bool:
    """Whether any modality goes through HD-BET."""
    return any(m.kind == "volume" and m.skull_strip for m in patient.config.cohort.modalities.values())


def model(patient: CheckContext) -> Iterator[Finding]:
    """The exported model, if one is given, is whole, and the settings are those that it was trained with."""
    folder = patient.config.predict.model
    if folder is None:
        return
    try:
        bundle = Bundle.read(folder, patient.config.predict.trusted)
    except InputError as error:
        yield Finding("fail", f"model: {error}", "give --model a whole copy of the folder that --stages export made")
        return
    patient.bundle = bundle
    classes, known = ", ".join(bundle.classes), ", ".join(bundle.trained)
    words = f"model {bundle.name} {bundle.version}: classes {classes}; modalities {known}"
    if untaught := [name for name in bundle.modalities if name not in bundle.trained]:
        words += f" (of {', '.join(untaught)} it has learnt nothing)"
    try:
        check_settings(patient.config)
    except InputError as error:
        yield Finding("fail", f"{words}; but {error}", "let the model bring its own settings")
        return
    yield Finding("ok", words)


def manifest(patient: CheckContext) -> Iterator[Finding]:
    """The manifest, if one is given, has no problems. The files that it names are looked for, not into."""
    path = patient.config.cohort.manifest
    if not isinstance(path, Path):
        remedy = "" if path else "--cohort my_cohort.csv"
        yield Finding("ok" if path else "warn", f"manifest: {path or 'none is given'}", remedy)
        return
    try:
        scans, left_out = _scans(path, patient.config)
    except ManifestError as error:
        count, first = len(error.problems), without_names(error.problems[0])
        words = f"manifest {path}: {count} problem{'s' if count > 1 else ''}, the first: {first}"
        balanced = first.startswith("cohort.balanced")
        yield Finding("fail", words, "mend cohort.balanced" if balanced else "mend the manifest; --stages cohort "
                      "lists all")  # fmt: skip
        return
    except OSError as error:  # its own words may name a scan
        yield Finding("fail", f"manifest {path}: cannot be read: {error.strerror}", "mend the rights, or the disk")
        return
    kinds = ", ".join(f"{count} {name}" for name, count in Counter(scan["modality"] for scan in scans).items())
    people = len({scan["subject"] for scan in scans})
    words = f"manifest {path}: {len(scans)} scans of {people} subjects" + (f" ({kinds})" if kinds else "")
    if left_out:
        words += f"; {len(left_out)} of {len(scans) + len(left_out)} rows would be left out ({_counted(left_out)})"
        yield Finding("warn", words, "a run goes on without them, and names them in failures.csv")
    elif not scans:
        yield Finding("warn", words, "there is nobody to answer for; is it the right file?")
    else:
        yield Finding("ok", words)


def _scans(path: Path, config: Settings) -> tuple[list[dict[str, str]], list[str]]:
    """The scans that a run would begin with, and why each other row would be left out.

    Raises:
        ManifestError: a run would be refused.
        OSError: a folder cannot be read.
    """
    table, folder = _table(path, config), path if path.is_dir() else path.parent
    if config.cohort.label is not None:
        checked = check_manifest(table, folder=folder, config=config.cohort, smallest_class=len(SPLITS))
        return checked.to_dict("records"), []
    table, unusable = usable_rows(table, folder=folder, config=config.cohort)
    left_out = [row["reason"] for row in unusable]
    if table.empty:
        return [], left_out
    scans = check_manifest(table, folder=folder, config=config.cohort, smallest_class=len(SPLITS)).to_dict("records")
    there = [scan for scan in scans if os.path.exists(scan["path"])]  # those that are not, `preprocess` leaves out
    return there, left_out + ["there is no file"] * (len(scans) - len(there))


def _table(path: Path, config: Settings) -> pd.DataFrame:
    """The manifest, or what the file names of a folder say.

    Raises:
        ManifestError: it cannot be read, or has not the patients asked for.
    """
    if config.cohort.layout == "table":
        return read_table(path)
    names = sorted(p.relative_to(path).as_posix() for p in path.rglob("*.png"))
    try:
        return breakhis_manifest(names, balanced=config.cohort.balanced).scans.reset_index(drop=True)
    except ValueError as error:
        raise ManifestError(f"cohort.balanced: {error}") from error


def _counted(reasons: Iterable[str]) -> str:
    """How many rows for each kind of reason, without their cells."""
    kinds = Counter(re.sub(r"row \d+", "another row", without_names(reason)) for reason in reasons)
    return ", ".join(f"{count}: {kind}" for kind, count in kinds.most_common())


def smoke_run(patient: CheckContext) -> Iterator[Finding]:
    """The real networks on a small scan, on the chosen device, with a file written and read in a temporary folder."""
    started = time.monotonic()
    asked, whole = patient.config.predict.model is not None, patient.bundle is not None
    parts = ["backbone and set model" if not asked else "backbone and exported model" if whole else "backbone"]
    parts[0] += " (drawn weights)" if "backbone" in patient.broken else ""
    try:
        device = Runtime(stage="", key="", device_name=patient.device, workspace=Path()).device
    except InputError as error:
        yield Finding("fail", f"smoke run: {error}", "leave --device away")
        return
    if needs_stripping(patient) and "HD-BET" not in patient.broken:
        _strip(patient, device)
        parts.insert(0, "HD-BET")
    feature_map = _feature_map(patient, device)
    with tempfile.TemporaryDirectory() as folder:
        feature_map = _written_and_read(feature_map, Path(folder))
    if patient.bundle is not None:
        _answer(patient.bundle, feature_map, device)
    elif not asked:
        _classify(patient, feature_map, device)
    yield Finding("ok", f"smoke run on {device}: {', '.join(parts)} gave finite numbers in "
                  f"{time.monotonic() - started:.1f} s")  # fmt: skip


def _strip(patient: CheckContext, device: torch.device) -> None:
    config = patient.config.preprocess
    stripper = SkullStripper(
        "fast",
        device=device,
        precision=config.precision,
        parameters=config.weights if isinstance(config.weights, Path) else None,
    )
    random = torch.Generator().manual_seed(0)
    volume = torch.randn(1, 1, *[SMOKE_VOXELS] * 3, generator=random).to(device, stripper.dtype)
    with torch.inference_mode():
        _finite("HD-BET", stripper.networks[0](volume.contiguous(memory_format=torch.channels_last_3d)))


def _feature_map(patient: CheckContext, device: torch.device) -> torch.Tensor:
    config = patient.config.features
    drawn = config.weights == "random" or "backbone" in patient.broken
    backbone = load_backbone(
        config.backbone,
        weights=config.weights if isinstance(config.weights, Path) and not drawn else None,
        random_seed=config.random_seed if drawn else None,
    )
    if config.precision == "auto":
        backbone.layers.to(half_precision(device))
    slices = torch.rand(SMOKE_SLICES, SLICE_SIZE, SLICE_SIZE, generator=torch.Generator().manual_seed(0))
    feature_map = pool_slices(backbone.to(device), slices, batch_slices=SMOKE_SLICES, name="the smoke run").cpu()
    _finite(f"backbone {config.backbone}", feature_map)
    return feature_map


def _written_and_read(feature_map: torch.Tensor, folder: Path) -> torch.Tensor:
    feature_maps = FeatureStore(folder)
    feature_maps.save("smoke", feature_map)
    feature_maps.finish("smoke", "smoke", {})
    read = feature_maps.load(["smoke"])[0]
    if not torch.equal(read, feature_map):
        raise RuntimeError(f"a feature map written to {folder} came back different; the disk or the memory is faulty")
    return read


def _classify(patient: CheckContext, feature_map: torch.Tensor, device: torch.device) -> None:
    config = patient.config
    torch.manual_seed(0)
    channels, height, width = feature_map.shape
    extractor = UniversalExtractor(
        len(config.cohort.modalities), (channels, height, width), embedding=config.pretrain.embedding,
        hidden=config.pretrain.hidden, initialisation=config.pretrain.initialisation,
    ).to(device)  # fmt: skip
    classifier = SetClassifier(feature_map.numel(), 2, hidden=config.classify.hidden, how=config.classify.aggregate).to(
        device
    )
    modality = torch.arange(len(config.cohort.modalities), device=device)
    with torch.inference_mode():
        features = extractor(feature_map.to(device).expand(len(modality), -1, -1, -1), modality).flatten(1)
        _finite("set model", classifier(features, torch.zeros_like(modality), 1))


def _answer(bundle: Bundle, feature_map: torch.Tensor, device: torch.device) -> None:
    expected = tuple(bundle.network_arguments["feature_map_shape"])
    if tuple(feature_map.shape) != expected:
        raise InputError(
            f"the backbone gives feature maps {tuple(feature_map.shape)}, the model {bundle.name} reads {expected}"
        )
    modality = torch.tensor([bundle.modalities.index(name) for name in bundle.trained], device=device)
    with torch.inference_mode():
        feature_maps = feature_map.to(device).expand(len(modality), -1, -1, -1)
        _finite(
            f"model {bundle.name}", bundle.network().to(device)(feature_maps, modality, torch.zeros_like(modality), 1)
        )


def _finite(what: str, numbers: torch.Tensor) -> None:
    if not numbers.isfinite().all():
        raise RuntimeError(f"{what} gave numbers that are not finite; try --device cpu, or precision fp32")


CHECKS = (backbone_weights, hd_bet_parameters, model, manifest, smoke_run)
