"""Assign the subjects to train, validation and test, once per workspace; hide scans if requested."""

import pandas as pd

from cohort.covariates import covariates_of
from cohort.manifest import observations
from cohort.mechanisms import RANDOM
from cohort.missingness import Pulls, column_of, hide_scans, positive_of, pulls_of
from cohort.names import canonical_value
from cohort.origin import real_only, synthetic_subjects
from cohort.splits import (
    SUBJECT,
    SplitConfig,
    check_frozen,
    make_splits,
    make_splits_by,
    on_both_sides,
    reconcile,
    subjects_of,
)
from console.errors import PreconditionError
from pipeline.core.runtime import Runtime
from pipeline.store.base import ArtifactError
from pipeline.store.tables import CohortTables, SplitTables

FROZEN_SETTINGS = ("ratio", "repeats", "seed", "by")
BEFORE = {"by": SUBJECT}  # what it was in workspaces that are older than the setting


def split(cohort: CohortTables, out: SplitTables, config: SplitConfig, runtime: Runtime) -> None:
    """Write `splits.csv`, or reuse the existing one, and write `availability.csv`.

    Raises:
        PreconditionError: the splits are frozen with other settings, or damaged, or cannot be made.
    """
    if not cohort.classes():
        raise PreconditionError(
            "cohort.label is null, so there is nothing to learn; name the column with the patients' classes"
        )
    scans = cohort.scans()
    made = synthetic_subjects(scans)  # they are trained on in every repeat, and take no other part
    everybody, scans = scans, real_only(scans)
    subjects = subjects_of(observations(scans))
    now = {name: config.model_dump(mode="json")[name] for name in FROZEN_SETTINGS}
    try:
        frozen = out.frozen()
    except ArtifactError as error:
        raise PreconditionError(str(error)) from error
    try:
        sites = None if config.by == SUBJECT else _sites(scans, config)
        if frozen is None:
            splits = make_splits(subjects, config) if sites is None else make_splits_by(subjects, sites, config)
            made_with = now
        else:
            splits, made_with = frozen[0], BEFORE | frozen[1]
            splits = splits[~splits["subject"].isin(made)]
            check_frozen(splits)
            changed = [name for name in FROZEN_SETTINGS if made_with.get(name, now[name]) != now[name]]
            if changed:
                raise PreconditionError(
                    "the splits of this workspace are frozen, and were made with "
                    + ", ".join(f"split.{n} = {made_with[n]} (now {now[n]})" for n in changed)
                    + ". Put the settings back, name another --workspace, or type --new-splits to assign anew; "
                    "figures made with other splits cannot be compared"
                )
            merged = reconcile(splits, subjects, config)
            if merged.new and config.new_subjects == "leave_out":
                runtime.note(
                    f"{len(merged.new)} subjects came after the splits were frozen and take no part: "
                    f"{_names(merged.new)}. To use them, type --split.new_subjects train (or test, or split)"
                )
            elif merged.new:
                runtime.note(f"{len(merged.new)} new subjects: {config.new_subjects} ({_names(merged.new)})")
            if merged.missing:
                names = _names(merged.missing)
                runtime.note(f"{len(merged.missing)} subjects of the splits are missing from the manifest: {names}")
            if merged.moved:
                runtime.note(
                    f"the frozen splits hold, though the manifest moved {_names(merged.moved)} to another split"
                )
            splits = merged.splits
        if sites is not None:
            _note_sites(splits, sites, config, runtime)
        _check_classes(splits, subjects, runtime)
        shares = {modality: missing.share for modality, missing in config.missing.items()}
        pulls = _pulls(everybody, config, cohort.classes(), runtime)
        hidden = hide_scans(everybody, shares, config.seed, pulls)
    except PreconditionError:
        raise
    except ValueError as error:
        raise PreconditionError(str(error)) from error
    for note in hidden.notes:
        runtime.note(note)
    tested = {frozenset(rows["subject"]) for _, rows in splits[splits["split"] == "test"].groupby("repeat")}
    if made and len(tested) > 1:
        runtime.note(
            f"{len(made)} synthetic patients are trained on in every repeat. They were drawn from the training "
            "patients of one, and other repeats test some of these: results there look better than they are"
        )
    trained = [
        {"repeat": repeat, "subject": subject, "split": "train"}
        for repeat in splits["repeat"].unique()
        for subject in sorted(made)
    ]
    splits = pd.concat([splits, pd.DataFrame(trained)], ignore_index=True) if trained else splits
    out.save_splits(splits, made_with)
    out.save_table("availability.csv", hidden.scans, out.AVAILABILITY_COLUMNS)


