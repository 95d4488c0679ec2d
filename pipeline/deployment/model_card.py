"""The model card of an exported model: description, measurements, limits.

Names come from settings and manifests, which may be untrusted: all of them are escaped with `text`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from cohort.splits import SPLITS
from evaluation.outliers import RATE
from models.weights import PUBLISHED
from pipeline.deployment.bundle_joint import ExportedJoint
from pipeline.deployment.bundle_writer import INTENDED_USE, Export
from pipeline.store.fitted import ClassifierSet
from pipeline.training.repeat_data import RepeatData
from pipeline.training.scores import subsets_of
from reporting.fairness_page import Fairness, gaps_in_words
from reporting.pages import markdown_text as text
from synthesis.patients import FEWEST

NUMBER = r"-?[0-9.]+(?:e[+-]?[0-9]+)?"
BAND = re.compile(f"(?:over )?{NUMBER} to {NUMBER}")  # as `evaluation.confounding.bands` names them
OTHERS = f"others, fewer than {FEWEST} patients each"
SHOWN = ("auc", "balanced_accuracy", "accuracy", "recall", "precision", "brier")


@dataclass(frozen=True)
class Trained:
    """Facts on training and test that the card needs beside the export.

    Attributes:
        repeat: number of the exported repeat.
        repeats: their number in the run.
        splits: split → class → number of subjects, of this repeat.
        test_predictions: of this repeat.
        all_repeats: metric → mean, low, high over all repeats of the run.
        credit: of the frozen network's weights.
        fairness: the audit of groups of patients; None where none was made.
    """

    repeat: int
    repeats: int
    splits: Mapping[str, Mapping[str, int]]
    test_predictions: int
    all_repeats: Mapping[str, Mapping[str, Any]]
    credit: str
    fairness: Fairness | None = None

    @classmethod
    def of(
        cls,
        export: Export,
        classify: ClassifierSet,
        data: RepeatData,
        *,
        repeat: int,
        repeats: int,
        fairness: Fairness | None = None,
    ) -> Self:
        """Collect the facts from the workspace; `data` is of the repeat."""
        subjects = data.scans.drop_duplicates("subject")
        counts = subjects.groupby(["split", "label"]).size().to_dict()
        return cls(
            repeat=repeat,
            repeats=repeats,
            splits={split: {name: counts.get((split, name), 0) for name in data.classes} for split in SPLITS},
            test_predictions=int((classify.predictions()["repeat"] == repeat).sum()),
            all_repeats=classify.metrics()["threshold_half"],
            credit=_credit(export),
            fairness=fairness,
        )


def _credit(export: Export) -> str:
    features = export.settings["features"]
    if export.weights["features"] == "random":
        return f"none, random with seed {features['random_seed']}"
    name = str(features["backbone"])
    return PUBLISHED[name].credit if name in PUBLISHED else "as timm says of them"


def model_card(export: Export, trained: Trained, *, onnx: str) -> str:
    """Return the model card as Markdown.

    Args:
        export: the model.
        trained: facts on training and test.
        onnx: why models/model.onnx is left out, or "".
    """
    sections = (
        _head(export),
        _data(export, trained),
        *([_tables(export)] if export.tables else []),
        _figures(export, trained),
        _groups(trained),
        _calibration(export),
        _conformal(export),
        _outliers(export),
        *([_joint(export.joint)] if export.joint is not None else []),
        _limits(export),
        _running(export, onnx),
        f"## Licence and credit\n\nWeights of this model: {text(export.copyright)}. Authors: "
        f"{text(export.authors)}. The frozen network {text(str(export.settings['features'].get('backbone')))} is not "
        f"part of this folder; its weights: {text(trained.credit)}. Method: Chaptoukaev et al., HyperMM (2024), "
        "arXiv 2407.20768.",
    )
    return "\n\n".join(sections) + "\n"


def _head(export: Export) -> str:
    return (
        f"# {text(export.name)} {text(export.version)}\n\n**{INTENDED_USE}**\n\n"
        f"Tells {text(' from '.join(export.classes))}, from any of these modalities, in any number: "
        f"{text(', '.join(export.trained))}. Made with hypermm-pipeline: a frozen network describes each scan, a layer "
        f"made for its modality translates the description, and the {export.network['aggregate']} over a patient's "
        "scans is classified. Intended for studies of patients like those below, scanned and labelled as they were."
    )


def _data(export: Export, trained: Trained) -> str:
    rows = [f"| {split} | {sum(c.values())} | {_counts(c, export.classes)} |" for split, c in trained.splits.items()]
    table = "\n".join(["| split | subjects | by class |", "|---|---|---|", *rows])
    return (
        f"## Data\n\nRepeat {trained.repeat} of {trained.repeats} of the run; subjects of this repeat:\n\n{table}\n\n"
        "φ and ρ were fitted on train; validation chose where training stopped, and the temperature; test was used for "
        "the figures below, and after that for the sections on error rates and unusual scans, where `held out` says so."
    )


def _tables(export: Export) -> str:
    rows = [
        f"| {text(name)} | {text(c['name'])} | {_learnt(c)} | {100 * c['missing']:.0f} % |"
        for name, columns in export.tables.items()
        for c in columns
    ]
    table = "\n".join(["| table | column | in training | missing there |", "|---|---|---|---|", *rows])
    return (
        f"## Tables\n\n{table}\n\nThese values are read from columns of the manifest with the same names. A category "
        "that is not listed counts as missing. `configs/model.json` has what values are compared with, means and names "
        "of categories among it: these leave the site with the model."
    )


def _learnt(column: Mapping[str, Any]) -> str:
    if column["categories"]:
        return text(", ".join(column["categories"]))
    return f"{column['centre'][0]:.4g} ± {column['spread']:.4g}" if column["centre"] else "no value"


def _counts(counts: Mapping[str, int], classes: tuple[str, ...]) -> str:
    return text(", ".join(f"{counts.get(name, 0)} {name}" for name in classes))


def _figures(export: Export, trained: Trained) -> str:
    rows = [
        f"| {name} | {_interval(export.test[name])} | {_interval(trained.all_repeats[name])} |"
        for name in SHOWN
        if name in export.test and name in trained.all_repeats
    ]
    table = "\n".join(
        [f"| metric | this model | mean of the {trained.repeats} repeats |", "|---|---|---|", *rows],
    )
    return (
        f"## Test figures\n\n{table}\n\nThis model: {trained.test_predictions} test predictions, threshold 0.5, every "
        "scan that a patient had. The 95 % interval of this model is about other patients like the tested ones. The "
        "other repeats are other models, on other splits of the same subjects; their interval is about this way of "
        "training, on patients like these. Where the two columns differ much, believe the wider interval."
    )


def _groups(trained: Trained) -> str:
    """Is the model as good in every group of patients; all repeats together, as in the report."""
    head = "## Groups of patients\n\n"
    if trained.fairness is None:
        return head + "Not looked at: the stage confounding had not run when the model was exported."
    page, rows = _coarse(trained.fairness), []
    pairs = {name for name in page.groups["grouping"] if " and " in str(name)}
    for grouping, groups in page.groups.groupby("grouping", sort=False):
        if grouping in pairs:
            continue
        small = groups["subjects"] < FEWEST
        for row in groups[~small].to_dict("records"):
            cells = ["too few of a class", "–", "–"]
            if row["fewest"] >= page.smallest_group:
                named = ({e: row[f"{name}_{e}"] for e in ("mean", "low", "high")} for name in ("auc", "tpr", "fpr"))
                cells = [_interval(values) for values in named]
            rows.append(f"| {text(grouping)} | {text(row['group'])} | {int(row['subjects'])} | {' | '.join(cells)} |")
        if small.any():
            together = int(groups.loc[small, "subjects"].sum())
            rows.append(f"| {text(grouping)} | {OTHERS} | {together} | not looked at | – | – |")
    top = ["| by | group | patients | AUC | sensitivity | false positive rate |", "|---|---|---|---|---|---|"]
    return (
        f"{head}{text(' '.join(gaps_in_words(page)))}\n\n" + "\n".join([*top, *rows]) + "\n\nTest predictions of all "
        "repeats together, so these figures are of the way of training and not of this model alone. Groups that the "
        "manifest does not name were not looked at, and nothing was corrected."
    )


def _coarse(page: Fairness) -> Fairness:
    """Return the audit without the youngest and oldest patient's numbers, and without names of small groups."""
    names: dict[str, dict[str, str]] = {}
    for grouping, groups in page.groups.groupby("grouping", sort=False):
        bands = [label for label in groups["group"] if BAND.fullmatch(label)]
        new = _open_ended(bands) if bands and len(bands) >= len(groups) - 1 else {}  # one may be `not given`
        names[str(grouping)] = new | dict.fromkeys(groups.loc[groups["subjects"] < FEWEST, "group"], OTHERS)

    def renamed(grouping: str, label: str) -> str:
        parts, cells = grouping.split(" and "), label.split(", ")
        if label in names[grouping] or len(parts) != len(cells):
            return names[grouping].get(label, label)
        return ", ".join(names.get(part, {}).get(cell, cell) for part, cell in zip(parts, cells, strict=True))

    groups, gaps = page.groups.copy(), page.gaps.copy()
    for table, column in ((groups, "group"), (gaps, "highest"), (gaps, "lowest")):
        table[column] = [renamed(*each) for each in zip(table["grouping"], table[column], strict=True)]
    return replace(page, groups=groups, gaps=gaps)


