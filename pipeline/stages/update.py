"""Update a joint model with the patients of a newer manifest: predict them, then learn from them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cohort.origin import real_only
from cohort.splits import natural_order
from console.errors import PreconditionError
from models.joint.basis import public_components
from models.joint.blocks import Blocks, FloatArray
from models.joint.gaussian import TooFewPatientsError
from pipeline.core.provenance import digest
from pipeline.core.runtime import Runtime
from pipeline.specs.update import UpdateConfig
from pipeline.store.features import FeatureStore
from pipeline.store.tables import CohortTables
from pipeline.store.update import UpdateSet
from pipeline.store.volumes import VolumeSet
from synthesis.updating import (
    NEWEST,
    Prediction,
    Updated,
    apart,
    drift,
    held_out,
    learn,
    model_of,
    nobody,
    predict,
    weighted_sums,
    with_blocks,
)

BEFORE, HELD_OUT = "before it was learnt", "held out"
SAME = 1e-5  # relative; scores of the same feature maps, summed up in another order
EXACT = 1e-10  # between sums that were updated and sums made anew, relative
CHUNK = 256  # scans loaded at a time
# Settings of preprocess that change what is seen.
OF_VOXELS = ("spacing_mm", "skull_strip_mode", "register_to", "registration")
EXPIRED = (
    "Version {version} of the joint model knows patients that an earlier exported model does not. What was measured "
    "for that model, its calibration, its conformal sets and its distances, is about the patients before them and has "
    "expired: type --stages export, or calibrate it on patients of now"
)


def update(
    cohort: CohortTables,
    preprocess: VolumeSet,
    features: FeatureStore,
    out: UpdateSet,
    config: UpdateConfig,
    runtime: Runtime,
) -> None:
    """Write a new version if the manifest has new patients, or new sessions or scans of those who are in.

    Raises:
        PreconditionError: a patient is back who was to be forgotten, the classes or the scores are other ones than
            before, or there are too few patients.
    """
    now, sessions = _patients(cohort, features, config, runtime)
    classes = list(cohort.classes())
    if back := out.forgotten(now.subjects):
        raise PreconditionError(
            f"{len(back)} patients in the manifest were to be forgotten, {back[0]} among them. Take them out of the "
            "manifest; if they have agreed again, remove update/forgotten.json"
        )
    before, record = out.state(), out.record() or {"versions": []}
    older = _older(record.get("sessions", {}), sessions, runtime)
    now = now.without(older)
    scores_of = _scores_of(features, config)
    if before is not None and (record["classes"] != classes):
        raise PreconditionError(
            f"classes are {classes}, and those of update/ are {record['classes']}; sums of other classes do not go "
            "together. Remove the folder update/ to start anew"
        )
    prepared, log = _prepared(cohort, preprocess, features), out.log() if before is not None else None
    if before is not None and (changed := _changed(record, scores_of, prepared)):
        _start_anew(before, now, changed, runtime)
        before = None
    names = sorted({*now.sums.blocks.names, *(before.sums.blocks.names if before else ())})
    sizes = dict(zip(now.sums.blocks.names, now.sums.blocks.sizes, strict=True))
    sizes |= dict(zip(before.sums.blocks.names, before.sums.blocks.sizes, strict=True)) if before else {}
    blocks = Blocks(tuple(names), tuple(sizes[name] for name in names))
    now = with_blocks(now, blocks)
    state = with_blocks(before, blocks) if before else nobody(blocks, len(classes))
    new, again = _changes(state, now)
    versions = record["versions"]
    absent = sorted(set(state.subjects) - set(now.subjects) - set(older))
    facts: dict[str, Any] = {"classes": classes, "scores_of": scores_of}
    facts["sessions"] = {**record.get("sessions", {}), **{name: sessions[name] for name in now.subjects}}
    facts["prepared"] = {**record.get("prepared", {}), **prepared}
    if not new and not again:
        assert log is not None  # nothing new, so there is a version
        runtime.note(f"nobody is new; version {len(versions)} stays")
        knows_all = not (absent or older)  # an older manifest does not know whom the newest version knows
        cohorts = dict.fromkeys([*record.get("cohorts", ()), *([cohort.fingerprint] if knows_all else [])])
        out.save(state, log, {**facts, "versions": versions, "cohorts": list(cohorts)})
        return
    try:
        after, said, how = _learn(state, now, [*new, *again], config)
        version = len(versions) + 1
        rows = _rows(said, now, [*new, *again], classes, version=version, how=how)
        log = rows if log is None else pd.concat([log, rows], ignore_index=True)
        found = _facts(after, log, version, config)
    except TooFewPatientsError as error:
        raise PreconditionError(f"no joint model can be learnt: {error}") from error
    found |= {
        "added": new, "replaced": again, "absent": len(absent), "in": list(after.subjects),
        "forgetting": config.forgetting, "log_loss": float(rows["log_loss"].mean()), "how": how, "erased": 0,
    }  # fmt: skip
    for note in _notes(found, absent):
        runtime.note(note)
    out.save(after, log, {**facts, "versions": [*versions, found], "cohorts": [cohort.fingerprint]})


def _patients(
    cohort: CohortTables, features: FeatureStore, config: UpdateConfig, runtime: Runtime
) -> tuple[Updated, dict[str, str]]:
    """Return the newest session of each patient, scans of one modality averaged, and which session it is."""
    everything = real_only(cohort.scans())
    scans = everything[everything["scan"].isin(set(features.scans()))]
    if scans.empty:
        raise PreconditionError("no scan has a feature map; see failures.csv")
    if tables := sorted(set(everything.loc[everything["kind"] == "table", "modality"])):
        runtime.note(f"{', '.join(tables)}: tables are coded by what patients show, so they are not in this model")
    sessions = scans.drop_duplicates(["subject", "session"])
    sessions = sessions.sort_values("session", key=lambda names: names.map(natural_order), kind="stable")
    last = sessions.drop_duplicates("subject", keep="last").set_index("subject")["session"]
    newest = scans["subject"].map(last)
    earlier = scans.loc[scans["session"] != newest, "subject"].nunique()
    if earlier:
        runtime.note(f"{earlier} patients have several sessions; the last one counts")
    scans = scans[scans["session"] == newest].sort_values("scan")
    shape = features.feature_map_shape()
    components = public_components(shape, config.components)
    subjects = sorted(set(scans["subject"]))
    place = {name: i for i, name in enumerate(subjects)}
    modalities = tuple(sorted(set(scans["modality"])))
    blocks = Blocks(modalities, (len(components),) * len(modalities))
    rows = np.full((len(subjects), blocks.width), np.nan)
    for modality, group in scans.groupby("modality"):
        total, count = np.zeros((len(subjects), len(components))), np.zeros(len(subjects))
        for start in range(0, len(group), CHUNK):
            some = group.iloc[start : start + CHUNK]
            owner = np.array([place[name] for name in some["subject"]])
            flat = features.load(some["scan"].to_list()).flatten(1).numpy().astype(np.float64)
            np.add.at(total, owner, flat @ components.T.astype(np.float64))
            np.add.at(count, owner, 1)
        there = count > 0
        rows[there, blocks.slice_of(str(modality))] = total[there] / count[there, None]
    label = scans.drop_duplicates("subject").set_index("subject")["label"]
    classes = cohort.classes()
    labels = np.array([classes.index(label[name]) for name in subjects], dtype=np.int64)
    weights = np.ones(len(subjects))
    sums = weighted_sums(rows, labels, weights, blocks, len(classes))
    return Updated(sums, tuple(subjects), rows, labels, weights), {name: str(last[name]) for name in subjects}


def _older(learnt: Mapping[str, str], sessions: Mapping[str, str], runtime: Runtime) -> list[str]:
    """Return who was learnt from a later session than the newest of this manifest, and say that it stays."""
    older = [n for n, now in sessions.items() if n in learnt and natural_order(now) < natural_order(learnt[n])]
    if older:
        runtime.note(
            f"{len(older)} patients ({older[0]} among them) were learnt from a later session than the newest in this "
            "manifest; the later one stays"
        )
    return older


def _scores_of(features: FeatureStore, config: UpdateConfig) -> str:
    """Return a hash of what the scores are scores of: settings of the backbone, shape, number."""
    made_from = (features.manifest or {}).get("made_from", {})
    return digest([made_from.get("settings"), features.feature_map_shape(), config.components])


def _prepared(cohort: CohortTables, preprocess: VolumeSet, features: FeatureStore) -> dict[str, str]:
    """Return hashes of how scans are prepared, of all and of each modality; else old and new ones would be mixed."""
    made = [(artifact.manifest or {}).get("made_from", {}) for artifact in (cohort, preprocess, features)]
    settings = made[1].get("settings", {})
    everybody = [
        {name: settings.get(name) for name in OF_VOXELS},
        *([each.get("version"), each.get("external")] for each in made[1:]),
    ]
    modalities = made[0].get("settings", {}).get("modalities", {})
    return {f"modality {name}": digest(each) for name, each in modalities.items()} | {"all": digest(everybody)}


def _changed(record: Mapping[str, Any], scores_of: str, prepared: Mapping[str, str]) -> str:
    """Return what changed so that everybody has other scores; "" for nothing. What was not recorded did not change."""
    if record["scores_of"] != scores_of:
        return "the backbone or update.components"
    before = record.get("prepared", {})
    other = [name for name, each in prepared.items() if before.get(name, each) != each]
    if not other:
        return ""
    names = [name.removeprefix("modality ") for name in other if name != "all"]
    return f"how {' and '.join(names) or 'every scan'} is prepared (cohort.modalities, preprocess, weights)"


def _start_anew(before: Updated, now: Updated, changed: str, runtime: Runtime) -> None:
    """Say that everybody is learnt from anew.

    Raises:
        PreconditionError: somebody is not.
    """
    if lost := sorted(set(before.subjects) - set(now.subjects)):
        raise PreconditionError(
            f"{changed} changed, so patients have other scores; "
            f"{len(lost)} patients who are in are not in the manifest any more ({lost[0]} among them), or with an "
            "earlier session, and cannot be scored anew. Put them back, go back to the earlier settings, or remove the "
            "folder update/ to start anew"
        )
    runtime.note(f"{changed} changed: everybody is scored and learnt from anew")


def _changes(state: Updated, now: Updated) -> tuple[list[str], list[str]]:
    """Return who is new, and who is in with other scores or another class."""
    place = {name: i for i, name in enumerate(state.subjects)}
    new = [name for name in now.subjects if name not in place]
    again = [
        name
        for i, name in enumerate(now.subjects)
        if name in place
        and not (
            np.allclose(state.rows[place[name]], now.rows[i], rtol=SAME, atol=SAME, equal_nan=True)
            and state.labels[place[name]] == now.labels[i]
        )
    ]
    return new, again


def _learn(state: Updated, now: Updated, subjects: list[str], config: UpdateConfig) -> tuple[Updated, Prediction, str]:
    """Predict some patients by what was known before, then learn from them."""
    chosen = _rows_of(now, subjects)
    rows, labels = now.rows[chosen], now.labels[chosen]
    here = set(state.subjects)
    rest = state.without([name for name in subjects if name in here])
    after = learn(state, subjects, rows, labels, forgetting=config.forgetting)
    try:
        return after, predict(rest.sums, rows, labels), BEFORE
    except TooFewPatientsError:
        pass
    said = held_out(after, seed=config.seed)  # the first patients, or all but a few are back: too few were known before
    order = _rows_of(after, subjects)
    return after, Prediction(said.classes[order], said.surprise[order]), HELD_OUT


def _rows_of(state: Updated, subjects: list[str]) -> NDArray[np.int64]:
    place = {name: i for i, name in enumerate(state.subjects)}
    return np.array([place[name] for name in subjects], dtype=np.int64)


def _rows(
    said: Prediction, now: Updated, subjects: list[str], classes: list[str], *, version: int, how: str
) -> pd.DataFrame:
    """Return rows of the log."""
    chosen = _rows_of(now, subjects)
    labels = now.labels[chosen]
    chance: FloatArray = said.classes[np.arange(len(subjects)), labels]
    patterns = now.sums.blocks.patterns(now.rows[chosen])
    has = ["+".join(n for n, there in zip(now.sums.blocks.names, p, strict=True) if there) for p in patterns]
    table: dict[str, Any] = {
        "version": version, "subject": subjects, "truth": [classes[k] for k in labels], "has": has, "how": how,
        "log_loss": -np.log(np.maximum(chance, np.finfo(float).tiny)), "surprise": said.surprise,
    }  # fmt: skip
    table |= {f"p_{name}": said.classes[:, k] for k, name in enumerate(classes)}
    return pd.DataFrame(table)


def _facts(after: Updated, log: pd.DataFrame, version: int, config: UpdateConfig) -> dict[str, Any]:
    """Return what is known of a version: whether its sums are those of the patients, and drift.

    Raises:
        TooFewPatientsError: nothing can be learnt from them.
    """
    model, left_out = model_of(after.sums)
    # what was said with other scores, before everybody was learnt from anew, is no measure of these
    since = max(log.loc[log["how"] == HELD_OUT, "version"], default=0)
    last = log[(log["how"] == BEFORE) & (log["version"] > since)].drop_duplicates("subject", keep="last")
    count = max(NEWEST, int((last["version"] == version).sum()))
    here = last[last["subject"].isin(after.subjects)].tail(count)
    found = drift(after, dict(zip(here["subject"], here["surprise"], strict=True)), version=version, seed=config.seed)
    return {
        "version": version, "apart": apart(after.sums, after.anew()), "left_out": list(left_out),
        "counts_as": float(after.weights.sum()), "shrinkage": model.shrinkage,
        "drift": {"p": found.p, "limit": found.limit, "newest": found.newest, "earlier": found.earlier,
                  "found": found.found},
    }  # fmt: skip


def _notes(facts: dict[str, Any], absent: list[str]) -> list[str]:
    """Return what a version gives reason to say."""
    notes = [f"{name}: too few patients have it; it is kept in the sums and not used yet" for name in facts["left_out"]]
    if facts["apart"] > EXACT:
        notes.append(
            f"the updated sums differ from sums made anew by {facts['apart']:.1g} of their largest entry; rounding has "
            "added up. Remove the folder update/ to start anew"
        )
    if absent:
        notes.append(
            f"{len(absent)} patients who are in are not in the manifest any more; they stay in. Use --forget SUBJECT "
            "to take one out"
        )
    if facts["drift"]["found"]:
        notes.append(
            f"drift: the newest {facts['drift']['newest']} patients are farther from the model than the "
            f"{facts['drift']['earlier']} before them (p = {facts['drift']['p']:.1g}, limit "
            f"{facts['drift']['limit']:.1g}). Look at their scanner, site and preprocessing; "
            "update.forgetting below 1 lets earlier ones count less"
        )
    if facts["version"] > 1:
        notes.append(EXPIRED.format(version=facts["version"]))
    return notes
