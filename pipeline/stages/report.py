"""One self-contained HTML page on the whole run."""

import datetime
from collections.abc import Iterator
from dataclasses import replace

import pandas as pd
from pydantic import BaseModel

from cohort.manifest import observations
from cohort.origin import real_only
from evaluation.published import published_beside
from files.writing import replacing
from models.joint.model import COVARIATE
from pipeline.core.provenance import git_commit, machine, settings_yaml, versions
from pipeline.core.runtime import Runtime
from pipeline.specs.report import ReportConfig
from pipeline.store.base import Artifact, made_from_inputs
from pipeline.store.comparison import ComparisonSet
from pipeline.store.confounding import ConfoundingTables
from pipeline.store.contribution import ContributionSet
from pipeline.store.features import FeatureStore
from pipeline.store.fitted import ClassifierSet, ExtractorSet
from pipeline.store.hypotheses import HypothesisTables
from pipeline.store.imputed import ImputedSet
from pipeline.store.joint import JointSet
from pipeline.store.recycle import RecycleTables
from pipeline.store.report_page import ReportPage
from pipeline.store.synthetic import JudgementTables, SyntheticCohort
from pipeline.store.tables import CohortTables, SplitTables
from pipeline.store.update import UpdateSet
from pipeline.store.volumes import VolumeSet
from pipeline.training.audit_page import fairness_of, fairness_of_others
from pipeline.training.scores import as_scored
from reporting.comparison_page import Comparison
from reporting.confounding_page import Confounding
from reporting.hypotheses_page import Hypotheses
from reporting.imputed_figures import HypothesisImages, ImputedBeside
from reporting.joint_page import Joint
from reporting.quality import quality_of
from reporting.recycle_page import Recycled
from reporting.report import ReportData, render_report
from reporting.synthetic_page import Synthetic
from reporting.telling_patients import Scan, TellingPatient, telling_patients
from reporting.update_page import Update


