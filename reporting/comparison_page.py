"""Write a comparison of methods, as Markdown or as a section of the HTML report.

The published figures are shown under a header that names their cohort and its size, since they are of other patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from evaluation.comparison import COSTS, TESTED
from evaluation.intervals import LEVEL
from reporting.comparison_figures import mechanisms_figure, patients_figure, robustness_figure
from reporting.comparison_tables import (
    MECHANISMS_LEAD,
    MECHANISMS_TITLE,
    NO_BREAK,
    PATTERN_LEAD,
    PATTERN_TITLE,
    PROBABILITIES_CAPTION,
    SUBSETS_LEAD,
    SUBSETS_TITLE,
    limits,
    mechanisms_text,
    pattern_sentences,
    pattern_text,
    probabilities_text,
    subsets_text,
)
from reporting.confounding_page import answers
from reporting.formatting import METRIC_LABELS, count, is_number, number, percent, seconds, spread
from reporting.pages import data_uri, markdown_text
from reporting.tables import Table

_SHOWN = ("auc", "auc_rounded", "balanced_accuracy", "accuracy", "f1", "precision", "recall")
_COST_LABELS = {
    "imputation_seconds": "Imputation",
    "classification_seconds": "Classification",
    "peak_memory_mb": "Peak memory",
    "trained_parameters": "Trained parameters",
}
_NEEDED = (
    *("scenario", "method", "note", "n", "n_asked", "subjects_asked", "n_shared"),
    *(f"{name}_{end}" for name in _SHOWN for end in ("mean", "std", "low", "high")),
    *(f"{name}_{end}" for name in TESTED for end in ("difference", "difference_low", "difference_high", "p", "p_holm")),
    *COSTS,
)


@dataclass(frozen=True)
class Comparison:
    """The content of the comparison section of the report.

    Attributes:
        table: as `comparison.comparison_table` returns it.
        cohort: name of this cohort, as it should be printed.
        published: as `published.published_rows` returns it, matched by `scenario` and `method`; None for none.
        reference: the method that others were compared with.
        robustness: as `comparison.robustness_table` returns it; None for no figure.
        patients: as `comparison.patients_table` returns it; None for no figure.
        imputations: caption and PNG bytes of pictures of imputed scans.
        gains: `scenario`, `covariates` (their names, joined by commas) and the entries of
            `confounding.gain_over_covariates`; None where no such method was compared.
        mechanisms: as `comparison.mechanisms_table` returns it; None for none.
        pattern: as `pattern.pattern_table` returns it; None for none.
        subsets: as `comparison.subsets_table` returns it; None for none.
    """

    table: pd.DataFrame
    cohort: str
    published: pd.DataFrame | None = None
    reference: str = "HyperMM"
    robustness: pd.DataFrame | None = None
    patients: pd.DataFrame | None = None
    imputations: tuple[tuple[str, bytes], ...] = ()
    gains: pd.DataFrame | None = None
    mechanisms: pd.DataFrame | None = None
    pattern: pd.DataFrame | None = None
    subsets: pd.DataFrame | None = None


@dataclass(frozen=True)
class ScenarioSection:
    """One scenario as text: a title, whose figures these are, tables with captions, notes, what the images add."""

    title: str
    lead: str
    tables: tuple[tuple[str, Table], ...]
    notes: tuple[str, ...]
    answer: tuple[str, ...] = ()


def comparison_markdown(
    table: pd.DataFrame,
    published: pd.DataFrame | None = None,
    *,
    cohort: str,
    reference: str = "HyperMM",
    gains: pd.DataFrame | None = None,
    mechanisms: pd.DataFrame | None = None,
    pattern: pd.DataFrame | None = None,
    subsets: pd.DataFrame | None = None,
) -> str:
    """Write a comparison as Markdown, a heading of third order for each scenario.

    Args:
        table: as `comparison.comparison_table` returns it.
        published: as `published.published_rows` returns it; rows are matched by `scenario` and `method`.
        cohort: name of this cohort.
        reference: the method that others were compared with.
        gains: as in `Comparison`.
        mechanisms: as in `Comparison`.
        pattern: as in `Comparison`.
        subsets: as in `Comparison`.

    Raises:
        ValueError: the table lacks a column.
    """
    blocks = []
    for section in scenario_sections(table, published, cohort=cohort, reference=reference, gains=gains):
        blocks += [f"### {markdown_text(section.title)}", markdown_text(section.lead)]
        blocks += [f"> {markdown_text(sentence)}" for sentence in section.answer]
        for caption, content in section.tables:
            blocks += [f"**{markdown_text(caption)}**", _markdown_table(content)]
        blocks.append("\n".join(f"- {markdown_text(note)}" for note in section.notes))
    if mechanisms is not None and len(mechanisms):
        blocks += [f"### {MECHANISMS_TITLE}", markdown_text(MECHANISMS_LEAD)]
        blocks.append(_markdown_table(mechanisms_text(mechanisms)))
    if pattern is not None and len(pattern):
        blocks += [f"**{PATTERN_TITLE}**", markdown_text(PATTERN_LEAD), _markdown_table(pattern_text(pattern))]
        blocks += [f"> {markdown_text(sentence)}" for sentence in pattern_sentences(pattern)]
    if subsets is not None and len(subsets):
        blocks += [f"### {SUBSETS_TITLE}", markdown_text(SUBSETS_LEAD), _markdown_table(subsets_text(subsets))]
    return "\n\n".join(block for block in blocks if block) + "\n"


def comparison_section(comparison: Comparison) -> dict[str, Any]:
    """Return the variables of `comparison.html.j2`."""
    curves, patients, reasons = comparison.robustness, comparison.patients, comparison.mechanisms
    subsets, habit = comparison.subsets, comparison.pattern
    return {
        "sections": scenario_sections(
            comparison.table,
            comparison.published,
            cohort=comparison.cohort,
            reference=comparison.reference,
            gains=comparison.gains,
        ),
        "robustness": data_uri(robustness_figure(curves)) if curves is not None and len(curves) else "",
        "patients": data_uri(patients_figure(patients)) if patients is not None and len(patients) else "",
        "mechanisms": mechanisms_text(reasons) if reasons is not None and len(reasons) else None,
        "mechanisms_figure": data_uri(mechanisms_figure(reasons)) if reasons is not None and len(reasons) else "",
        "mechanisms_title": MECHANISMS_TITLE,
        "mechanisms_lead": MECHANISMS_LEAD,
        "pattern": pattern_text(habit) if habit is not None and len(habit) else None,
        "pattern_title": PATTERN_TITLE,
        "pattern_lead": PATTERN_LEAD,
        "pattern_sentences": pattern_sentences(habit) if habit is not None else [],
        "subsets": subsets_text(subsets) if subsets is not None and len(subsets) else None,
        "subsets_title": SUBSETS_TITLE,
        "subsets_lead": SUBSETS_LEAD,
        "imputations": [(caption, data_uri(png, "image/png")) for caption, png in comparison.imputations],
        "level": percent(LEVEL),
    }


def scenario_sections(
    table: pd.DataFrame,
    published: pd.DataFrame | None,
    *,
    cohort: str,
    reference: str,
    gains: pd.DataFrame | None = None,
) -> list[ScenarioSection]:
    """Turn a comparison into titles, tables of text and notes; arguments as in `comparison_markdown`.

    Raises:
        ValueError: the table lacks a column.
    """
    missing = [name for name in _NEEDED if name not in table.columns]
    if missing:
        raise ValueError(f"the comparison lacks the column(s) {', '.join(missing)}; found {list(table.columns)}")
    sections = []
    for scenario, frame in table.groupby("scenario", sort=False):
        rows = frame.to_dict("records")
        printed = _printed(published, str(scenario))
        tables = [
            (f"Scores: mean ± standard deviation over repeats [{percent(LEVEL)} interval]", _scores(rows, printed))
        ]
        if len(rows) > 1:
            tables.append((f"Difference from {reference} on the same test predictions", _differences(rows, reference)))
        if "ece" in table.columns:  # a comparison that was made before there was such a thing is shown without
            tables.append((PROBABILITIES_CAPTION, probabilities_text(rows)))
        if costs := _costs(rows):
            tables.append(("Costs of one run", costs))
        notes = _notes(rows, printed, reference=reference)
        lead, answer = _lead(rows, printed, cohort), _answer(gains, str(scenario))
        sections.append(ScenarioSection(str(scenario), lead, tuple(tables), tuple(notes), answer))
    return sections


def _answer(gains: pd.DataFrame | None, scenario: str) -> tuple[str, ...]:
    """Say what the images add in a scenario; nothing where it was not looked at."""
    rows = [] if gains is None else gains[gains["scenario"] == scenario].to_dict("records")
    return tuple(sentence for row in rows for sentence in answers(row, [*filter(None, row["covariates"].split(", "))]))


def _printed(published: pd.DataFrame | None, scenario: str) -> list[dict[str, Any]]:
    if published is None:
        return []
    return published[published["scenario"] == scenario].to_dict("records")


def _lead(rows: Sequence[Mapping[str, Any]], printed: Sequence[Mapping[str, Any]], cohort: str) -> str:
    """Say whose figures these are."""
    here = f"{count(int(rows[0]['n_asked']), 'test prediction')} of {_subjects(rows)}"
    lead = f"Ours: {cohort}, {here}."
    if printed:
        first = printed[0]
        lead += f" Published: {first['cohort']}, {first['size']}; {first['source']}. Those are other patients:"
        lead += " compare the order of the methods, not one figure with the other."
    return lead


def _scores(rows: Sequence[Mapping[str, Any]], printed: Sequence[Mapping[str, Any]]) -> Table:
    """Every metric of every method; the published AUC beside our AUC of rounded scores, which is the same thing.

    With two classes that is balanced accuracy too, which then has no column of its own.
    """
    twins = [(row["auc_rounded_mean"], row["balanced_accuracy_mean"]) for row in rows if row["n"]]
    one = all(abs(a - b) < 1e-9 or not (is_number(a) or is_number(b)) for a, b in twins)
    shown = [name for name in _SHOWN if not (one and name == "balanced_accuracy")]
    headers = ["Method", "n", *(METRIC_LABELS[name] for name in shown)]
    if one:
        headers[2 + shown.index("auc_rounded")] += " (= balanced accuracy)"
    column = 3 + shown.index("auc_rounded") if printed else None
    if column is not None:
        first = printed[0]
        headers.insert(column, f"Paper, {first['cohort']}, {count(int(first['subjects']), 'subject')}: “AUC” (rounded)")
    by_method = {row["method"]: row for row in printed}
    body = []
    for row in rows:
        cells = [str(row["method"]), f"{int(row['n']):,}", *(_with_interval(row, name) for name in shown)]
        if column is not None:
            paper = by_method.get(row["method"], {})
            cells.insert(column, spread(paper.get("auc_rounded_mean"), paper.get("auc_rounded_std"), missing="–"))
        body.append(tuple(cells))
    return Table(tuple(headers), tuple(body), numeric=frozenset(range(1, len(headers))))


def _differences(rows: Sequence[Mapping[str, Any]], reference: str) -> Table:
    """Paired differences with their interval, p value and p value after Holm."""
    headers = ["Method", "n shared"]
    for metric in TESTED:
        headers += [f"{METRIC_LABELS[metric]}, difference", "p", "p after Holm"]
    body = []
    for row in rows:
        if row["method"] == reference:
            continue
        cells = [str(row["method"]), f"{int(row['n_shared']):,}"]
        for metric in TESTED:
            value, low, high = (row[f"{metric}_difference{end}"] for end in ("", "_low", "_high"))
            cells.append(f"{value:+.2f}{limits(low, high, '{:+.2f}')}" if is_number(value) else "n/a")
            cells += [_p(row[f"{metric}_p"]), _p(row[f"{metric}_p_holm"])]
        body.append(tuple(cells))
    return Table(tuple(headers), tuple(body), numeric=frozenset(range(1, len(headers))))


def _costs(rows: Sequence[Mapping[str, Any]]) -> Table | None:
    """Seconds, memory and parameters; None if nothing is known."""
    known = [name for name in COSTS if any(is_number(row[name]) for row in rows)]
    if not known:
        return None
    body = []
    for row in rows:
        cells = [str(row["method"])]
        for name in known:
            value = row[name]
            if not is_number(value):
                cells.append("–")
            elif name.endswith("seconds"):
                cells.append(seconds(value))
            else:
                cells.append(f"{value:,.0f} MB" if name == "peak_memory_mb" else f"{value:,.0f}")
        body.append(tuple(cells))
    headers = ("Method", *(_COST_LABELS[name] for name in known))
    return Table(headers, tuple(body), numeric=frozenset(range(1, len(headers))))


def _notes(rows: Sequence[Mapping[str, Any]], printed: Sequence[Mapping[str, Any]], *, reference: str) -> list[str]:
    """Sentences under the tables of a scenario."""
    notes = [f"{row['method']}: {row['note']}." for row in rows if row["note"]]
    if printed:
        notes.append(
            "What the paper calls AUC is computed by its published code from rounded scores; compare it with the column"
            " beside it, never with our AUC."
        )
        absent = [row["method"] for row in printed if row["method"] not in {row["method"] for row in rows}]
        if absent:
            notes.append(f"In the paper and not here: {', '.join(absent)}.")
    if len(rows) > 1:
        notes.append(
            f"Differences are method minus {reference}, on the test predictions that both could make; intervals "
            f"({percent(LEVEL)}) and p values are about these ways of training, on patients like these, and allow for "
            "splits that share patients; p after Holm counts all methods."
        )
    return notes


def _subjects(rows: Sequence[Mapping[str, Any]]) -> str:
    return count(int(rows[0]["subjects_asked"]), "test subject")


def _with_interval(row: Mapping[str, Any], name: str) -> str:
    """Write `0.86 ± 0.03 [0.74, 0.95]`, which may break before the bracket only."""
    if row["n"] == 0:
        return "–"
    mean = spread(row[f"{name}_mean"], row[f"{name}_std"]).replace(" ", NO_BREAK)
    return mean + limits(row[f"{name}_low"], row[f"{name}_high"], "{:.2f}")


def _p(value: Any) -> str:
    """Write a p value with three digits."""
    return "< 0.001" if is_number(value) and value < 0.0005 else number(value, 3)


def _markdown_table(content: Table) -> str:
    """Write a table in pipes, numbers to the right."""
    rule = ["---:" if i in content.numeric else "---" for i in range(len(content.headers))]
    lines = [[markdown_text(cell) for cell in cells] for cells in (content.headers, *content.rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (lines[0], rule, *lines[1:]))
