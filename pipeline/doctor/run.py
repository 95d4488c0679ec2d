"""Checks of the inputs of a run: weights, exported model, manifest, and a smoke run of the networks."""

import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch

from cohort.manifest import check_manifest, drop_unusable
from cohort.splits import SPLITS
from cohort.tables import ManifestError
from console.errors import InputError
from models.backbone import SLICE_SIZE, load_backbone, make_ready, pool_slices
from models.extractor import UniversalExtractor
from models.hypermm import new_classifier
from models.weights import PUBLISHED, WeightsError, present_weights
from pipeline.core.runtime import Runtime
from pipeline.deployment.bundle import Bundle
from pipeline.doctor.checks import CheckContext, Finding
from pipeline.settings import Settings
from pipeline.stages.cohort import read_manifest
from pipeline.stages.predict import check_settings
from pipeline.store.features import FeatureStore
from preprocessing.parameters import ParametersError, numbers_of, parameter_file, read_parameters
from preprocessing.skull_strip import SkullStripper

SMOKE_VOXELS = 64  # sides of the volume; HD-BET takes 0.9 s for it on one core, and 7 s for a head
SMOKE_SLICES = 2


def backbone_weights(context: CheckContext) -> Iterator[Finding]:
    """Check that the file of the backbone is present and as published; nothing is downloaded."""
    config = context.config.features
    if config.weights == "random":
        yield Finding("ok", f"weights of {config.backbone} are random, as features.weights says")
    elif config.backbone.startswith("timm:"):
        from models.weights import weights_identity

        message = f"{config.backbone}: timm finds its weights itself ({weights_identity(config.backbone)})"
        yield Finding("warn", message, "only a run will show whether they are present")
    else:
        try:
            path = config.weights if isinstance(config.weights, Path) else None
            weights_file = present_weights(PUBLISHED[config.backbone], path)
        except WeightsError as error:
            context.broken.add("backbone")
            yield Finding("fail", f"weights of {config.backbone}: {error}", "see the recipe in this line")
            return
        yield Finding(
            "ok",
            f"weights of {config.backbone}: {weights_file}, {weights_file.stat().st_size / 1e6:.0f} MB, as published",
        )


def hd_bet_parameters(context: CheckContext) -> Iterator[Finding]:
    """Check that the parameter files of HD-BET are present and as published."""
    if not needs_stripping(context):
        yield Finding("ok", "HD-BET: not needed, no modality is skull-stripped here")
        return
    config = context.config.preprocess
    folder = config.weights if isinstance(config.weights, Path) else None
    numbers = numbers_of(config.skull_strip_mode)
    try:
        for number in numbers:
            read_parameters(number, folder)
    except ParametersError as error:
        context.broken.add("HD-BET")
        yield Finding("fail", f"HD-BET: {error}", "see the end of this line")
        return
    names = ", ".join(f"{number}.model" for number in numbers)
    yield Finding(
        "ok", f"HD-BET ({config.skull_strip_mode}): {names} in {parameter_file(0, folder).parent}, as published"
    )


def needs_stripping(context: CheckContext) -> bool:
    """Return whether any modality is skull-stripped with HD-BET."""
    return any(m.kind == "volume" and m.skull_strip for m in context.config.cohort.modalities.values())


def model(context: CheckContext) -> Iterator[Finding]:
    """Check that the exported model, if given, is complete and was trained with these settings."""
    folder = context.config.predict.model
    if folder is None:
        return
    try:
        bundle = Bundle.read(folder, context.config.predict.trusted)
    except InputError as error:
        yield Finding("fail", f"model: {error}", "give --model a complete copy of the folder that --stages export made")
        return
    context.bundle = bundle
    classes, known = ", ".join(bundle.classes), ", ".join(bundle.trained)
    message = f"model {bundle.name} {bundle.version}: classes {classes}; modalities {known}"
    if untrained := [name for name in bundle.modalities if name not in bundle.trained]:
        message += f" (no training scans of {', '.join(untrained)})"
    try:
        check_settings(context.config)
    except InputError as error:
        yield Finding(
            "fail", f"{message}; but {error}", "leave out --config, so that the settings of the model are used"
        )
        return
    yield Finding("ok", message)


