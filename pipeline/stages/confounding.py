"""What else could explain the result: methods that see no image, probes of the feature maps, groups of patients."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from baselines.covariates import TableClassifier, fit_table, fused, fusion_weight
from baselines.names import SIMPLE_NAMES, TABLE_BASELINES
from baselines.sample import CannotFit
from cohort.covariates import as_numbers, availability_of, covariates_of, folds_of, kinds_of, patterns_of
from cohort.origin import real_only
from cohort.splits import shuffled
from console.errors import InputError
from evaluation.comparison import comparison_table
from evaluation.confounding import THE_CLASS, gain_over_covariates, probe_category, probe_number
from evaluation.fairness import audit_groups, crossed, gaps_between_groups
from evaluation.intervals import probability_columns, summarise
from evaluation.metrics import decide
from files.reading import file_sha256
from pipeline.comparison.by_group import Audit, first_sessions, groups_by, sessions_in_order
from pipeline.comparison.sets_by_group import sets_by_group
from pipeline.core.runtime import Runtime
from pipeline.specs.confounding import ConfoundingConfig
from pipeline.store.comparison import ComparisonSet
from pipeline.store.confounding import ConfoundingTables
from pipeline.store.features import FeatureStore
from pipeline.store.fitted import ClassifierSet
from pipeline.store.imputed import ImputedSet
from pipeline.store.synthetic import JudgementTables, SyntheticCohort
from pipeline.store.tables import CohortTables, SplitTables
from pipeline.training.repeat_data import data_of_repeat, repeats_of
from pipeline.training.scores import as_scored

HYPERMM = SIMPLE_NAMES["hypermm"]
COVARIATES, AVAILABILITY, BOTH, FUSED = TABLE_BASELINES.values()
FOLDS, REPETITIONS = 5, 3  # of the probes
PROBE_COLUMNS = ("covariate", "kind", "modality", "n", "subjects", "mean", "low", "high", "remark")
PREDICTED = ["repeat", "subject", "observation", "truth"]
BESIDE_METRICS = ("auc", "balanced_accuracy")
LOADED = 256  # feature maps at a time
MOST_PROBED = 500  # subjects; more would take minutes, and their intervals are narrow enough


def confounding(
    cohort: CohortTables,
    split: SplitTables,
    features: FeatureStore,
    classify: ClassifierSet,
    baselines: ComparisonSet,
    impute: ImputedSet,
    synthesise: SyntheticCohort,
    judge: JudgementTables,
    out: ConfoundingTables,
    config: ConfoundingConfig,
    runtime: Runtime,
) -> None:
    """Write what methods without images reach, what the feature maps tell beside the class, and scores by group."""
    check_beside(config)
    scans, classes = real_only(cohort.scans()), cohort.classes()
    covariates = covariates_of(scans)
    test, validation = (as_scored(classify.predictions(name), classes) for name in ("test", "validation"))
    with_maps = scans[scans["scan"].isin(features.scans())]
    modalities = sorted(with_maps["modality"].unique())
    tables: dict[str, pd.DataFrame] = {}
    weights: dict[int, float] = {}
    repeats = repeats_of(split)
    balanced = bool((classify.manifest or {}).get("made_from", {}).get("settings", {}).get("balance_classes"))
    with runtime.progress(len(repeats) + len(modalities), "step") as progress:
        frames = [test[[*PREDICTED, *probability_columns(test)]].assign(method=HYPERMM)]
        for repeat in repeats:
            here = (table[table["repeat"] == repeat] for table in (test, validation))
            data = data_of_repeat(cohort, split, features, repeat).scans
            data = data[data["scan"].isin(scans["scan"])].reset_index(drop=True)
            made, weight = _without_images(
                data, covariates, *here, classes=classes, balanced=balanced, runtime=runtime, repeat=repeat
            )
            frames += made
            weights |= {} if weight is None else {repeat: weight}
            progress.advance()
        predictions = pd.concat(frames, ignore_index=True).assign(scenario="test")
        tables["predictions.csv"] = predictions
        reference = COVARIATES if (predictions["method"] == COVARIATES).any() else HYPERMM
        tables["comparison.csv"] = comparison_table(predictions, reference=reference)
        of = {name: predictions[predictions["method"] == name] for name in predictions["method"].unique()}
        gain = gain_over_covariates(of.get(COVARIATES), of.get(FUSED), of.get(AVAILABILITY))
        label = scans.drop_duplicates("observation").set_index("observation")["label"]
        probes = []
        for modality in modalities:
            rows = with_maps[with_maps["modality"] == modality]
            probes += list(_probes(rows, modality, covariates, label, features, config))
            progress.advance()
    tables["probes.csv"] = pd.DataFrame(probes, columns=list(PROBE_COLUMNS))
    used = test["scans_used"].str.split(";").explode().rename("scan").to_frame().merge(scans, on="scan")
    training = split.splits().query("split == 'train'")["subject"].unique()
    learnt_from = set(first_sessions(scans[scans["subject"].isin(training)]))
    groups, moved = _of_subjects(
        groups_by(covariates, learnt_from) | {"scans": patterns_of(used)}, test, sessions_in_order(scans)
    )
    for name, count in moved.items():
        runtime.note(f"{name}: {count} patients change group between sessions; they are counted in that of the first")
    judged = test.assign(decided=_decided(test, classify.metrics().get("thresholds")))
    singly = dict(groups)
    groups |= crossed(groups)
    tables["groups.csv"] = audit_groups(judged, groups, smallest=config.smallest_group)
    tables["gaps.csv"] = gaps_between_groups(
        judged, groups, tables["groups.csv"], smallest=config.smallest_group, permutations=config.permutations,
        seed=config.seed,
    )  # fmt: skip
    now = {artifact.folder.name: artifact.fingerprint for artifact in (cohort, split, features, synthesise)}
    audit = Audit(config.smallest_group, config.permutations, config.seed)
    audit.comparator(baselines, now, repeats, groups)
    audit.imputations(impute, now, test, singly)
    audit.synthetic(judge, synthesise, now, covariates, split.splits(), scans)
    for note in audit.notes:
        runtime.note(note)
    tables |= audit.tables()
    sets, without = sets_by_group(
        test, used, singly, smallest=config.smallest_group, permutations=config.permutations, seed=config.seed
    )
    tables |= sets
    for note in without:
        runtime.note(note)
    tables["splits_beside.csv"] = _beside(split, test, classes, config)
    facts = audit.facts | {
        "covariates": list(covariates.columns), "gain": gain, "weights_of_images": weights, "reference": reference,
        "smallest_group": config.smallest_group, "folds": FOLDS, "repetitions": REPETITIONS,
        "split_by": _split_by(split), "permutations": config.permutations,
        "positive": classes[1] if len(classes) == 2 else None,
        "lacking": _lacking(used, scans["modality"].nunique()),
    }  # fmt: skip
    out.save(tables, facts)
    runtime.results |= {"counts": {"methods": predictions["method"].nunique(), "probes": len(probes)}}


def _without_images(
    scans: pd.DataFrame,
    covariates: pd.DataFrame,
    test: pd.DataFrame,
    validation: pd.DataFrame,
    *,
    classes: tuple[str, ...],
    balanced: bool,
    runtime: Runtime,
    repeat: int,
) -> tuple[list[pd.DataFrame], float | None]:
    """Return the test predictions of one repeat by methods without images, and the weight of images in the fusion.

    `balanced`: HyperMM has learnt as if all classes were equally frequent.
    """
    rows = scans.drop_duplicates("observation").set_index("observation").sort_index()
    target = np.array([classes.index(label) for label in rows["label"]], dtype=np.int64)
    train = (rows["split"] == "train").to_numpy()
    known, scanned = covariates.reindex(rows.index).fillna(""), availability_of(scans)
    has_covariates = len(covariates.columns) > 0
    inputs = {COVARIATES: known} if has_covariates else {}
    inputs |= {AVAILABILITY: scanned}
    inputs |= {BOTH: pd.concat([known, scanned], axis=1)} if has_covariates else {}
    columns = probability_columns(test)
    fitted: dict[str, TableClassifier] = {}
    made = []
    for name, table in inputs.items():
        try:
            fitted[name] = fit_table(table, target, rows["subject"], train, classes=len(classes))
        except CannotFit as error:
            runtime.note(f"repeat {repeat}, {name}: {error}")
            return [], None
        predicted = fitted[name].probabilities(table.loc[test["observation"]])
        made.append(test[PREDICTED].assign(**dict(zip(columns, predicted.T, strict=True)), method=name))
    if not has_covariates:
        return made, None
    best = fitted[COVARIATES]
    tested, held = (best.probabilities(known.loc[table["observation"]]) for table in (test, validation))
    prior = np.full(len(classes), 1 / len(classes)) if balanced else best.prior
    weight, note = fusion_weight(
        held, validation[columns].to_numpy(dtype=np.float64), validation["truth"].to_numpy(), prior
    )
    if note:
        runtime.note(f"repeat {repeat}, {FUSED}: {note}")
    predicted = fused(tested, test[columns].to_numpy(dtype=np.float64), prior, weight)
    return [*made, test[PREDICTED].assign(**dict(zip(columns, predicted.T, strict=True)), method=FUSED)], weight


def _probes(
    scans: pd.DataFrame,
    modality: str,
    covariates: pd.DataFrame,
    label: pd.Series,
    features: FeatureStore,
    config: ConfoundingConfig,
) -> Iterator[dict[str, Any]]:
    """Yield what a linear function of one modality's feature maps tells: the class, and each covariate.

    Of more than `MOST_PROBED` subjects so many are drawn.
    """
    chosen = shuffled(scans["subject"].unique(), "probed", config.seed)[:MOST_PROBED]
    scans = scans[scans["subject"].isin(chosen)]
    names = sorted(set(scans["observation"]))
    subject = scans.drop_duplicates("observation").set_index("observation")["subject"].loc[names]
    gram = _gram(scans, names, features)
    kinds = {THE_CLASS: "category", **kinds_of(covariates)}
    cells = covariates.assign(**{THE_CLASS: label})
    for name, kind in kinds.items():
        values = cells[name].loc[names]
        row: dict[str, Any] = {"covariate": name, "kind": kind, "modality": modality, "remark": ""}
        numbers = as_numbers(values)
        if kind == "number":
            kept = numbers.notna().to_numpy()
            enough = subject[kept].nunique() >= 2 * config.smallest_group and numbers[kept].nunique() > 1
            strata = pd.cut(numbers[kept], 3, labels=False) if enough else numbers[kept]
        else:
            given = pd.DataFrame({"value": values, "subject": subject})[values != ""]
            sizes = given.groupby("value")["subject"].nunique()
            rare = sorted(sizes.index[sizes < config.smallest_group])
            kept = ((values != "") & ~values.isin(rare)).to_numpy()
            enough = len(sizes) - len(rare) > 1
            strata = values[kept]
            row["remark"] = f"left out, fewer than {config.smallest_group} patients: {', '.join(rare)}" if rare else ""
        row |= {"n": int(kept.sum()), "subjects": int(subject[kept].nunique())}
        if not enough:
            yield row | {"remark": "too few", "mean": np.nan, "low": np.nan, "high": np.nan}
            continue
        repetitions = range(REPETITIONS)
        folds = np.stack([folds_of(subject[kept], strata, FOLDS, "probe", config.seed, r) for r in repetitions])
        inner = gram[np.ix_(kept, kept)]
        if kind == "number":
            yield row | probe_number(inner, numbers[kept].to_numpy(), subject[kept], folds, seed=config.seed)
        else:
            yield row | probe_category(inner, values[kept], subject[kept], folds)


def _gram(scans: pd.DataFrame, names: list[str], features: FeatureStore) -> np.ndarray:
    """Return inner products of the mean feature map of each observation, (n, n), float64."""
    number = {name: i for i, name in enumerate(names)}
    scan_names, owner = scans["scan"].to_list(), np.array([number[name] for name in scans["observation"]])
    count = np.bincount(owner, minlength=len(names))
    mean = np.zeros((len(names), features.load(scan_names[:1])[0].numel()), dtype=np.float32)
    for start in range(0, len(scan_names), LOADED):
        loaded = features.load(scan_names[start : start + LOADED]).flatten(1).numpy()
        np.add.at(mean, owner[start : start + LOADED], loaded)
    mean /= count[:, np.newaxis].astype(np.float32)
    mean -= mean.mean(axis=0)  # smaller numbers are multiplied more exactly
    return (mean @ mean.T).astype(np.float64)


def _of_subjects(
    groups: dict[str, pd.Series], test: pd.DataFrame, place: pd.Series
) -> tuple[dict[str, pd.Series], dict[str, int]]:
    """Return grouping → tested subject → group of the first session, and how many subjects change their group."""
    tested = test.drop_duplicates("observation").sort_values(
        "observation", key=lambda names: names.map(place), kind="stable"
    )
    first = tested.drop_duplicates("subject").set_index("subject")["observation"]
    result: dict[str, pd.Series] = {}
    moved: dict[str, int] = {}
    for name, group_of in groups.items():
        result[name] = first.map(group_of).astype(group_of.dtype)
        several = tested["observation"].map(group_of).astype(object).groupby(tested["subject"]).nunique() > 1
        moved |= {name: int(several.sum())} if several.any() else {}
    return result, moved


def _decided(test: pd.DataFrame, thresholds: Mapping[str, float] | None) -> np.ndarray:
    """Return the class decided in each row, at the threshold that its repeat froze on validation patients."""
    probabilities = test[probability_columns(test)].to_numpy(dtype=np.float64)
    if thresholds is None:
        return decide(probabilities)
    frozen = test["repeat"].map({int(repeat): value for repeat, value in thresholds.items()}).to_numpy()
    return (probabilities[:, 1] >= frozen).astype(np.int64)


def _lacking(used: pd.DataFrame, modalities: int) -> int:
    """Return how many tested observations lack one of the modalities."""
    return int((used.groupby("observation")["modality"].nunique() < modalities).sum())


def _split_by(split: SplitTables) -> str:
    frozen = split.frozen()
    return str((frozen[1] if frozen else {}).get("by", "subject"))


def _beside(
    split: SplitTables, test: pd.DataFrame, classes: tuple[str, ...], config: ConfoundingConfig
) -> pd.DataFrame:
    """Score the test predictions of this workspace, and those of the one to be shown beside."""
    results = [(_split_by(split), test)]
    if config.beside is not None:
        other = CohortTables(config.beside / "cohort").classes()
        if other != classes:
            raise InputError(
                f"confounding.beside: the classes of {config.beside} are {', '.join(other) or 'unknown'}, those of "
                f"this workspace {', '.join(classes)}; name a workspace of the same cohort"
            )
        predictions = as_scored(ClassifierSet(config.beside / "classify").predictions(), classes)
        results.append((_split_by(SplitTables(config.beside / "split")), predictions))
    rows = []
    for by, table in results:
        scores = summarise(table)
        row: dict[str, Any] = {"split": by, "n": len(table), "subjects": table["subject"].nunique()}
        row |= {"repeats": table["repeat"].nunique()}
        ends = ("mean", "std", "low", "high")
        rows.append(row | {f"{m}_{end}": scores[m][end] for m in BESIDE_METRICS for end in ends})  # type: ignore[literal-required]
    return pd.DataFrame(rows)


def check_beside(config: ConfoundingConfig) -> None:
    """Check that the workspace to be shown beside has a result."""
    if config.beside is not None and ClassifierSet(config.beside / "classify").manifest is None:
        raise InputError(
            f"confounding.beside: {config.beside} has no finished stage classify; name a workspace that was run"
        )


def state_of_beside(config: ConfoundingConfig) -> Any:
    """Return hashes of what is read from the other workspace."""
    if config.beside is None:
        return None
    files = ("classify/predictions.csv", "split/frozen.json", "cohort/classes.json")
    return [file_sha256(path) if (path := config.beside / name).is_file() else None for name in files]