def _pulls(scans: pd.DataFrame, config: SplitConfig, classes: tuple[str, ...], runtime: Runtime) -> dict[str, Pulls]:
    """Return who is likelier to lose each modality; a modality that is lost at random is left out.

    Raises:
        ValueError: the cohort does not say what the mechanism goes by.
    """
    covariates = covariates_of(scans)
    label = scans.drop_duplicates("observation").set_index("observation")["label"]
    pulls: dict[str, Pulls] = {}
    for modality, missing in config.missing.items():
        if missing.mechanism == RANDOM:
            continue
        try:
            cells = label if missing.of is None else column_of(covariates, missing.of)
            subjects = scans[scans["modality"] == modality].drop_duplicates("observation").set_index("observation")
            found = pulls_of(missing, subjects["subject"], cells, positive=positive_of(missing, classes))
        except ValueError as error:
            raise ValueError(f"split.missing.{modality}: {error}") from error
        for note in found.notes:
            runtime.note(f"split.missing.{modality}: {note}")
        pulls[modality] = found.pulls
    return pulls


def _check_classes(splits: pd.DataFrame, subjects: pd.DataFrame, runtime: Runtime) -> None:
    """Check that every split of every repeat has all classes: labels may change after splits are frozen."""
    merged = splits.merge(subjects[["subject", "label"]], on="subject")
    for (repeat, split_name), group in merged.groupby(["repeat", "split"]):
        lacking = sorted(set(subjects["label"]) - set(group["label"]))
        if lacking and split_name == "train":
            raise PreconditionError(
                f"repeat {repeat} has no training subject of class {', '.join(lacking)}; type --new-splits"
            )
        if lacking:
            runtime.note(f"repeat {repeat}: the {split_name} split has no subject of class {', '.join(lacking)}")


def _sites(scans: pd.DataFrame, config: SplitConfig) -> pd.Series:
    """Return subject → value of the column that `split.by` names.

    Raises:
        ValueError: there is no such column, a subject has two values, or new subjects would be assigned at random.
    """
    covariates = covariates_of(scans)
    if config.by not in covariates:
        known = ", ".join(covariates.columns) or "none"
        raise ValueError(
            f"split.by is {config.by}, which is no covariate of this cohort (there is: {known}); it has to be a column "
            f"of the manifest that cohort.covariates names, or {SUBJECT}"
        )
    if config.new_subjects != "leave_out":
        raise ValueError(
            f"split.by is {config.by}, and split.new_subjects {config.new_subjects} could put a {config.by} on both "
            "sides; leave new subjects out, or type --new-splits"
        )
    pairs = pd.DataFrame({"subject": scans["subject"], "site": scans[config.by]}).drop_duplicates()
    given = pairs[pairs["site"] != ""].sort_values("subject")
    twice = sorted(given.loc[given["subject"].duplicated(), "subject"].unique())
    if twice:
        raise ValueError(
            f"split.by is {config.by}, and {_names(tuple(twice), 3)} have more than one; each may have one"
        )
    spellings = given.drop_duplicates("site").groupby(given["site"].map(canonical_value), sort=False)["site"]
    for _, names in spellings:
        if len(names) > 1:
            raise ValueError(f"split.by is {config.by}, and {', '.join(names)} are one in two spellings; write one")
    return given.set_index("subject")["site"]


def _note_sites(splits: pd.DataFrame, sites: pd.Series, config: SplitConfig, runtime: Runtime) -> None:
    """Say what is tested in which repeat.

    Raises:
        ValueError: the frozen splits have a site on both sides.
    """
    if both := on_both_sides(splits, sites):
        raise ValueError(
            f"split.by is {config.by}, and the frozen splits have {', '.join(both[:3])} both in training and in test, "
            "as the manifest changed; type --new-splits"
        )
    tested = splits[splits["split"] == "test"]
    tested = tested.assign(site=tested["subject"].map(sites)).dropna(subset="site")
    for repeat, rows in tested.groupby("repeat"):
        names = ", ".join(sorted(set(rows["site"])))
        runtime.note(f"repeat {repeat} is tested on {config.by} {names}, which its model never saw")


def _names(subjects: tuple[str, ...], most: int = 10) -> str:
    more = f" and {len(subjects) - most} more" if len(subjects) > most else ""
    return ", ".join(subjects[:most]) + more
