"""Predict the classes of new patients with an exported model, from the scans that each has."""

import datetime
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from cohort.covariates import covariates_of
from cohort.table_members import Values, values_of
from console.errors import InputError, PreconditionError
from pipeline.core.provenance import digest, git_commit, result_settings, versions
from pipeline.core.runtime import Runtime, log
from pipeline.deployment.bundle import Bundle
from pipeline.deployment.bundle_joint import MAP, ExportedJoint
from pipeline.deployment.bundle_layout import shown
from pipeline.deployment.joint_answer import ImputedImage, joint_answer
from pipeline.deployment.occlusion_maps import write_maps
from pipeline.deployment.predictor import NoPredictionError, Predictor, predict_patient
from pipeline.specs.features import STAGE as FEATURES
from pipeline.specs.predict import PredictConfig
from pipeline.specs.preprocess import STAGE as PREPROCESS
from pipeline.store.base import ArtifactError, DamagedError
from pipeline.store.features import FeatureStore
from pipeline.store.predictions import PredictionSet
from pipeline.store.tables import CohortTables
from pipeline.store.update import expired_beside
from pipeline.store.volumes import VolumeSet
from pipeline.training.feature_maps import FeatureMaps, coded
from preprocessing.normalise import PUBLISHED
from reporting.patient_joint import MissingImage, PatientJoint
from reporting.patient_page import missing_page, patient_page, worklist_page
from reporting.patient_table import SCHEMA, patients_csv
from synthesis.grid import box_shape

EXPIRED = "the model's calibration has expired: patients came after it was exported, so its error rate is not promised"
KEPT_BESIDE = "keep_slices"  # of features: changes what is kept beside the feature maps, not the feature maps


def predict(
    cohort: CohortTables,
    preprocess: VolumeSet,
    features: FeatureStore,
    csv_safe: bool,
    convention: str,
    viewer: bool,
    out: PredictionSet,
    config: PredictConfig,
    runtime: Runtime,
) -> None:
    """Write `predictions.json`, `predictions.csv`, `index.html`, a page per patient, and occlusion maps if requested.

    Raises:
        PreconditionError: the scans were not prepared as the model needs them.
    """
    bundle = read_bundle(config)
    for stage, artifact in ((PREPROCESS, preprocess), (FEATURES, features)):
        _same_preparation(bundle, stage.name, (artifact.manifest or {})["made_from"])
    predictor = Predictor(bundle, bundle.network(), config.error_rate, config.outlier_rate)
    scans = _scans(cohort, preprocess, features)
    roles = {subject: bundle.seen(subject, list(rows["sha256"])) for subject, rows in scans.groupby("subject")}
    patients: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    channels, height, width = bundle.network_arguments["feature_map_shape"]
    covariates = covariates_of(cohort.scans())
    joint_pages: dict[str, PatientJoint] = {}
    feature_maps = coded(features, _tables(scans, bundle), bundle.tables, (channels, height, width))
    out.remove_maps()
    expired = "" if config.model is None else expired_beside(config.model)
    if expired:
        runtime.note(f"{expired}, or calibrate it on patients of now")
    groups = list(scans.groupby("observation", sort=True))
    with runtime.progress(len(groups), "patient") as progress:
        for observation, rows in groups:
            first = rows.iloc[0]
            names = {"observation": observation, "subject": first["subject"], "session": first["session"]}
            try:
                prediction = _patient(
                    predictor, rows, feature_maps, role=roles[first["subject"]], known=config.known_patients
                )
                if "reason" not in prediction:
                    named = {**names, **prediction}
                    prediction["joint"], page = _joint(predictor, named, feature_maps, covariates, config)
                    joint_pages |= {} if page is None else {observation: page}
                if config.maps and "reason" not in prediction:
                    maps = write_maps(predictor, prediction, preprocess, feature_maps, out)
                    prediction["scans"] = [{**scan, "map": maps.get(scan["scan"], "")} for scan in prediction["scans"]]
            except DamagedError:
                raise  # the scan is made again, then every patient is predicted
            except (ArtifactError, NoPredictionError) as error:
                prediction = {"reason": str(error)}
            if "reason" in prediction:
                runtime.note(f"no prediction for {observation}: {prediction['reason']}")
                refused.append({**names, **prediction})
            else:
                prediction["notes"] += [EXPIRED] * bool(expired) + _notes_on_scans(prediction, preprocess)
                patients.append({**names, **prediction})
            progress.advance()
    content = {**_made_with(bundle, config), "patients": patients, "refused": refused}
    values = values_of(scans)
    failed_pages = _write(
        out, content, preprocess, values, joint_pages, csv_safe=csv_safe, convention=convention, viewer=viewer
    )
    for observation, reason in failed_pages.items():
        runtime.note(f"the page of {observation} could not be made ({reason}); the prediction is in predictions.json")
    runtime.results |= {
        "counts": {
            "answers": sum(not p["abstains"] for p in patients),
            "abstentions": sum(p["abstains"] for p in patients),
            "refused": len(refused),
        }
    }


