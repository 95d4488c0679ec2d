"""Pack the model of one repeat, with all that prediction needs, into one folder: a MONAI Bundle."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from console.errors import PreconditionError
from evaluation.intervals import summarise
from models.joint.model import JointModel
from models.onnx_graph import largest_difference, onnx_graph
from models.set_model import SetModel
from pipeline.core.runtime import Runtime
from pipeline.deployment.bundle import Bundle, BundleFolder, strictest
from pipeline.deployment.bundle_joint import ExportedJoint, distances_of, like_single_patients, of_no_bundle
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
from pipeline.store.base import made_from_inputs, made_from_known
from pipeline.store.confounding import ConfoundingTables
from pipeline.store.contribution import ContributionSet
from pipeline.store.features import FeatureStore
from pipeline.store.fitted import ClassifierSet, ExtractorSet
from pipeline.store.joint import JointSet
from pipeline.store.tables import CohortTables, SplitTables
from pipeline.store.volumes import VolumeSet
from pipeline.training.audit_page import fairness_of
from pipeline.training.feature_maps import FeatureMaps, feature_maps_of, table_encoders
from pipeline.training.joint_patients import CovariateBlocks
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
    contribute: ContributionSet,
    joint: JointSet,
    confounding: ConfoundingTables,
    run_name: str,
    out: BundleFolder,
    config: ExportConfig,
    runtime: Runtime,
) -> None:
    """Write the folder `bundle`.

    Raises:
        PreconditionError: the run has no such repeat.
    """
    record, repeats = _record(pretrain, split, config.repeat)
    trained = tuple(record["modalities_trained"])
    data = _trained_scans(data_of_repeat(cohort, split, features, config.repeat), trained)
    maps = feature_maps_of(data, features)
    network = _network_arguments(pretrain, classify, config.repeat)
    model = _model(network, pretrain, classify, config.repeat)
    with read_calibration_set(model, data, maps, runtime, memory_mb=config.memory_mb) as calibration_set:
        calibration, references = _calibration(calibration_set, data, maps, trained, config)
    model.cpu()
    onnx, no_onnx = _onnx(model, data, maps, calibration["temperature"]["value"])
    roles = _roles(data, config)
    made = (cohort, split, preprocess, features, contribute)
    now = {artifact.folder.name: artifact.fingerprint for artifact in made}
    prepared: dict[str, Any] = {"preprocess": preprocess, "features": features}
    material = Export(
        name=config.name or run_name,
        version=config.version,
        authors=config.authors,
        copyright=config.copyright,
        classes=data.classes,
        modalities=data.modalities,
        trained=trained,
        network=network,
        kinds=_kinds(cohort),
        tables={name: encoder.to_json() for name, encoder in table_encoders(data).items()},
        settings={name: _settings_of(artifact) for name, artifact in prepared.items()},
        weights={name: _made_from(artifact)["external"] for name, artifact in prepared.items()},
        stage_versions={name: _made_from(artifact)["version"] for name, artifact in prepared.items()},
        calibration=calibration,
        references=references,
        test=_test_figures(classify, data, config.repeat),
        subjects=roles,
        scans=_scan_roles(cohort, roles),
        most_scans=_most_scans(data),
        joint=_joint(joint, cohort, now, data, trained, config, runtime),
        cohort=cohort.fingerprint,
    )
    of_now = made_from_known(confounding, now | {"classify": classify.fingerprint})
    if not of_now and confounding.manifest is not None:
        runtime.note("groups of patients were audited for an earlier model and are not in the model card")
    training = Trained.of(
        material, classify, data, repeat=config.repeat, repeats=repeats,
        fairness=fairness_of(confounding) if of_now else None,
    )  # fmt: skip
    card = model_card(material, training, onnx=no_onnx)
    write_bundle(out.bundle, material, model, card=card, onnx=onnx, signing_key=config.signing_key)
    Bundle.read(out.bundle)
    _note_limits(runtime, calibration, no_onnx)
    runtime.results |= {
        "counts": {"subjects known": len(roles), "subsets calibrated": len(calibration["conformal"]["subsets"])}
    }


def _record(pretrain: ExtractorSet, split: SplitTables, repeat: int) -> tuple[dict[str, Any], int]:
    """Return the record of the repeat's φ, and the number of repeats."""
    repeats = repeats_of(split)
    if repeat not in repeats:
        raise PreconditionError(f"export.repeat is {repeat}; this run has the repeats {', '.join(map(str, repeats))}")
    record = pretrain.record(repeat) or {}
    refuse_leak(record, split, repeat)
    return record, len(repeats)


