"""Pack the model of one repeat, with all that its use needs, into one folder: a MONAI Bundle."""

from collections.abc import Iterator
from typing import Any

from console.errors import PreconditionError
from evaluation.intervals import summarise
from models.onnx_graph import largest_difference, onnx_graph
from models.set_model import SetModel
from pipeline.core.runtime import Runtime
from pipeline.deployment.bundle import Bundle, BundleFolder, strictest
from pipeline.deployment.bundle_writer import Export, write_bundle
from pipeline.deployment.calibration_set import (
    CALIBRATION_SPLITS,
    CalibrationSet,
    change_facts,
    conformal_facts,
    outlier_facts,
    read_calibration_set,
    temperature_facts,
)
from pipeline.deployment.model_card import Trained, model_card
from pipeline.deployment.signing import key_fingerprint
from pipeline.specs.export import ExportConfig
from pipeline.stages.classify import refuse_leak
from pipeline.stages.cohort import UNREADABLE
from pipeline.store.features import FeatureStore
from pipeline.store.fitted import ClassifierSet, ExtractorSet
from pipeline.store.tables import CohortTables, SplitTables
from pipeline.store.volumes import VolumeSet
from pipeline.training.repeat_data import RepeatData, data_of_repeat, repeats_of
from pipeline.training.scores import as_scored

CLOSE = 1e-4  # logits of the ONNX graph and of torch


def export(
    cohort: CohortTables,
    split: SplitTables,
    preprocess: VolumeSet,
    features: FeatureStore,
    pretrain: ExtractorSet,
    classify: ClassifierSet,
    run_name: str,
    out: BundleFolder,
    config: ExportConfig,
    runtime: Runtime,
) -> None:
    """Write the folder `bundle`.

    Raises:
        Refused: there is no such repeat.
    """
    record, repeats = _record(pretrain, split, config.repeat)
    trained = tuple(record["modalities_trained"])
    usable = _readable(data_of_repeat(cohort, split, features, config.repeat), trained)
    network = _network_arguments(pretrain, classify, config.repeat)
    model = _model(network, pretrain, classify, config.repeat)
    with read_calibration_set(model, usable, features, runtime, memory_mb=config.memory_mb) as held_out:
        calibration, references = _calibration(held_out, usable, features, trained, config)
    model.cpu()
    onnx, no_onnx = _onnx(model, usable, features, calibration["temperature"]["value"])
    roles = _roles(usable, config)
    prepared: dict[str, Any] = {"preprocess": preprocess, "features": features}
    material = Export(
        name=config.name or run_name,
        version=config.version,
        authors=config.authors,
        copyright=config.copyright,
        classes=usable.classes,
        modalities=usable.modalities,
        trained=trained,
        network=network,
        kinds=_settings_of(cohort)["modalities"],
        settings={name: _settings_of(artifact) for name, artifact in prepared.items()},
        weights={name: _made_from(artifact)["external"] for name, artifact in prepared.items()},
        stage_versions={name: _made_from(artifact)["version"] for name, artifact in prepared.items()},
        calibration=calibration,
        references=references,
        test=_test_figures(classify, usable, config.repeat),
        subjects=roles,
        scans=_scan_roles(cohort, roles),
    )
    told = Trained.of(material, classify, usable, repeat=config.repeat, repeats=repeats)
    card = model_card(material, told, onnx=no_onnx)
    write_bundle(out.bundle, material, model, card=card, onnx=onnx, signing_key=config.signing_key)
    Bundle.read(out.bundle)
    _say(runtime, calibration, no_onnx)
    runtime.results |= {
        "counts": {"subjects known": len(roles), "subsets calibrated": len(calibration["conformal"]["subsets"])}
    }


def _record(pretrain: ExtractorSet, split: SplitTables, repeat: int) -> tuple[dict[str, Any], int]:
    """What is recorded of the repeat's φ, and how many repeats there are."""
    repeats = repeats_of(split)
    if repeat not in repeats:
        raise PreconditionError(f"export.repeat is {repeat}; this run has the repeats {', '.join(map(str, repeats))}")
    record = pretrain.record(repeat) or {}
    refuse_leak(record, split, repeat)
    return record, len(repeats)


def _readable(usable: RepeatData, trained: tuple[str, ...]) -> RepeatData:
    """Without scans of modalities that φ never saw."""
    scans = usable.scans[usable.scans["modality"].isin(trained)].reset_index(drop=True)
    return RepeatData(scans, usable.modalities, usable.classes)


def _network_arguments(pretrain: ExtractorSet, classify: ClassifierSet, repeat: int) -> dict[str, Any]:
    """How `SetModel` has to be built; widths are read off the weights themselves."""
    record = pretrain.record(repeat) or {}
    hidden, embedding = pretrain.state(repeat)["hypernetwork.hidden.weight"].shape
    settings = _settings_of(classify)
    return {
        "modalities": len(record["modalities"]),
        "feature_map_shape": list(record["feature_map_shape"]),
        "classes": len(record["classes"]),
        "embedding": embedding,
        "hidden": hidden,
        "rho_hidden": list(settings["hidden"]),
        "aggregate": settings["aggregate"],
    }