def report(
    cohort: CohortTables,
    split: SplitTables,
    preprocess: VolumeSet,
    features: FeatureStore,
    pretrain: ExtractorSet,
    classify: ClassifierSet,
    confounding: ConfoundingTables,
    baselines: ComparisonSet,
    contribute: ContributionSet,
    joint: JointSet,
    impute: ImputedSet,
    hypothesise: HypothesisTables,
    update: UpdateSet,
    synthesise: SyntheticCohort,
    judge: JudgementTables,
    recycle: RecycleTables,
    settings: BaseModel,
    out: ReportPage,
    config: ReportConfig,
    runtime: Runtime,
) -> None:
    """Write `report.html`, `qc.csv`, and a page of slices for every volume of the patients shown."""
    stages: tuple[Artifact, ...] = (cohort, split, preprocess, features, pretrain, classify, confounding)
    comparison = _comparison(baselines, config.convention, {stage.folder.name: stage.fingerprint for stage in stages})
    if comparison is not None:
        stages += (baselines,)
    elif baselines.manifest is not None:
        runtime.note("the comparison with baselines is of earlier data and not shown; type --stages baselines,report")
    now = {stage.folder.name: stage.fingerprint for stage in stages}
    joint_page = None
    if made_from_inputs(joint, now | {"contribute": contribute.fingerprint}):
        stages += (joint,)
        with_imputed = made_from_inputs(impute, now | {"joint": joint.fingerprint}) and impute.whole()
        stages += (impute,) if with_imputed else ()
        if impute.manifest is not None and not with_imputed:
            runtime.note("what was imputed is of earlier data and not shown; type --stages impute,report")
        joint_page = _joint(joint, impute if with_imputed else None, cohort.scans(), config.convention)
    elif joint.manifest is not None:
        runtime.note("the joint model is of earlier data and not shown; type --stages joint,impute,report")
    hypotheses = None
    if made_from_inputs(hypothesise, now) and hypothesise.whole():
        stages += (hypothesise,)
        hypotheses = _hypotheses(hypothesise, config.convention)
    elif hypothesise.manifest is not None:
        runtime.note("the hypotheses were asked of earlier data and are not shown; type --stages hypothesise,report")
    updated = _updated(update, now)
    if updated is not None:
        stages += (update,)
    elif update.manifest is not None:
        runtime.note("the updated joint model is of earlier patients and not shown; type --stages update,report")
    synthetic = _synthetic(judge, now | {"synthesise": synthesise.fingerprint})
    if synthetic is not None:
        stages += (judge,)
    elif judge.manifest is not None:
        runtime.note(
            "the judgement of synthetic patients is of earlier data, or of other synthetic patients than there are "
            "now, and not shown; type --stages judge,report"
        )
    recycled = None
    if made_from_inputs(recycle, now):
        stages += (recycle,)
        recycled = Recycled(recycle.curve(), recycle.facts())
    elif recycle.manifest is not None:
        runtime.note("the stage recycle is of earlier data and not shown; type --stages recycle,report")
    for other in (baselines, joint, impute, hypothesise, update, synthesise, judge, recycle):
        if other.folder.is_dir() and other.manifest is None:
            name = other.folder.name
            runtime.note(
                f"the last run of the stage {name} did not finish; it is not shown; type --stages {name},report"
            )
    manifests = {stage.folder.name: stage.manifest or {} for stage in stages}
    everything, classes = cohort.scans(), cohort.classes()
    scans = real_only(everything)
    named = scans.set_index("scan")
    quality = quality_of_scans(scans, preprocess)
    failures = pd.DataFrame(
        [
            {
                "stage": name,
                "scan": f["scan"],
                "subject": named["subject"].get(f["scan"], ""),
                "modality": named["modality"].get(f["scan"], ""),
                "reason": f["reason"],
            }
            for name, manifest in manifests.items()
            for f in manifest.get("failures", ())
        ],
        columns=["stage", "scan", "subject", "modality", "reason"],
    )
    failed = set(failures["scan"])
    state = split.availability()
    state = state[state["scan"].isin(scans["scan"])].reset_index(drop=True)
    state["state"] = ["used" if a else "hidden" for a in state["available"]]
    state.loc[state["scan"].isin(failed), "state"] = "failed"
    observed = observations(scans).drop(columns=["session", "split"])
    for name in observed.columns[3:]:  # covariates are read as text; numeric ones are summarised as numbers
        numbers = pd.to_numeric(observed[name], errors="coerce")
        if numbers.notna().any() and (numbers.notna() | (observed[name] == "")).all():
            observed[name] = numbers
        else:
            observed[name] = observed[name].mask(observed[name] == "")  # counted as missing, not as a category
    predictions = as_scored(classify.predictions(), classes)
    out.remove_viewers()
    page = render_report(
        ReportData(
            title=config.title,
            created=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
            classes=classes,
            plan=pd.DataFrame(
                [
                    {
                        "stage": name,
                        "state": f"done {manifest.get('started', '')}",
                        "reason": ", ".join(f"{n} {what}" for what, n in manifest.get("counts", {}).items()),
                        "seconds": manifest.get("seconds"),
                    }
                    for name, manifest in manifests.items()
                ]
            ),
            observations=observed,
            availability=state[["observation", "modality", "state"]],
            splits=split.splits()[lambda table: table["subject"].isin(scans["subject"])],
            quality=quality,
            qc=qc_pictures(quality, preprocess, config),
            convention=config.convention,
            histories={stage.folder.name: stage.histories() for stage in (pretrain, classify)},
            predictions=predictions,
            patients=patients_to_look_at(predictions, named["modality"], preprocess, out, config),
            metrics=classify.metrics(),
            subsets=classify.subsets().query("threshold == '0.5'"),
            failures=failures,
            comparison=comparison,
            confounding=_confounding(confounding),
            joint=joint_page,
            hypotheses=hypotheses,
            updated=updated,
            synthetic=synthetic,
            recycled=recycled,
            notes=tuple(f"{name}: {note}" for name, m in manifests.items() for note in m.get("notes", ())),
            settings_yaml=settings_yaml(settings),
            versions=versions() | {"git commit": git_commit()},
            hashes={f"key of {name} (short hash)": manifest.get("key", "") for name, manifest in manifests.items()},
            run_note=", ".join(f"{k} {v}" for k, v in machine().items()) + f", device {runtime.device}",
        )
    )
    out.save_quality(quality, csv_safe=config.csv_safe)
    with replacing(out.page) as partial:
        partial.write_text(page, "utf-8")


def _comparison(baselines: ComparisonSet, convention: str, now: dict[str, str]) -> Comparison | None:
    """Return the comparison with baselines; None if it was not made from the data of this report."""
    manifest = baselines.manifest
    if manifest is None or not made_from_inputs(baselines, now):
        return None
    return Comparison(
        table=baselines.comparison(),
        cohort=manifest["cohort"],
        published=published_beside(manifest["published"], manifest["scenario_names"]),
        reference=manifest["reference"],
        robustness=baselines.robustness(),
        patients=baselines.patients(),
        mechanisms=baselines.mechanisms(),
        pattern=baselines.pattern(),
        subsets=baselines.subsets(),
        imputations=baselines.pictures(convention),
        gains=baselines.gains(),
    )


