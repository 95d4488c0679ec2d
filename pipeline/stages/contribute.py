"""The sums of a site's training patients, in one file for the others."""

import hashlib
import secrets
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cohort.covariates import as_numbers, covariates_of
from cohort.manifest import observations
from cohort.origin import real_only
from cohort.splits import SUBJECT, SplitConfig, subjects_of
from console.errors import InputError, PreconditionError, nothing_changed_yet
from files.key_pairs import fingerprint
from models.joint.blocks import FloatArray
from models.joint.dense import TooManyBlocksError, length_of, to_vector
from models.joint.disclosure import told_apart
from models.joint.federated import Contribution, contribution_of, scores_of, small_cells
from models.joint.masks import OutOfRangeError, masked, to_ring
from models.joint.model import Patients
from models.joint.privacy import ONE_ROW, clipped, noise_for, noise_to_signal, noisy, quota_sensitivity
from models.joint.sums import sums_of
from pipeline.core.runtime import Runtime
from pipeline.federation import mask_keys
from pipeline.federation.plan import Plan, cell_name, encoder_of, layout_of, plan_hash, plan_of, widths_of
from pipeline.federation.sum_files import Sent, contribution_bytes
from pipeline.specs.contribute import ContributeConfig
from pipeline.specs.features import FeaturesConfig
from pipeline.specs.preprocess import PreprocessConfig
from pipeline.store.contribution import ContributionSet
from pipeline.store.features import FeatureStore
from pipeline.store.tables import CohortTables, SplitTables
from pipeline.training.feature_maps import feature_maps_of
from pipeline.training.joint_patients import joint_patients, learnt_from, notes_on_sessions, observation_table
from pipeline.training.repeat_data import RepeatData, data_of_repeat, repeats_of, without_synthetic

SCORE_DIGITS = 6  # of scores, in the hash that says whether a scan was another one


def contribute(
    cohort: CohortTables,
    split: SplitTables,
    features: FeatureStore,
    modalities: Any,
    preprocess: PreprocessConfig,
    features_settings: FeaturesConfig,
    split_settings: SplitConfig,
    out: ContributionSet,
    config: ContributeConfig,
    runtime: Runtime,
) -> None:
    """Write the sums of the real training patients of one repeat; of several sessions of a patient one is summed.

    Raises:
        InputError: a cell is too small, a covariate is coded otherwise, a class or a repeat is not there, or masks
            cannot be made; with noise, others depend on one patient without a bound.
    """
    with nothing_changed_yet():
        if config.repeat not in repeats_of(split):
            raise InputError(f"contribute.repeat: there is no repeat {config.repeat}; see split/splits.csv")
        sensitivity = ONE_ROW if config.epsilon is None else _sensitivity(cohort, split, split_settings, config.repeat)
        data = without_synthetic(data_of_repeat(cohort, split, features, config.repeat), cohort)
        maps = feature_maps_of(data, features)
        shape = features.feature_map_shape()
        classes = config.classes or cohort.classes()
        plan = plan_of(config, classes, modalities, preprocess, features_settings, shape)
        rows, train = observation_table(data), learnt_from(data)
        if not train:
            raise InputError(f"repeat {config.repeat} has no training scan left; see failures.csv and split/splits.csv")
        covariates = covariates_of(real_only(cohort.scans()))
        labels = _labels(rows.loc[train, "label"].to_list(), classes)
        _check_covariates(plan, covariates.loc[covariates.index.isin(train)])
        patients = joint_patients(train, data, maps, encoder_of(plan), covariates)
        of_rows = rows.loc[train, "subject"].to_list()
        kept = _without_small_cells(patients, labels, of_rows, plan, config, runtime)
        subjects = sorted({of_rows[i] for i in kept})
        summed = _summed(patients, labels, list(zip(of_rows, train, strict=True)), kept, plan, config)
        earlier = out.releases()
        if config.epsilon is None:
            _refuse_differences(earlier, summed, config)
        sent = _sent(patients.rows(kept), labels[kept], plan, config, sensitivity, runtime, out)
        release = {
            "id": sent.facts["id"],
            "repeat": config.repeat,
            "round": config.round if config.key else None,
            "epsilon": config.epsilon,
            "delta": config.delta if config.epsilon else None,
            "train_subjects": subjects,
            "validation_subjects": [],
            "source": sent.facts["source"],
            "summed": summed,
        }
        _say_what_is_spent([*earlier, release], runtime)
    out.save(contribution_bytes(sent), release)
    runtime.notes += notes_on_sessions(data)
    _say_averaged(data, train, runtime)
    runtime.results |= {"counts": {"training patients": len(kept)}, "plan": plan, "plan_hash": plan_hash(plan)}