def _scans(cohort: CohortTables, preprocess: VolumeSet, features: FeatureStore) -> pd.DataFrame:
    """Return all scans of the manifest, one row each, sorted by name; `reason`: why a scan has no feature map."""
    failed = {
        failure["scan"]: failure["reason"]
        for artifact in (preprocess, features)
        for failure in (artifact.manifest or {}).get("failures", ())
    }
    scans = cohort.scans()
    scans["reason"] = [failed.get(scan, "") for scan in scans["scan"]]
    visits = dict(zip(zip(scans["subject"], scans["session"], strict=True), scans["observation"], strict=True))
    rows = []
    for row in cohort.left_out():
        visit = (row["subject"], row["session"])
        own = "_".join(filter(None, visit)) if row["subject"] else f"row {row['row']}"
        observation = visits.get(visit, own)
        rows.append({**row, "scan": f"row {row['row']}", "observation": observation, "sha256": ""})
    everything = scans.to_dict("records") + rows
    return pd.DataFrame(everything, columns=[*scans.columns], dtype=object).fillna("").sort_values("scan")


def _tables(scans: pd.DataFrame, bundle: Bundle) -> dict[str, dict[str, Values]]:
    """Return the values of the tables that the model reads: modality → scan → values."""
    values = values_of(scans)
    return {
        modality: {scan: values[scan] for scan in scans.loc[scans["modality"] == modality, "scan"] if scan in values}
        for modality in bundle.tables
    }


def _made_with(bundle: Bundle, config: PredictConfig) -> dict[str, Any]:
    """Return the head of predictions.json."""
    return {
        "schema": SCHEMA,
        "made": {
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "model": bundle.name,
            "model_version": bundle.version,
            "model_sha256": bundle.fingerprint,
            "software": {"git_commit": git_commit(), "versions": versions()},
        },
        "classes": list(bundle.classes),
        "modalities": list(bundle.trained),
        "error_rate": config.error_rate,
        "temperature": bundle.temperature,
    }


def _write(
    out: PredictionSet,
    content: dict[str, Any],
    preprocess: VolumeSet,
    values: Mapping[str, Values],
    joint_pages: Mapping[str, PatientJoint],
    *,
    csv_safe: bool,
    convention: str,
    viewer: bool,
) -> dict[str, str]:
    """Write predictions as JSON, CSV and pages; return the observations without a page, with the reason."""
    out.save(content, patients_csv(content), csv_safe=csv_safe)
    links = out.page_names([patient["observation"] for patient in content["patients"]])
    done = preprocess.scans()
    failed_pages: dict[str, str] = {}

    def pages() -> Iterator[tuple[str, str]]:
        for patient in content["patients"]:
            try:
                names = [scan["scan"] for scan in patient["scans"] if scan["scan"] in done]
                pictures = {name: png for name in names if (png := preprocess.qc_picture(name, convention))}
                slices = {}
                if viewer:
                    back = f"../{links[patient['observation']]}"
                    slices = _write_slices(out, patient, preprocess, names, convention, back)
                page = patient_page(
                    content,
                    patient,
                    pictures=pictures,
                    slices=slices,
                    values={scan["scan"]: values[scan["scan"]] for scan in patient["scans"] if scan["scan"] in values},
                    joint=joint_pages.get(patient["observation"]),
                    worklist_link="../index.html",
                    convention=convention,
                )
            except DamagedError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever is wrong with one page, the others are written
                log.debug("the page of %s", patient["observation"], exc_info=error)
                failed_pages[patient["observation"]] = f"{type(error).__name__}: {error}"
                page = missing_page(patient["observation"], failed_pages[patient["observation"]])
            yield links[patient["observation"]], page

    out.save_pages(worklist_page(content, links), pages())
    return failed_pages