def _joint(joint: JointSet, impute: ImputedSet | None, scans: pd.DataFrame, convention: str) -> Joint:
    """Return the content of the section on the joint model."""
    embeddings = joint.embeddings()
    record = joint.record(int(embeddings["repeat"].min())) or {}
    named = next((name for name in scans if str(name).lower() in ("site", "centre", "center", "scanner")), None)
    return Joint(
        embeddings=embeddings,
        site=None if named is None else scans.drop_duplicates("observation").set_index("observation")[named],
        shared=record["model"]["shared"],
        blocks=record["model"]["blocks"],
        covariates=tuple(
            name.removeprefix(COVARIATE) for name in record["model"]["blocks"] if name.startswith(COVARIATE)
        ),
        steps=(record["model"].get("diffusion") or {}).get("steps"),
        imputed=None if impute is None else impute.read(),
        quality=None if impute is None else impute.read("quality.csv"),
        notes=tuple(record["notes"]),
        tipping=None if impute is None else impute.read("tipping.csv"),
        selection=None if impute is None else impute.read("selection.csv"),
        beside=() if impute is None else tuple(_beside(impute)),
        convention=convention,
    )


def _beside(impute: ImputedSet) -> Iterator[ImputedBeside]:
    """Yield the hidden scans that are shown beside what was imputed in their place."""
    for row in impute.read("beside.csv").to_dict("records"):
        images = impute.load_beside(row["file"], row["sha256"])
        yield ImputedBeside(
            row["observation"], row["modality"], row["from"].replace("+", " and "), **vars(images),
            error=row["error"], error_without=row["error_without"],
        )  # fmt: skip


def _hypotheses(hypothesise: HypothesisTables, convention: str) -> Hypotheses:
    """Return the content of the section on hypotheses."""
    images = tuple(
        HypothesisImages(row["hypothesis"], row["target"], **hypothesise.load_arrays(row["file"], row["sha256"]))
        for row in hypothesise.read("images.csv").to_dict("records")
    )
    return Hypotheses(hypothesise.read(), hypothesise.read("maps.csv"), hypothesise.facts(), images, convention)


def _updated(update: UpdateSet, now: dict[str, str]) -> Update | None:
    """Return the updates; None if the newest was not made from the patients of this report."""
    if not made_from_inputs(update, now):
        return None
    record = update.record() or {}
    return Update(tuple(record["versions"]), update.log(), len(record["classes"]))


def _synthetic(judge: JudgementTables, now: dict[str, str]) -> Synthetic | None:
    """Return what the stage judge found; None if it was not made from the data and synthetic patients of now."""
    return Synthetic(judge.facts(), judge.walls()) if made_from_inputs(judge, now) else None


def _confounding(tables: ConfoundingTables) -> Confounding:
    """Return the content of the sections."""
    facts = tables.facts()
    return Confounding(
        comparison=tables.read("comparison.csv"),
        probes=tables.read("probes.csv"),
        fairness=fairness_of(tables),
        others=fairness_of_others(tables),
        splits=tables.read("splits_beside.csv"),
        covariates=tuple(facts["covariates"]),
        gain=facts["gain"],
        reference=facts["reference"],
        folds=facts["folds"],
        repetitions=facts["repetitions"],
        lacking=facts["lacking"],
    )


def quality_of_scans(scans: pd.DataFrame, preprocess: VolumeSet) -> pd.DataFrame:
    """Return what is known of every scan that was preprocessed, those to look at first on top."""
    done = preprocess.scans()
    named = scans.loc[scans["scan"].isin(done), ["scan", "subject", "modality", "kind"]].to_dict("records")
    return quality_of({**(preprocess.record(row["scan"]) or {}), **row} for row in named)


def qc_pictures(quality: pd.DataFrame, preprocess: VolumeSet, config: ReportConfig) -> tuple[tuple[str, bytes], ...]:
    """Return QC pictures of the scans to look at first."""
    chosen: list[tuple[str, bytes]] = []
    for scan in quality["scan"]:
        if len(chosen) == config.qc_pictures:
            break
        if (picture := preprocess.qc_picture(scan, config.convention)) is not None:
            chosen.append((scan, picture))
    return tuple(chosen)


def patients_to_look_at(
    predictions: pd.DataFrame, modality: pd.Series, preprocess: VolumeSet, out: ReportPage, config: ReportConfig
) -> tuple[TellingPatient, ...]:
    """Return the test patients to look at with pictures of their scans; write the pages of slices.

    Args:
        predictions: as in `evaluation.intervals`, with `scans_used`.
        modality: of each scan, by its id.
        preprocess: the scans.
        out: where pages of slices go.
        config: how many patients, and whether slices are wanted.
    """
    done = preprocess.scans()

    def shown(scan: Scan) -> Scan:
        if scan.scan not in done:
            return scan
        link = ""
        if config.viewer:
            back = "../report.html#patients"
            link = out.save_viewer(scan.scan, preprocess, convention=config.convention, back=back)
        picture = preprocess.qc_picture(scan.scan, config.convention)
        return replace(scan, modality=str(modality.get(scan.scan, "")), png=picture, link=link)

    return tuple(
        replace(patient, scans=tuple(map(shown, patient.scans)))
        for patient in telling_patients(predictions, config.patients)
    )
