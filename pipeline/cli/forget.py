"""Take a patient out of a workspace: sums, features, previews, and everything that was learnt from the patient.

The updated joint model (stage `update`) has a basis that is learnt from nobody, so the patient is subtracted from its
sums and what is left is as if the patient had never been seen. Networks, and bases of principal components, keep traces
of everybody whom they were learnt from. Nothing can be subtracted there; decision: they are removed, and the next run
fits them again without the patient. Exported models may be anywhere, so they are named and not touched.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from cohort.manifest import UNSAFE
from cohort.names import canonical
from console.errors import InputError
from files.reading import UnusableFileError, parse_json, read_bytes
from files.writing import remove_folder
from pipeline.cli.options import ONLY_IF_NAMED
from pipeline.deployment.bundle import subject_hash
from pipeline.deployment.bundle_contents import MOST_ROUNDS
from pipeline.deployment.bundle_layout import SEEN
from pipeline.specs.registry import STAGES
from pipeline.store.base import Artifact, read_record
from pipeline.store.contribution import ContributionSet
from pipeline.store.joint import ENGINES
from pipeline.store.synthetic import NETWORKS, SyntheticCohort
from pipeline.store.tables import CohortTables, SplitTables
from pipeline.store.update import UpdateSet
from pipeline.store.viewers import WithViewers
from synthesis.updating import apart

OF_SCANS = ("preprocess", "features")
WITH_PAGES = ("report", "predict")
SHOWING = (  # made of the scans of several patients, or fitted to them, and no record says whose
    ("impute", "repeat-*"),
    ("judge", "wall-*-real.png"),
    ("report", "*.html"),
    ("baselines", "*/"),
    ("baselines", "*.png"),
)
IN_TRAINING = (("joint", ENGINES), ("synthesise", NETWORKS))  # folders below stages
KEPT_FACTS = ("classes", "scores_of", "prepared", "cohorts", "sessions")  # of the record of the stage update
KEPT = ("export",)  # exported models are their owners' business
OWN_WAY = ("update", "contribute", "synthesise", "export")  # taken care of by themselves
TEXT = (".csv", ".json", ".html", ".md", ".log", ".yaml")
MOST = 64_000_000  # bytes of a text file that is searched


def forget(workspace: Path, subject: str, bundles: Sequence[Path] = ()) -> list[str]:
    """Take a subject out; return a line for each thing that was done, or is left to do.

    Args:
        workspace: of a run.
        subject: id, as in the manifest.
        bundles: exported models to be asked whether they hold the subject, beside that of the workspace.

    Raises:
        InputError: the workspace does not know the subject.
    """
    updated = UpdateSet(workspace / "update")
    state = updated.state()
    scans = _scans(workspace, subject)
    in_sums = state is not None and subject in state.subjects
    if not (scans or in_sums or _assigned(workspace, subject) or _on_record(workspace, subject)):
        raise InputError(f"{workspace} knows no subject {subject!r}; ids are spelt as in the manifest")
    lines = [_from_sums(updated, subject)]
    updated.never_again(subject)
    lines += _from_scans(workspace, scans)
    lines += _learnt_from(workspace, subject)
    lines += _drawn_from(workspace, subject)
    lines += _sent(workspace, subject)
    lines += _in_training(workspace)
    lines += _shown(workspace, subject)
    lines += _still_named(workspace, subject)
    lines += [_in_bundle(folder, subject) for folder in (workspace / "export" / "bundle", *bundles) if folder.is_dir()]
    lines.append(
        "take the rows of this subject out of the manifest before the next run; the stage update refuses them, and no "
        "other stage does"
    )
    return lines


def _scans(workspace: Path, subject: str) -> list[str]:
    """Return the scans of a subject; also those whose rows have left the manifest and whose results are still there.

    Their names begin with the subject's. Of other subjects who have left and whose names begin so, results go too: they
    are made again from the scans, if these come back.
    """
    cohort = CohortTables(workspace / "cohort")
    table = cohort.scans() if (cohort.folder / "scans.csv").exists() else None
    own = [] if table is None else table.loc[table["subject"] == subject, "scan"].to_list()
    others = set() if table is None else set(table["scan"]) - set(own)
    folders = {path.name for stage in OF_SCANS for path in (workspace / stage).glob("*") if path.is_dir()}
    pages = {path.stem for stage in WITH_PAGES for path in (workspace / stage / WithViewers.VIEWERS).glob("*.html")}
    stem = re.sub(UNSAFE, "_", subject)
    left = {name for name in (folders | pages) - others if name == stem or name.startswith(f"{stem}_")}
    return sorted({*own, *left})


def _assigned(workspace: Path, subject: str) -> list[tuple[int, str]]:
    """Return repeat and split of a subject, by the frozen splits, which outlive the rows of the manifest."""
    split = SplitTables(workspace / "split")
    if not (split.folder / "splits.csv").exists():
        return []
    rows = split.splits()
    rows = rows[rows["subject"] == subject]
    return [(int(row.repeat), str(row.split)) for row in rows.itertuples()]


def _on_record(workspace: Path, subject: str) -> bool:
    """Say whether something was fitted to a subject, or sums were sent, that rows and splits no longer know."""
    sent = ContributionSet(workspace / "contribute").releases()
    return (
        any(subject in each["train_subjects"] for each in sent)
        or any(_fitted_to(workspace / stage.name, subject) for stage in STAGES)
        or bool(SyntheticCohort(workspace / "synthesise").learnt_from(subject))
    )


def _fitted_to(folder: Path, subject: str) -> list[Path]:
    """Return the repeats of a stage that were fitted to a subject."""
    found = []
    for path in sorted(folder.glob("repeat-*/record.json")):
        record = read_record(path) or {}
        if subject in (*record.get("train_subjects", ()), *record.get("validation_subjects", ())):
            found.append(path.parent)
    return found


def _from_sums(updated: UpdateSet, subject: str) -> str:
    """Subtract the subject from the sums of the stage update, and take the name out of all its versions."""
    state, record = updated.state(), updated.record()
    if state is None or record is None or subject not in state.subjects:
        return "update: the subject is in no sums"
    left = state.without([subject])
    versions = []
    for version in record["versions"]:
        lists = {key: [name for name in version[key] if name != subject] for key in ("in", "added", "replaced")}
        versions.append({**version, **lists, "erased": version["erased"] + (subject in version["in"])})
    log = updated.log()
    (updated.folder / "manifest.json").unlink(missing_ok=True)
    facts = {name: record[name] for name in KEPT_FACTS if name in record} | {"versions": versions}
    updated.save(left, log[log["subject"] != subject], facts)
    return (
        f"update: taken out of the sums by subtraction; {len(left.subjects)} patients are left, and the sums differ "
        f"from sums of those alone by {apart(left.sums, left.anew()):.1g} of their largest entry"
    )


def _from_scans(workspace: Path, scans: Sequence[str]) -> list[str]:
    """Remove volumes, pictures, feature maps and pages of slices."""
    lines = []
    for stage in OF_SCANS:
        folders = [workspace / stage / scan for scan in scans if (workspace / stage / scan).is_dir()]
        for folder in folders:
            remove_folder(folder, below=workspace / stage)
        if folders:
            (workspace / stage / "manifest.json").unlink(missing_ok=True)
            lines.append(f"{stage}: the results of {len(folders)} scans are removed")
    pages = [workspace / stage / WithViewers.VIEWERS / f"{scan}.html" for stage in WITH_PAGES for scan in scans]
    there = [page for page in pages if page.is_file()]
    for page in there:
        page.unlink()
    if there:
        lines.append(f"{len(there)} pages of slices are removed")
    return lines


def _learnt_from(workspace: Path, subject: str) -> list[str]:
    """Remove what was fitted to the subject: subtraction would leave traces in a basis or a network."""
    lines = []
    for stage in STAGES:
        folder = workspace / stage.name
        fitted = _fitted_to(folder, subject)
        for each in fitted:
            remove_folder(each, below=folder)
        if fitted:
            (folder / "manifest.json").unlink(missing_ok=True)
            names = ", ".join(each.name for each in fitted)
            lines.append(f"{stage.name}: learnt from the subject, so it is removed and has to be refitted ({names})")
    return lines


def _in_training(workspace: Path) -> list[str]:
    """Remove states of networks that go on from there: no record says whose scans they have seen."""
    lines = []
    for stage, name in IN_TRAINING:
        if (workspace / stage / name).is_dir():
            remove_folder(workspace / stage / name, below=workspace / stage)
            (workspace / stage / "manifest.json").unlink(missing_ok=True)
            lines.append(f"{stage}: networks in training are removed; the next run trains them from the start")
    return lines


def _drawn_from(workspace: Path, subject: str) -> list[str]:
    """Remove synthetic patients that were drawn from the subject among others, whatever the splits are by now.

    The folder knows whom it was learnt from. Where an earlier version of the stage made it, the splits of now tell, if
    they are those that it was made from; if not, nobody can, and it is removed too.
    """
    made = SyntheticCohort(workspace / "synthesise")
    drawn = made.learnt_from(subject)
    if drawn is None:
        repeat = made.facts().get("repeat")
        if repeat is None:
            return []
        drawn = (repeat, "train") in _assigned(workspace, subject)
        unknown = not drawn and not _of_these_splits(workspace, "synthesise")
    else:
        unknown = False
    if not drawn and not unknown:
        return []
    made.discard()
    for stage in ("synthesise", "judge"):
        (workspace / stage / "manifest.json").unlink(missing_ok=True)
    if unknown:
        return [
            "synthesise: its patients were drawn with other splits, by a version that did not note from whom; it may "
            "have been the subject, so they are removed"
        ]
    return ["synthesise: its patients were drawn from the subject among others; they are removed"]


def _of_these_splits(workspace: Path, stage: str) -> bool:
    """Say whether a stage is finished, and was made with the splits of now."""
    made_from = (Artifact(workspace / stage).manifest or {}).get("made_from", {})
    now = SplitTables(workspace / "split").fingerprint
    return now != "" and made_from.get("inputs", {}).get("split") == now


def _sent(workspace: Path, subject: str) -> list[str]:
    """Remove the sums for other sites, if the subject is in them, and name the releases that went out."""
    holds = ContributionSet(workspace / "contribute").forget(subject)
    if not holds:
        return []
    return [
        f"contribute: the sums of {len(holds)} releases hold the subject ({', '.join(holds)}); the file here is "
        "removed. Whoever received one, or a model made of it, has to be told: sums that were sent are not taken back"
    ]


def _shown(workspace: Path, subject: str) -> list[str]:
    """Remove what is made of patients' scans, if the subject may be one of them; these files have no names.

    It may be one who is in a split, or was in an earlier one.
    """
    assigned = _assigned(workspace, subject)
    lines = []
    for stage, pattern in SHOWING:
        if not assigned and _of_these_splits(workspace, stage):
            continue
        there = sorted((workspace / stage).glob(pattern))
        for path in there:
            if path.is_dir():
                remove_folder(path, below=workspace / stage)
            else:
                path.unlink()
        if there:
            (workspace / stage / "manifest.json").unlink(missing_ok=True)
            names = ", ".join(path.name for path in there)
            lines.append(f"{stage}: removed, since it may show the subject or be fitted to it: {names}")
    return lines


def _still_named(workspace: Path, subject: str) -> list[str]:
    """Remove files that name the subject, of stages that run only when named; say what else names it, and until when.

    The other stages are marked as unfinished, so that the next run makes them anew.
    """
    pattern = re.compile(rf"(?<![A-Za-z0-9]){re.escape(subject)}(?![A-Za-z0-9])")
    removed, named = [], []
    for folder in sorted(path for path in workspace.iterdir() if path.is_dir() and path.name not in KEPT):
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix in TEXT]
        naming = [path for path in files if pattern.search(_text(path)) or pattern.search(path.name)]
        if not naming:
            continue
        if folder.name in {stage.name for stage in STAGES} - {"cohort", "split"}:
            (folder / "manifest.json").unlink(missing_ok=True)
        if folder.name in ONLY_IF_NAMED and folder.name not in OWN_WAY:
            for path in naming:
                path.unlink(missing_ok=True)
            removed.append(f"{folder.name} ({', '.join(sorted({path.name for path in naming}))})")
        else:
            named.append(folder.name)
    lines = []
    if removed:
        lines.append(
            f"files that named the subject are removed from {'; '.join(removed)}: name these stages to have them again"
        )
    if named:
        lines.append(
            f"still named in {', '.join(named)}: the next run makes them anew without the subject. split keeps the id "
            "until --new-splits; logs and the demo cohort are not made anew, and synthetic patients that were drawn "
            "before stay wherever they were copied"
        )
    return lines


def _text(path: Path) -> str:
    try:
        return read_bytes(path, most=MOST).decode("utf-8", "replace")
    except (OSError, UnusableFileError):
        return ""


def _in_bundle(folder: Path, subject: str) -> str:
    """Say whether an exported model holds the subject; its ids are salted hashes."""
    try:
        known = parse_json(read_bytes(folder / SEEN, most=MOST))
        salt, rounds = bytes.fromhex(known["salt"]), min(int(known["rounds"]), MOST_ROUNDS)
        role = known["subjects"].get(subject_hash(canonical(subject), salt, rounds), "")
    except (OSError, UnusableFileError, KeyError, TypeError, ValueError, AttributeError) as error:
        return f"{folder}: cannot be asked ({error}); look there yourself"
    if not role:
        return f"{folder}: does not hold the subject"
    return (
        f"{folder}: holds the subject ({role}). It is not changed: stop using it, and every copy of it, and export "
        "again after the next run; its calibration has expired"
    )