def _most_scans(data: RepeatData) -> dict[str, int]:
    """Return modality → the most scans of it that a training patient has in one session."""
    train = data.scans[data.scans["split"] == "train"]
    counts = train.groupby(["observation", "modality"]).size().groupby("modality").max()
    return {str(name): int(count) for name, count in counts.items()}


def _trained_scans(data: RepeatData, trained: tuple[str, ...]) -> RepeatData:
    """Return the data without scans of modalities that φ was not trained on."""
    scans = data.scans[data.scans["modality"].isin(trained)].reset_index(drop=True)
    return dataclasses.replace(data, scans=scans)


def _network_arguments(pretrain: ExtractorSet, classify: ClassifierSet, repeat: int) -> dict[str, Any]:
    """Return the arguments of `SetModel`; widths are read from the weights."""
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
    calibration_set: CalibrationSet,
    data: RepeatData,
    features: FeatureMaps,
    trained: tuple[str, ...],
    config: ExportConfig,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the content of calibration.json, and the training cloud of each modality."""
    splits = CALIBRATION_SPLITS if config.conformal_from == "held_out" else CALIBRATION_SPLITS[:1]
    temperature = temperature_facts(calibration_set)
    options = {
        "temperature": temperature["value"],
        "error_rate": config.error_rate,
        "conformal_score": config.conformal_score,
    }
    outliers, references = outlier_facts(data, features, trained, splits)
    return {
        "temperature": temperature,
        "conformal": conformal_facts(calibration_set, trained, splits, **options),
        "expected_changes": change_facts(calibration_set, trained, splits, **options),
        "outliers": outliers,
    }, references


def _joint(
    joint: JointSet,
    cohort: CohortTables,
    now: dict[str, str],
    data: RepeatData,
    trained: tuple[str, ...],
    config: ExportConfig,
    runtime: Runtime,
) -> ExportedJoint | None:
    """Return the joint model of the repeat; None without one, if it is of other data or modalities, or of too few."""
    if not config.joint or joint.manifest is None:
        return None
    if not made_from_inputs(joint, now):
        runtime.note("the joint model is of earlier data and not exported; type --stages joint,export")
        return None
    model = joint.model(config.repeat)
    if strange := sorted(set(model.bases) - set(trained)):
        runtime.note(f"the joint model is not exported: φ was not trained on {', '.join(strange)}")
        return None
    record, rows = joint.record(config.repeat) or {}, joint.embeddings()
    if reason := of_no_bundle(model) or _not_to_leave(model, record, data.classes):
        runtime.note(f"the joint model is not exported: {reason}")
        return None
    kinds = cohort.scans().drop_duplicates("modality").set_index("modality")["kind"].to_dict()
    return ExportedJoint(
        model=model,
        decoders=joint.decoders(config.repeat),
        kinds=kinds,
        spacing_mm=record["grid"]["spacing_mm"],
        pixels=record["grid"]["pixels"],
        covariates=CovariateBlocks.from_json(record["covariates"]) if record.get("covariates") else None,
        training=max(1, round(model.sums.count)),
        distances=distances_of(rows[rows["repeat"] == config.repeat]),
    )


def _not_to_leave(model: JointModel, record: Mapping[str, Any], classes: Sequence[str]) -> str:
    """Return why a joint model is not exported; "" if it is. Models of several sites may differ from this run.

    Args:
        model: with its sums.
        record: of the stage joint.
        classes: of HyperMM, in order.
    """
    if not record.get("feature_maps", True):
        return (
            "the sites made it without means of feature maps (contribute.feature_maps false), so it could not say what "
            "missing scans would do to the answer"
        )
    if list(record["classes"]) != list(classes):
        return f"its classes are {', '.join(record['classes'])}, those of HyperMM {', '.join(classes)}"
    return like_single_patients(model, record["classes"], record.get("patients"))


def _onnx(model: SetModel, data: RepeatData, features: FeatureMaps, temperature: float) -> tuple[bytes | None, str]:
    """Return the network in ONNX, or the reason why it is left out: it must agree with torch on sets of real scans."""
    try:
        import onnx  # noqa: F401 - of the extra "demo"
    except ImportError:
        return None, "the package onnx was not installed"
    modality = data.modality()
    sets = [(features.load(data.scans["scan"][rows].to_list()), modality[rows]) for rows in _sets_to_try(data)]
    graph = onnx_graph(model, temperature=temperature)
    difference = largest_difference(graph, model, sets)
    if difference == float("inf"):
        return None, "a logit was not finite"
    if difference > CLOSE:
        return None, f"its logits differed from torch's by {difference:.1g}, more than {CLOSE:g}"
    return graph.SerializeToString(deterministic=True), ""


def _sets_to_try(data: RepeatData) -> Iterator[list[int]]:
    """Yield rows of scans: one scan of each modality alone, one of every modality, two of every modality."""
    groups = list(data.scans.groupby("modality").indices.values())
    yield from ([int(rows[0])] for rows in groups)
    for several in (1, 2):
        yield [int(row) for rows in groups for row in rows[:several]]


def _roles(data: RepeatData, config: ExportConfig) -> dict[str, str]:
    """Map each subject to its role in the model; test subjects have one only if the thresholds used them."""
    roles = {"train": "train", "validation": "validation"}
    if config.conformal_from == "held_out":
        roles["test"] = "calibration"
    split_of = data.scans.drop_duplicates("subject").set_index("subject")["split"]
    return {str(subject): roles[name] for subject, name in split_of.items() if name in roles}


def _scan_roles(cohort: CohortTables, roles: dict[str, str]) -> dict[str, str]:
    """Map the hash of every scan of these subjects, used or not, to the strictest role of its subjects.

    Tables have no hash: two patients may have the same values, and few values are easily guessed from one.
    """
    scans = cohort.scans()
    scans = scans[scans["subject"].isin(roles) & ~scans["sha256"].isin(["", UNREADABLE])]
    return {
        str(sha256): strictest(roles[s] for s in subjects) for sha256, subjects in scans.groupby("sha256")["subject"]
    }


def _made_from(artifact: Any) -> dict[str, Any]:
    """Return what a stage's result depends on."""
    return dict((artifact.manifest or {})["made_from"])