def _sensitivity(cohort: CohortTables, split: SplitTables, settings: SplitConfig, repeat: int) -> float:
    """Return what one patient more moves in the sums, through the split too.

    Raises:
        PreconditionError: the scans of others, or their split, depend on a patient without a bound.
    """
    if settings.missing:
        raise PreconditionError(
            "contribute.epsilon hides one patient, and split.missing hides scans by quotas: one patient more changes "
            "which scans others have. Leave split.missing out"
        )
    given = subjects_of(observations(real_only(cohort.scans()))).set_index("subject")["split"]
    splits = split.splits().query("repeat == @repeat").set_index("subject")["split"]
    if (given == splits.reindex(given.index)).all():
        return ONE_ROW
    if settings.by != SUBJECT or settings.new_subjects == "split":
        name = "split.by" if settings.by != SUBJECT else "split.new_subjects split"
        raise PreconditionError(
            f"contribute.epsilon hides one patient, and with {name} one patient more can move many others between "
            "training and test. Leave it out, or give the split in the manifest (a column split)"
        )
    return quota_sensitivity(len(cohort.classes()))


def _labels(names: list[str], classes: tuple[str, ...]) -> NDArray[np.int64]:
    if unknown := sorted(set(names) - set(classes)):
        raise InputError(f"contribute.classes: {', '.join(classes)}; patients here are {', '.join(unknown)} too")
    return np.array([classes.index(name) for name in names], dtype=np.int64)


def _check_covariates(plan: Plan, table: pd.DataFrame) -> None:
    """Refuse covariates of the plan that this cohort has not, and values that would count as missing without a word.

    Args:
        plan: of the site.
        table: covariates of the training observations, text, "" where nothing is given.
    """
    if unknown := [name for name in plan["covariates"] if name not in table]:
        raise InputError(
            f"contribute.covariates names {', '.join(unknown)}; this cohort has {', '.join(table) or 'none'}. Correct "
            "the name, here and at every site; or name it in cohort.covariates, with an empty column in the manifest "
            "if nobody here has it"
        )
    for name, wanted in plan["covariates"].items():
        given = table.loc[table[name] != "", name]
        numbers = not isinstance(wanted[0], str)
        wrong = given[as_numbers(given).isna()] if numbers else given[~given.isin(wanted)]
        if len(wrong):
            found = ", ".join(f"{value!r} ({count} patients)" for value, count in wrong.value_counts().head(5).items())
            raise InputError(
                f"contribute.covariates.{name}: {found}; expected {'a number' if numbers else ', '.join(wanted)}. "
                "Write it so in the manifest, or add it to the setting at every site; empty is missing"
            )