def _open_ended(bands: list[str]) -> dict[str, str]:
    """Return names of the first and last of ascending bands that do not say where these end."""
    if len(bands) == 1:
        return {bands[0]: "any number"}
    first, last = bands[0].split(" to "), bands[-1].split(" to ")
    return {bands[0]: f"up to {first[1]}", bands[-1]: last[0]}


def _interval(values: Mapping[str, Any]) -> str:
    def rounded(value: Any) -> str:
        return "n/a" if value is None or value != value else f"{float(value):.3f}"

    return f"{rounded(values['mean'])} [{rounded(values['low'])}, {rounded(values['high'])}]"


def _calibration(export: Export) -> str:
    facts = export.calibration["temperature"]
    lines = f"## Calibration\n\nTemperature {facts['value']:.3f}, fitted on {facts['n']} validation observations"
    lines += f" ({text(facts['reason'])})." if facts["reason"] else "."
    if facts["test"]:
        (loss, loss_after), (brier, brier_after) = facts["test"]["log_loss"], facts["test"]["brier"]
        lines += (
            f" On {facts['test']['n']} test observations: log loss {loss:.3f} before, {loss_after:.3f} after; Brier "
            f"score {brier:.3f} before, {brier_after:.3f} after. One temperature serves every subset of modalities."
        )
    return lines