def _settings_of(artifact: Any) -> dict[str, Any]:
    """Return the settings that a stage's result was made with."""
    return dict(_made_from(artifact)["settings"])


def _kinds(cohort: CohortTables) -> dict[str, Any]:
    """Return cohort.modalities, with the bits of 16-bit pictures that the stage cohort took."""
    bits = cohort.scans().drop_duplicates("modality").set_index("modality")["bits"].to_dict()
    modalities = _settings_of(cohort)["modalities"]
    return {name: {**each, "bits": int(bits[name]) if bits.get(name) else None} for name, each in modalities.items()}


def _test_figures(classify: ClassifierSet, data: RepeatData, repeat: int) -> dict[str, dict[str, Any]]:
    """Compute the test metrics of the repeat, with intervals of what this one model would reach on other subjects."""
    predictions = classify.predictions()
    summary = summarise(as_scored(predictions[predictions["repeat"] == repeat], data.classes))
    return {name: dict(values) for name, values in summary.items()}


def _note_limits(runtime: Runtime, calibration: dict[str, Any], no_onnx: str) -> None:
    """Note what the exported model lacks."""
    if reason := calibration["temperature"]["reason"]:
        runtime.note(f"temperature {calibration['temperature']['value']:g}: {reason}")
    for entry in calibration["conformal"]["subsets"]:
        if entry["too_few"]:
            runtime.note(f"{' + '.join(entry['modalities'])}: {entry['too_few']}; no prediction for such patients")
    for modality, entry in calibration["outliers"].items():
        if entry["reason"]:
            runtime.note(f"unusual {modality} scans will not be noticed: {entry['reason']}")
    if no_onnx:
        runtime.note(f"models/model.onnx is left out: {no_onnx}")


def signing_fingerprint(config: ExportConfig) -> Any:
    """Return the fingerprint of the signing key; with another key, or none, the model is written again."""
    return key_fingerprint(config.signing_key) if config.signing_key is not None else None