def manifest(context: CheckContext) -> Iterator[Finding]:
    """Check the manifest, if given, and that its files exist; they are not opened."""
    path = context.config.cohort.manifest
    if not isinstance(path, Path):
        remedy = "" if path else "--cohort my_cohort.csv"
        yield Finding("ok" if path else "warn", f"manifest: {path or 'none is given'}", remedy)
        return
    try:
        scans, left_out = _scans(path, context.config)
    except ManifestError as error:
        count, first = len(error.problems), error.problems[0].anonymous
        message = f"manifest {path}: {count} problem{'s' if count > 1 else ''}, the first: {first}"
        remedy = "correct the manifest; --stages cohort lists all"
        if first.startswith("cohort.balanced"):
            remedy = "correct cohort.balanced"
        elif isinstance(error.__cause__, OSError):
            remedy = "correct the path or the permissions, or check the disk"
        yield Finding("fail", message, remedy)
        return
    kinds = ", ".join(f"{count} {name}" for name, count in Counter(scan["modality"] for scan in scans).items())
    people = len({scan["subject"] for scan in scans})
    message = f"manifest {path}: {len(scans)} scans of {people} subjects" + (f" ({kinds})" if kinds else "")
    if left_out:
        reasons = ", ".join(f"{count}: {kind}" for kind, count in Counter(left_out).most_common())
        message += f"; {len(left_out)} of {len(scans) + len(left_out)} rows would be left out ({reasons})"
        yield Finding("warn", message, "a run continues without them and lists them in failures.csv")
    elif not scans:
        yield Finding("warn", message, "there are no patients to predict for; is it the right file?")
    else:
        yield Finding("ok", message)


def _scans(path: Path, config: Settings) -> tuple[list[dict[str, str]], list[str]]:
    """Return the scans of the manifest, and why each other row would be left out, without its cells.

    Raises:
        ManifestError: a run would be refused.
    """
    table, unreadable, _ = read_manifest(path, config.cohort)
    folder = path if path.is_dir() else path.parent
    if config.cohort.label is not None:
        checked = check_manifest(table, folder=folder, config=config.cohort, smallest_class=len(SPLITS))
        return checked.to_dict("records"), []
    table, problems = drop_unusable(table, folder=folder, config=config.cohort)
    left_out = [problem.kind for problem in (*unreadable, *problems.values())]
    if table.empty:
        return [], left_out
    scans = check_manifest(table, folder=folder, config=config.cohort, smallest_class=len(SPLITS)).to_dict("records")
    existing = [
        scan for scan in scans if scan["kind"] == "table" or os.path.exists(scan["path"])
    ]  # the stage preprocess leaves the others out
    return existing, left_out + ["its file is not there"] * (len(scans) - len(existing))


def smoke_run(context: CheckContext) -> Iterator[Finding]:
    """Run the networks on a small scan on the chosen device; write and read a file in a temporary folder."""
    started = time.monotonic()
    has_model, readable = context.config.predict.model is not None, context.bundle is not None
    networks = [
        "backbone and set model" if not has_model else "backbone and exported model" if readable else "backbone"
    ]
    networks[0] += " (random weights)" if "backbone" in context.broken else ""
    try:
        device = Runtime(stage="", key="", device_name=context.device, workspace=Path()).device
    except InputError as error:
        yield Finding("fail", f"smoke run: {error}", "leave out --device")
        return
    if needs_stripping(context) and "HD-BET" not in context.broken:
        _strip(context, device)
        networks.insert(0, "HD-BET")
    feature_map = _feature_map(context, device)
    with tempfile.TemporaryDirectory() as folder:
        feature_map = _written_and_read(feature_map, Path(folder))
    if context.bundle is not None:
        _predict(context.bundle, feature_map, device)
    elif not has_model:
        _classify(context, feature_map, device)
    yield Finding("ok", f"smoke run on {device}: {', '.join(networks)} gave finite numbers in "
                  f"{time.monotonic() - started:.1f} s")  # fmt: skip


def _strip(context: CheckContext, device: torch.device) -> None:
    config = context.config.preprocess
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


def _feature_map(context: CheckContext, device: torch.device) -> torch.Tensor:
    config = context.config.features
    use_random = config.weights == "random" or "backbone" in context.broken
    backbone = load_backbone(
        config.backbone,
        weights=config.weights if isinstance(config.weights, Path) and not use_random else None,
        random_seed=config.random_seed if use_random else None,
    )
    make_ready(backbone, device, config.precision)
    slices = torch.rand(SMOKE_SLICES, SLICE_SIZE, SLICE_SIZE, generator=torch.Generator().manual_seed(0))
    feature_map = pool_slices(backbone, slices, batch_slices=SMOKE_SLICES, name="the smoke run").cpu()
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


def _classify(context: CheckContext, feature_map: torch.Tensor, device: torch.device) -> None:
    config = context.config
    torch.manual_seed(0)
    channels, height, width = feature_map.shape
    extractor = UniversalExtractor(
        len(config.cohort.modalities), (channels, height, width), embedding=config.pretrain.embedding,
        hidden=config.pretrain.hidden, initialisation=config.pretrain.initialisation,
    ).to(device)  # fmt: skip
    shape = (channels, height, width)
    classifier = new_classifier(config.classify.step, feature_map_shape=shape, classes=2, seed=0).to(device)
    modality = torch.arange(len(config.cohort.modalities), device=device)
    with torch.inference_mode():
        features = extractor(feature_map.to(device).expand(len(modality), -1, -1, -1), modality).flatten(1)
        _finite("set model", classifier(features, torch.zeros_like(modality), 1))


def _predict(bundle: Bundle, feature_map: torch.Tensor, device: torch.device) -> None:
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