def _without_small_cells(
    patients: Patients,
    labels: NDArray[np.int64],
    subjects: list[str],
    plan: Plan,
    config: ContributeConfig,
    runtime: Runtime,
) -> NDArray[np.int64]:
    """Return the observations that are summed.

    With noise nobody is left out: that a cell is refused would tell of its patients what noise hides. The noise is made
    for one row of each patient, and there is no more than one.
    """
    blocks = layout_of(plan)
    rows = scores_of(patients, blocks, tuple(plan["feature_map_shape"]))
    keys = list(zip(labels.tolist(), blocks.patterns(rows), strict=True))
    small = small_cells(keys, subjects, config.smallest_cell)
    if not small or config.epsilon is not None:
        return np.arange(len(rows))
    named = "; ".join(f"{cell_name(plan, key)}: {count}" for key, count in small.items())
    if config.small_cells == "refuse":
        raise InputError(
            f"too few patients to share (contribute.smallest_cell is {config.smallest_cell}): {named}. Leave them out "
            "with contribute.small_cells leave_out, or leave a covariate or a modality out at every site"
        )
    kept = np.array([i for i, key in enumerate(keys) if key not in small], dtype=np.int64)
    runtime.note(f"left out, fewer than {config.smallest_cell} patients each: {named}")
    if len(kept) == 0:
        raise InputError(f"every cell has fewer than {config.smallest_cell} patients; there is nothing to share")
    return kept


def _summed(
    patients: Patients,
    labels: NDArray[np.int64],
    of_rows: list[tuple[str, str]],
    kept: NDArray[np.int64],
    plan: Plan,
    config: ContributeConfig,
) -> dict[str, list[list[str]]]:
    """Return the rows of each sum: of cells by their names, and with feature maps of modalities.

    A row is subject, observation, and a hash of its scores: sums over the same patients differ by one of them alone if
    that one has a session more, or another scan in the place of one.
    """
    blocks = layout_of(plan)
    scores = scores_of(patients, blocks, tuple(plan["feature_map_shape"]))
    patterns = blocks.patterns(scores)
    found: dict[str, list[list[str]]] = {}
    for i in kept.tolist():
        row = [*of_rows[i], hashlib.sha256(scores[i].round(SCORE_DIGITS).tobytes()).hexdigest()[:16]]
        found.setdefault(cell_name(plan, (int(labels[i]), patterns[i])), []).append(row)
        for name, has in zip(blocks.names, patterns[i], strict=True):
            if config.feature_maps and has and name in plan["modalities"]:
                found.setdefault(f"feature maps of {name}", []).append(row)
    return found


def _refuse_differences(
    earlier: list[dict[str, Any]], summed: dict[str, list[list[str]]], config: ContributeConfig
) -> None:
    """Refuse sums whose difference from released ones is that of a few patients; with noise there is nothing exact.

    Rows are held against each other by subject and observation, and once more with their scores.
    """
    exact = [each.get("summed", {}) for each in earlier if not each["epsilon"]]
    for parts in (2, 3):
        before = [[tuple(row[:parts]) for row in rows] for each in exact for rows in each.values()]
        new = [[tuple(row[:parts]) for row in rows] for rows in summed.values()]
        if before and (found := told_apart(before, new, config.smallest_cell)):
            named = sorted({row[0] for row in found[0]})
            way = (
                "add noise (contribute.epsilon), or wait: until so many have changed, whoever combines leaves this "
                "site's file out"
            )
            if not any(each.get("forgotten") for each in earlier):
                way = f"send the earlier file once more, {way}"
            raise InputError(
                f"these sums and those released before (contribute/sent.json) together give away the sum over "
                f"{len(named)} patient(s) alone ({', '.join(named)}); contribute.smallest_cell is "
                f"{config.smallest_cell}, and so many have to change. Either {way}"
            )