def _conformal(export: Export) -> str:
    facts = export.calibration["conformal"]
    rows = []
    for entry in facts["subsets"]:
        results = entry["leave_one_out"]
        shares = [results["coverage"], *results["coverage_by_class"], results["answered"], results["answered_right"]]
        cells = ["–" if s is None else f"{s:.2f}" for s in shares]
        rows.append(f"| {text(' + '.join(entry['modalities']))} | {entry['subjects']} | {' | '.join(cells)} |")
    by_class = " | ".join(f"covered, {text(name)}" for name in export.classes)
    table = "\n".join(
        [
            f"| scans | subjects | covered | {by_class} | answered | answered right |",
            "|" + "---|" * (5 + len(export.classes)),
            *rows,
        ]
    )
    return (
        f"## Answers at an error rate\n\nHeld out: {' and '.join(facts['parts'])}. At an error rate of "
        f"{facts['error_rate']:g}, each subject with the threshold of the others:\n\n{table}\n\n"
        "`covered` over all subjects is as promised by construction, whatever the model; the other columns are not. "
        "The promise holds on average over patients like these, not for a class or a group of them. – : too few "
        "subjects or none. Validation subjects also chose epoch and temperature, which makes coverage of new patients "
        "slightly lower than promised."
    )


def _outliers(export: Export) -> str:
    rows = [
        f"| {text(name)} | {entry['training_scans']} | {len(entry['distances'])} | {_noticed(entry)} |"
        for name, entry in export.calibration["outliers"].items()
    ]
    table = "\n".join(
        ["| modality | training scans | subjects held out | unusual scans noticed |", "|---|---|---|---|", *rows]
    )
    return (
        f"## Unusual scans\n\n{table}\n\nA scan is compared with the training scans of its modality by the channel "
        "means of its feature map. It is flagged if, of it and the held-out ones, at most a share of "
        f"`predict.outlier_rate` lies as far, divided by the number of scans that the patient has; the table is for "
        f"{RATE:g} and one scan, and k scans need k times as many subjects. At most so many usual patients are "
        "flagged. "
        "This rate is another than the error rate above. The comparison notices other scanners, protocols and organs "
        "better than diseases; it proves nothing."
    )