def _model(network: dict[str, Any], pretrain: ExtractorSet, classify: ClassifierSet, repeat: int) -> SetModel:
    return SetModel(**network).load_parts(pretrain.state(repeat), classify.state(repeat))


def _calibration(
    held_out: CalibrationSet, usable: RepeatData, features: FeatureStore, trained: tuple[str, ...], config: ExportConfig
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Content of calibration.json, and the training cloud of each modality."""
    parts = CALIBRATION_SPLITS if config.conformal_from == "held_out" else CALIBRATION_SPLITS[:1]
    temperature = temperature_facts(held_out)
    options = {
        "temperature": temperature["value"],
        "error_rate": config.error_rate,
        "conformal_score": config.conformal_score,
    }
    outliers, references = outlier_facts(usable, features, trained, parts)
    return {
        "temperature": temperature,
        "conformal": conformal_facts(held_out, trained, parts, **options),
        "expected_changes": change_facts(held_out, trained, parts, **options),
        "outliers": outliers,
    }, references


def _onnx(model: SetModel, usable: RepeatData, features: FeatureStore, temperature: float) -> tuple[bytes | None, str]:
    """The network in ONNX, or why there is none: it must agree with torch on sets of real scans."""
    try:
        import onnx  # noqa: F401 - of the extra "demo"
    except ImportError:
        return None, "the package onnx was not installed"
    modality = usable.modality()
    sets = [(features.load(usable.scans["scan"][rows].to_list()), modality[rows]) for rows in _sets_to_try(usable)]
    graph = onnx_graph(model, temperature=temperature)
    difference = largest_difference(graph, model, sets)
    if difference == float("inf"):
        return None, "a logit was not finite"
    if difference > CLOSE:
        return None, f"its logits differed from torch's by {difference:.1g}, more than {CLOSE:g}"
    return graph.SerializeToString(deterministic=True), ""


def _sets_to_try(usable: RepeatData) -> Iterator[list[int]]:
    """Rows of scans: of each modality one alone; one of every modality together; and two of every one."""
    groups = list(usable.scans.groupby("modality").indices.values())
    yield from ([int(rows[0])] for rows in groups)
    for several in (1, 2):
        yield [int(row) for rows in groups for row in rows[:several]]


def _roles(usable: RepeatData, config: ExportConfig) -> dict[str, str]:
    """Subject → what the model knows it from; subjects of the test part are not known if no threshold used them."""
    roles = {"train": "train", "validation": "validation"}
    if config.conformal_from == "held_out":
        roles["test"] = "calibration"
    part = usable.scans.drop_duplicates("subject").set_index("subject")["split"]
    return {str(subject): roles[name] for subject, name in part.items() if name in roles}


def _scan_roles(cohort: CohortTables, roles: dict[str, str]) -> dict[str, str]:
    """Hash of a scan's file → strictest role of its subjects; of every scan of a subject, used or not."""
    scans = cohort.scans()
    scans = scans[scans["subject"].isin(roles) & (scans["sha256"] != UNREADABLE)]
    return {
        str(sha256): strictest(roles[s] for s in subjects) for sha256, subjects in scans.groupby("sha256")["subject"]
    }


def _made_from(artifact: Any) -> dict[str, Any]:
    """What a stage's result depended on."""
    return dict((artifact.manifest or {})["made_from"])


def _settings_of(artifact: Any) -> dict[str, Any]:
    """The settings that a stage's result was made with."""
    return dict(_made_from(artifact)["settings"])


def _test_figures(classify: ClassifierSet, usable: RepeatData, repeat: int) -> dict[str, dict[str, Any]]:
    """Metrics of the repeat's own test, with intervals over subjects."""
    settings, predictions = _settings_of(classify), classify.predictions()
    summary = summarise(
        as_scored(predictions[predictions["repeat"] == repeat], usable.classes),
        thresholds=0.5,
        draws=settings["bootstrap_draws"],
        seed=settings["seed"],
    )
    return {name: dict(values) for name, values in summary.items()}


def _say(runtime: Runtime, calibration: dict[str, Any], no_onnx: str) -> None:
    """What is missing or weak, in words."""
    if reason := calibration["temperature"]["reason"]:
        runtime.note(f"temperature {calibration['temperature']['value']:g}: {reason}")
    for entry in calibration["conformal"]["subsets"]:
        if entry["too_few"]:
            runtime.note(f"{' + '.join(entry['modalities'])}: {entry['too_few']}; such patients get no answer there")
    for modality, entry in calibration["outliers"].items():
        if entry["reason"]:
            runtime.note(f"unusual {modality} scans will not be noticed: {entry['reason']}")
    if no_onnx:
        runtime.note(f"models/model.onnx is left out: {no_onnx}")


def signing_fingerprint(config: ExportConfig) -> Any:
    """Which key signs, by its fingerprint: with another one, or none, the model is written anew."""
    return key_fingerprint(config.signing_key) if config.signing_key is not None else None