def _sent(
    patients: Patients,
    labels: NDArray[np.int64],
    plan: Plan,
    config: ContributeConfig,
    sensitivity: float,
    runtime: Runtime,
    out: ContributionSet,
) -> Sent:
    """Sum, shorten, add noise and masks as the settings say."""
    blocks, classes, shape = layout_of(plan), len(plan["classes"]), tuple(plan["feature_map_shape"])
    own = secrets.token_hex(16)
    facts: dict[str, Any] = {
        "id": own, "source": _source(out, own), "plan": plan, "repeat": config.repeat, "clip": config.clip,
        "noise": None,
    }  # fmt: skip
    total = contribution_of(patients, labels, blocks, classes, shape, feature_maps=config.feature_maps)
    if config.clip is not None:
        rows, share = clipped(scores_of(patients, blocks, shape), config.clip)
        total = Contribution(sums_of(rows, labels, blocks, classes), total.outside)
        runtime.note(f"contribute.clip shortened the scores of {100 * share:.0f} % of the training patients")
    try:
        vector: FloatArray | None = None
        if config.epsilon is not None and config.clip is not None:
            noise = noise_for(config.epsilon, config.delta, config.clip, sensitivity)
            facts["noise"] = {"epsilon": noise.epsilon, "delta": noise.delta, "sd": noise.sd}
            vector = noisy(total.sums, noise)
            runtime.note(
                f"noise for ε = {noise.epsilon:g}, δ = {noise.delta:g}: a covariance carries noise of "
                f"{noise_to_signal(total.sums, noise):.2g} times the mean variance of this site's scores"
            )
        if config.key is None:
            return Sent(facts, plain=total) if vector is None else Sent(facts, noisy=vector)
        vector = to_vector(total, widths_of(plan)) if vector is None else vector
        return _masked(vector, facts, plan, config, out)
    except TooManyBlocksError as error:
        raise InputError(str(error)) from error


def _source(out: ContributionSet, own: str) -> str:
    """Return what all contributions of this workspace have in common: the id of its first, a random one."""
    releases = out.releases()
    return str(releases[0].get("source", releases[0]["id"])) if releases else own


def _masked(
    vector: FloatArray, facts: dict[str, Any], plan: Plan, config: ContributeConfig, out: ContributionSet
) -> Sent:
    if config.key is None or config.public_keys is None or config.site is None:
        raise TypeError("masks need site, key and public keys")
    used = [each for each in out.releases() if each["round"] == config.round]
    if used:
        raise InputError(
            f"contribute.round {config.round!r} was used for a contribution of this workspace; the same masks on other "
            "sums would give their difference away. Agree on another round with all sites"
        )
    keys = mask_keys.public_keys(config.public_keys)
    context = f"{plan_hash(plan)} repeat {config.repeat} round {config.round}"
    size = length_of(layout_of(plan), len(plan["classes"]), widths_of(plan))
    secret = mask_keys.secret_key(config.key)
    told = "\n".join(f"{name} {fingerprint(key)}" for name, key in keys.items())
    context = f"{context}\n{told}"  # with other sites the masks are others, too
    streams = mask_keys.streams(config.site, secret, keys, context=context, size=8 * size)
    facts |= {
        "site": config.site,
        "sites": list(keys),
        "keys": hashlib.sha256(told.encode()).hexdigest(),
        "round": config.round,
    }
    try:
        ring = masked(to_ring(vector, sites=len(keys)), config.site, streams)
    except (OutOfRangeError, ValueError) as error:
        raise InputError(str(error)) from error
    mask_keys.use_round(config.key, context)
    return Sent(facts, ring=ring)


def _say_what_is_spent(releases: list[dict[str, Any]], runtime: Runtime) -> None:
    if not releases[-1]["epsilon"]:
        return
    epsilon, delta = (sum(each[name] or 0 for each in releases) for name in ("epsilon", "delta"))
    bare = sum(1 for each in releases if not each["epsilon"])
    runtime.note(
        f"privacy spent by this workspace so far: ε = {epsilon:g}, δ = {delta:g} in {len(releases) - bare} "
        "contributions" + (f"; {bare} more were sent without noise, so nothing is promised" if bare else "")
    )


def _say_averaged(data: RepeatData, train: list[str], runtime: Runtime) -> None:
    several = data.scans[data.scans["observation"].isin(train)].groupby(["observation", "modality"]).size()
    if (several > 1).any():
        runtime.note(
            f"several scans of one modality were averaged first (times in training: {int((several > 1).sum())})"
        )