def _joint(joint: ExportedJoint) -> str:
    layout = joint.model.blocks
    blocks = ", ".join(f"{name} {size}" for name, size in zip(layout.names, layout.sizes, strict=True))
    images = f"Images of {', '.join(joint.decoders)} are imputed too" if joint.decoders else "No images are imputed"
    return (
        f"## Joint model\n\n`joint.json` and `models/joint.safetensors` hold one Gaussian of all modalities "
        f"({text(blocks)} scores), learnt from the training patients of this repeat. For a new patient it gives the "
        "place among training patients, and what missing scans may have looked like. "
        f"{text(images)}. The predictions do not rest on it.\n\n"
        f"What leaves with it of {joint.training} training patients: principal components of their scans, means of "
        f"classes ({FEWEST} patients or more each) and one covariance, means and categories of covariates; of held-out "
        "ones how far they lie from training. Sums that a patient's scores could be read from do not. Leave all of it "
        "at home with `export.joint: false`."
    )


def _noticed(entry: Mapping[str, Any]) -> str:
    return f"no: {text(entry['reason'])}" if entry["reason"] else "yes"


def _limits(export: Export) -> str:
    every = [s for s in subsets_of(export.trained) if len(s) == len(export.trained)]
    missing = [name for name in export.modalities if name not in export.trained]
    lines = [
        "Measured on subjects of one cohort; other scanners, sites, ages and mixtures of classes were not tried, "
        "unless that cohort had them.",
        "The share of each class among your patients changes what a probability means.",
        f"Answers from few scans are worse than from all ({text(' + '.join(every[0]))}); see the table above.",
        "Patients are recognised by hashes of their ids and scans. Whoever has this folder and a list of possible ids "
        "can try them; export models of cohorts with pseudonyms only.",
        "What one more scan would change is an average over patients who had it; they were not chosen by lot. Its "
        f"abstentions are those at an error rate of {export.calibration['conformal']['error_rate']:g}, whatever rate "
        "is chosen for predictions.",
    ]
    if export.cohort:
        lines.append(
            "Calibration expires when the workspace that this model came from learns from newer patients (the stage "
            "`update`). Where the model still lies there, predictions say so; a copy does not know. Ask whoever has "
            f"the workspace: unless `cohorts` in its `update/versions.json` names `{text(export.cohort)}`, or there is "
            "no such file, error rates and flags of unusual scans are about earlier patients."
        )
    if missing:
        lines.append(f"No training scan was a {text(' or a '.join(missing))}; the model cannot read these.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _running(export: Export, onnx: str) -> str:
    graph = (
        f"`models/model.onnx` is missing: {text(onnx)}."
        if onnx
        else (
            "`models/model.onnx` is φ and ρ for programs without torch: `feature_maps` (N, C, H, W), `modality` (N,)"
            " of one patient in, `logits` and calibrated `probabilities` out. Feature maps still have to be made as in "
            "`configs/settings.yaml`."
        )
    )
    return (
        "## How to run\n\nFrom a checkout of hypermm-pipeline, with a manifest of new patients:\n\n"
        "    python run_pipeline.py --stages predict --model FOLDER --cohort patients.csv --workspace runs/patients\n"
        "    python -m monai.bundle run --config_file FOLDER/configs/inference.json --bundle_root FOLDER \\\n"
        "        --cohort patients.csv --workspace runs/patients\n\n"
        "The second needs `pip install fire` and does the same. **Like every MONAI config it is a program, and MONAI "
        "runs whatever the folder's configs say: never run an untrusted bundle with it.** The first command reads "
        "data alone, runs no code from the folder, and refuses it if its configs are not those that hypermm-pipeline "
        f"writes; with `--trusted KEY.pub` also if none of your keys has signed it. {graph}"
    )