def _write_slices(
    out: PredictionSet, patient: dict[str, Any], preprocess: VolumeSet, names: list[str], convention: str, back: str
) -> dict[str, str]:
    """Write the pages of slices of a patient's volumes; return scan → address of its page, seen from the patient's."""
    likeliest = max(patient["probabilities"], key=patient["probabilities"].get)
    addresses = {}
    for scan in patient["scans"]:
        if scan["scan"] not in names:
            continue
        path = out.save_viewer(
            scan["scan"],
            preprocess,
            convention=convention,
            back=back,
            occlusion=out.load_map(scan.get("map") or ""),
            occlusion_of=likeliest,
        )
        if path:
            addresses[scan["scan"]] = f"../{path}"
    return addresses


def _patient(
    predictor: Predictor, rows: pd.DataFrame, features: FeatureMaps, *, role: str, known: bool
) -> dict[str, Any]:
    """Predict one observation; return only `reason` if that is not possible."""
    bundle = predictor.bundle
    used_in_training = role in ("train", "validation")
    if used_in_training and not known:
        return {
            "reason": f"the model knows this patient, by id or by a scan ({role} split); a prediction would look "
            "better than it is. To predict anyway: --predict.known_patients true"
        }
    readable = rows["modality"].isin(bundle.trained) | (rows["reason"] != "")
    why = rows["reason"].where(readable, f"the model has learnt {', '.join(bundle.trained)} only")
    used = rows[why == ""]
    unused = [
        {"scan": row.scan, "modality": row.modality, "used": False, "reason": reason}
        for row, reason in zip(rows[why != ""].itertuples(), why[why != ""], strict=True)
    ]
    if used.empty:
        reasons = "; ".join(f"{scan['scan']}: {scan['reason']}" for scan in unused)
        return {"reason": f"none of the scans can be used ({reasons})"}
    scans = list(zip(used["scan"], used["modality"], strict=True))
    prediction = predict_patient(predictor, scans, features.load([name for name, _ in scans]))
    used_scans = [{**scan, "used": True, "reason": ""} for scan in prediction["scans"]]
    nothing = {"contribution": None, "outlier": None}
    warning = (
        "the prediction looks better than it is" if used_in_training else "the error rate is not promised for those"
    )
    notes = [f"the model knows this patient ({role} split): {warning}"] if role else []
    notes += bundle.beyond_training([modality for _, modality in scans])
    modality_of = dict(scans)
    for scan, values in values_of(used).items():
        for name, value in bundle.tables[modality_of[scan]].unseen(values).items():
            notes.append(f"{scan}: {name} {value!r} is not in training, and counts as missing")
    return {**prediction, "scans": used_scans + [{**nothing, **scan} for scan in unused], "notes": notes}


def _joint(
    predictor: Predictor,
    prediction: Mapping[str, Any],
    feature_maps: FeatureMaps,
    covariates: pd.DataFrame,
    config: PredictConfig,
) -> tuple[dict[str, Any] | None, PatientJoint | None]:
    """Return what the joint model says of a patient, for predictions.json and for the page; None without one."""
    joint = predictor.bundle.joint
    scans = [(scan["scan"], scan["modality"]) for scan in prediction["scans"] if scan["used"]]
    if joint is None:
        return None, None
    given: dict[str, Any] = {}
    blocks = joint.covariates
    if blocks is not None:
        names = [name for name in (*blocks.encoder.scales, *blocks.encoder.values) if name in covariates]
        observation = prediction["observation"]
        table = covariates.reindex(index=[observation], columns=list(dict.fromkeys(names))).fillna("")
        given = blocks.only(names).blocks(table)
    answer = joint_answer(predictor, scans, feature_maps.load([name for name, _ in scans]), given, draws=config.draws)
    if answer is None:
        return None, None
    known = {} if blocks is None else dict.fromkeys((*blocks.encoder.scales, *blocks.encoder.values))
    lacking = [name for name in known if name not in given or np.isnan(given[name]).any()]
    images = [_missing_image(joint, name, image) for name, image in answer.images.items()]
    means, covariance = joint.model.embedding.of_classes(joint.model.gaussian.estimate)
    means[joint.model.gaussian.estimate.share == 0] = np.nan
    return answer.facts, PatientJoint(
        answer.facts, means[:, :MAP], covariance[:MAP, :MAP], joint.training, images, lacking
    )


def _missing_image(joint: ExportedJoint, modality: str, image: ImputedImage) -> MissingImage:
    """Return an imputed image in its shape."""
    shape = box_shape(joint.spacing_mm) if image.kind == "volume" else (joint.pixels, joint.pixels, 3)
    return MissingImage(modality, image.mean.reshape(shape), image.sd.reshape(shape), image.draws.reshape(-1, *shape))


def _notes_on_scans(prediction: dict[str, Any], preprocess: VolumeSet) -> list[str]:
    """Return notes on scans whose registration to another scan failed, and the remarks in their records."""
    records = {scan["scan"]: preprocess.record(scan["scan"]) or {} for scan in prediction["scans"] if scan["used"]}
    notes = [f"{s} was not registered: {r['not_registered']}" for s, r in records.items() if r.get("not_registered")]
    return notes + [f"{s}: {remark}" for s, r in records.items() for remark in r.get("remarks", ())]


def check_settings(settings: Any) -> None:
    """Check before the run whether these settings prepare scans as the model needs them.

    Args:
        settings: of the whole run.

    Raises:
        InputError: no model is given, or settings differ.
    """
    bundle = read_bundle(settings.predict)
    kinds = {name: modality.model_dump(mode="json") for name, modality in settings.cohort.modalities.items()}
    for name in sorted(kinds.keys() & bundle.kinds.keys()):
        if bundle.kinds[name].get("bits") is None:  # it has learnt from no picture that needs them
            kinds[name]["bits"] = None
        as_in_older_models: dict[str, Any] = {"columns": {}, "normalise": PUBLISHED, "trust": None, "bits": None}
        if kinds[name] != as_in_older_models | bundle.kinds[name]:
            raise InputError(
                f"the model {bundle.name} was trained with {name} as {shown(bundle.kinds[name])}, not {kinds[name]}"
            )
    for stage in (PREPROCESS, FEATURES):
        config = getattr(settings, stage.name)
        material = {
            "version": stage.version,
            "settings": result_settings(config),
            "external": stage.external_state(config),
        }
        _same_preparation(bundle, stage.name, material)


def _same_preparation(bundle: Bundle, name: str, made_from: Mapping[str, Any]) -> None:
    """Check that feature maps are made as those of training were.

    Raises:
        PreconditionError: version, weights or settings of a stage differ; the message names them.
    """
    if made_from["version"] != bundle.stage_versions[name]:
        raise PreconditionError(
            f"the model {bundle.name} was trained with version {bundle.stage_versions[name]} of the stage {name}; this "
            f"program has version {made_from['version']}. Train and export it again, or use the program it came from"
        )
    if digest(made_from["external"]) != digest(bundle.weights[name]):
        raise PreconditionError(
            f"the model {bundle.name} was trained with other weights in {name} ({shown(bundle.weights[name])}) than "
            f"were used now ({made_from['external']}); see {name}.weights"
        )
    now, then = made_from["settings"], bundle.settings[name]
    keys = (now.keys() | then.keys()) - {KEPT_BESIDE}
    differing = sorted(key for key in keys if digest(now.get(key)) != digest(then.get(key)))
    if differing:
        differences = ", ".join(f"{name}.{key} = {shown(then.get(key))} (now {now.get(key)})" for key in differing)
        raise PreconditionError(
            f"the model {bundle.name} was trained with {differences}; leave these out, and --config, to use those "
            "of the model"
        )


def read_bundle(config: PredictConfig) -> Bundle:
    """Read the exported model.

    Raises:
        InputError: none is given, it is damaged, or no trusted key has signed it.
    """
    if config.model is None:
        raise InputError("no model is given; type --model FOLDER (--stages export makes one: workspace/export/bundle)")
    return Bundle.read(config.model, config.trusted)


def describe_signature(config: PredictConfig) -> str:
    """Describe the signature of the model, for the run log."""
    bundle = read_bundle(config)
    if not bundle.signed_by:
        return f"the model {bundle.name} is not signed: trust it only as far as its source"
    trusted = "which is trusted" if config.trusted else "whoever's that is; --trusted KEY.pub would check it"
    return f"the model {bundle.name} is signed by the key {bundle.signed_by}, {trusted}"


def check_model(config: PredictConfig) -> None:
    """Check that the model exists and is complete, and that its weights fit the network."""
    read_bundle(config).network()


def model_fingerprint(config: PredictConfig) -> Any:
    """Return the fingerprint of the model, and whether its calibration has expired; None if none is given."""
    if config.model is None:
        return None
    fingerprint, expired = read_bundle(config).fingerprint, expired_beside(config.model)
    return [fingerprint, expired] if expired else fingerprint
