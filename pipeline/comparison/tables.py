"""Turn the predictions of all baselines into the tables, figures and text of one comparison."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from baselines.names import TABLE_BASELINES
from console.errors import InputError
from evaluation.comparison import (
    COSTS,
    comparison_table,
    mechanisms_table,
    patients_table,
    robustness_table,
    subsets_table,
)
from evaluation.confounding import GAIN_COLUMNS, gain_over_covariates
from evaluation.pattern import pattern_table
from evaluation.published import published_beside
from files.writing import replacing
from pipeline.comparison.imputation import compared, imputed_path
from pipeline.comparison.mechanisms import NOTHING
from pipeline.comparison.scenarios import Scenario
from pipeline.comparison.tasks import FAILED
from pipeline.specs.baselines import BaselinesConfig, GanConfig
from pipeline.store.base import write_json
from pipeline.store.comparison import ComparisonSet
from pipeline.store.volumes import VolumeSet
from reporting.comparison_figures import imputation_figure
from reporting.comparison_page import comparison_markdown
from reporting.quality import CONVENTIONS

PICTURE_SPACING_MM = 1.5  # between the slices of imputed.png


def write_tables(
    out: ComparisonSet,
    keys: dict[Path, str],
    scenarios: list[Scenario],
    names: list[str],
    repeats: list[int],
    *,
    classes: tuple[str, ...],
    volumes: VolumeSet,
    config: BaselinesConfig,
    covariates: tuple[str, ...] = (),
    training_patients: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Collect the results of all tasks and write the tables.

    Args:
        out: the baselines' folders; tables, figures and the page are written to it too.
        keys: folder of a task → hash of the inputs of a valid result.
        scenarios: in the order of the tables.
        names: of methods, in the order of the tables; those without a result have no row.
        repeats: their numbers.
        classes: names.
        volumes: preprocessed scans, for the picture of imputed ones.
        config: of the stage.
        covariates: names.
        training_patients: scenario → number of training patients, for those that are points of a learning curve.

    Returns:
        The entries for the stage's manifest.

    Raises:
        InputError: no baseline could be fitted.
    """
    collected = _collected(out, keys, scenarios, names, repeats)
    if collected.predictions.empty or collected.predictions["p_0"].isna().all():
        reasons = "; ".join(f"{name} ({scenario}): {why}" for (scenario, name), why in collected.reasons.items())
        raise InputError(f"no baseline could be fitted: {reasons}")
    fitted = collected.predictions.loc[collected.predictions["p_0"].notna(), "method"]
    reference = "HyperMM" if "HyperMM" in set(fitted) else fitted.iloc[0]
    table = comparison_table(
        collected.predictions, reference=reference, costs=collected.costs, reasons=collected.reasons
    )
    out.save_table("predictions.csv", collected.predictions)
    out.save_table("comparison.csv", table)
    several = len(training_patients or {}) > 1
    mechanisms = mechanisms_table(collected.mechanisms) if len(collected.mechanisms) else None
    pattern = pattern_table(collected.mechanisms) if mechanisms is not None else None
    subsets = subsets_table(collected.subsets) if len(collected.subsets) else None
    gains = _gains(collected.predictions, covariates)
    only_if_there = {
        "robustness.csv": robustness_table(collected.curves) if len(collected.curves) else None,
        "patients.csv": patients_table(collected.predictions, training_patients or {}) if several else None,
        "mechanisms.csv": mechanisms,
        "pattern.csv": pattern if pattern is not None and len(pattern) else None,
        "subsets.csv": subsets,
        "gains.csv": gains if len(gains) else None,
        "imputation_quality.csv": collected.quality if len(collected.quality) else None,
    }
    for name, found in only_if_there.items():
        if found is None:
            (out.folder / name).unlink(missing_ok=True)  # of an earlier run
        else:
            out.save_table(name, found)
    published = published_beside(config.published, [scenario.name for scenario in scenarios])
    title = describe_cohort(collected.predictions, classes)
    page = comparison_markdown(
        table,
        published,
        cohort=title,
        reference=reference,
        gains=gains,
        mechanisms=mechanisms,
        pattern=pattern,
        subsets=subsets,
    )
    if len(collected.quality):
        page += f"\n{describe_quality(collected.quality)} ({config.gan.describe()}.)\n"
    with replacing(out.folder / "comparison.md") as partial:
        partial.write_text(page, "utf-8")
    _pictures(out, volumes, scenarios, config.gan, collected.quality)
    return {
        "counts": {"scenarios": len(scenarios), "methods": table["method"].nunique()},
        "cohort": title,
        "reference": reference,
        "published": config.published,
        "scenario_names": [scenario.name for scenario in scenarios],
    }


def _gains(predictions: pd.DataFrame, covariates: tuple[str, ...]) -> pd.DataFrame:
    """Return what the images add in each scenario in which a method without images was fitted."""
    rows = []
    for scenario, frame in predictions.groupby("scenario", sort=False):
        of = {name: frame[frame["method"] == TABLE_BASELINES[name]] for name in TABLE_BASELINES}
        found = {name: table if len(table) else None for name, table in of.items()}
        if found["covariates"] is None and found["availability"] is None:
            continue
        given = found["covariates"], found["covariates_images"], found["availability"]
        rows.append({"scenario": scenario, "covariates": ", ".join(covariates), **gain_over_covariates(*given)})
    return pd.DataFrame(rows, columns=["scenario", "covariates", *GAIN_COLUMNS])


def describe_quality(quality: pd.DataFrame) -> str:
    """Describe how similar imputed scans of test subjects are to the hidden real ones, per baseline."""
    tested = quality[quality["split"] == "test"]
    texts = []
    for (method, source, target), rows in tested.groupby(["method", "from", "to"], sort=False):
        texts.append(
            f"{target} by {method} from {source}: SSIM {rows['ssim'].mean():.2f}, PSNR {rows['psnr'].mean():.1f} dB, "
            f"{len(rows)} scans"
        )
    return "Imputed against real, inside the brain, mean over test subjects: " + "; ".join(texts) + "."


def describe_cohort(predictions: pd.DataFrame, classes: tuple[str, ...]) -> str:
    """Describe this cohort, to be shown beside the published one."""
    return f"this cohort, {predictions['subject'].nunique()} test subjects, {' and '.join(classes)}"


@dataclasses.dataclass(frozen=True)
class _Collected:
    """The results of all finished tasks."""

    predictions: pd.DataFrame
    curves: pd.DataFrame
    mechanisms: pd.DataFrame
    subsets: pd.DataFrame
    quality: pd.DataFrame
    costs: pd.DataFrame
    reasons: dict[tuple[str, str], str]


def _collected(
    out: ComparisonSet, keys: dict[Path, str], scenarios: list[Scenario], names: list[str], repeats: list[int]
) -> _Collected:
    predictions: list[pd.DataFrame] = []
    curves: list[pd.DataFrame] = []
    mechanisms: list[pd.DataFrame] = []
    subsets: list[pd.DataFrame] = []
    quality: list[pd.DataFrame] = []
    costs: list[dict[str, Any]] = []
    reasons: dict[tuple[str, str], str] = {}
    for scenario in scenarios:
        for name in names:
            spent: list[dict[str, float]] = []
            for repeat in repeats:
                folder = out.folder_of(scenario.name, name, repeat)
                record = out.finished(folder)
                if record is None or record["key"].removeprefix(FAILED) != keys.get(folder):
                    continue
                if "reason" in record:
                    reasons[scenario.name, name] = f"repeat {repeat}: {record['reason']}"
                    continue
                labels = {"scenario": scenario.name, "method": name}
                if (made := out.read(folder, "predictions.csv")) is not None:  # None: no subject was tested
                    predictions.append(made.assign(**labels))
                    if scenario.lost_by:
                        tables = [made.assign(tested=NOTHING), out.read(folder, "mechanisms.csv")]
                        mechanisms += [
                            frame.assign(method=name, training=scenario.training)
                            for frame in tables
                            if frame is not None
                        ]
                for kind, more in (("curve.csv", curves), ("subsets.csv", subsets), ("quality.csv", quality)):
                    if (frame := out.read(folder, kind)) is not None:
                        more.append(frame.assign(**labels, repeat=repeat))
                spent.append(record)
            if spent:
                costs.append({"scenario": scenario.name, "method": name} | _mean_costs(spent))
    one = pd.concat(predictions, ignore_index=True) if predictions else pd.DataFrame()
    both = _hidden_in_both(one, scenarios) if predictions else []
    curve = pd.concat([*curves, *both], ignore_index=True) if curves else pd.DataFrame()
    return _Collected(
        one,
        curve,
        pd.concat(mechanisms, ignore_index=True) if mechanisms else pd.DataFrame(),
        _by_subset(subsets),
        pd.concat(quality, ignore_index=True) if quality else pd.DataFrame(),
        pd.DataFrame(costs),
        reasons,
    )


def _by_subset(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """Return the predictions of all methods, subset by subset, in the order of the first of them."""
    if not frames:
        return pd.DataFrame()
    order = list(frames[0]["modalities"].unique())
    return pd.concat(frames, ignore_index=True).sort_values(
        "modalities", key=lambda names: names.map({name: n for n, name in enumerate(order)}), kind="stable"
    )


def _hidden_in_both(predictions: pd.DataFrame, scenarios: list[Scenario]) -> list[pd.DataFrame]:
    """Return the scenarios as points of the curve, scans hidden in training and in test."""
    points_of_curve = []
    hidden = sorted({modality for scenario in scenarios for modality, _ in scenario.hidden})
    for scenario in scenarios:
        if scenario.lost_by:
            continue
        rows = predictions[predictions["scenario"] == scenario.name]
        points = scenario.hidden or ([(m, 0.0) for m in hidden] if scenario.complete_only else [])
        points_of_curve += [rows.assign(hidden_modality=modality, rate=rate, where="both") for modality, rate in points]
    return points_of_curve


def _mean_costs(records: list[dict[str, Any]]) -> dict[str, float]:
    return {
        name: sum(values) / len(values) if (values := [r[name] for r in records if name in r]) else float("nan")
        for name in COSTS
    }


def _pictures(
    out: ComparisonSet, volumes: VolumeSet, scenarios: list[Scenario], gan: GanConfig, quality: pd.DataFrame
) -> None:
    """Draw real and imputed scans of one test subject side by side, as in the paper's figure 3."""
    (out.folder / "pictures.json").unlink(missing_ok=True)
    if quality.empty:
        return
    rows: dict[str, dict[str, Any]] = {}
    shown = []
    for scenario in scenarios:
        tested = quality[(quality["scenario"] == scenario.name) & (quality["split"] == "test")]
        tested = tested[tested["repeat"] == quality["repeat"].min()].sort_values("observation", kind="stable")
        if tested.empty:
            continue
        chosen = tested.iloc[0]
        made = {
            name: imputed_path(
                out.folder_of(scenario.name, name, chosen["repeat"]), chosen["observation"], chosen["to"]
            )
            for name in tested["method"].unique()
        }
        rows[chosen["to"]] = compared(volumes, dict(chosen[["source", "real"]]), made, gan, PICTURE_SPACING_MM)
        shown.append(f"{chosen['to']} of {chosen['observation']}")
    if rows and len({tuple(columns) for columns in rows.values()}) == 1:
        words = f"Real and imputed scans of test subjects, hidden from training: {', '.join(shown)}; "
        pictures = {}
        for convention, left_or_right in CONVENTIONS.items():
            name = "imputed.png" if convention == "radiological" else f"imputed-{convention}.png"
            with replacing(out.folder / name) as partial:
                partial.write_bytes(imputation_figure(rows, convention=convention))
            pictures[convention] = {name: f"{words}{left_or_right}. {describe_quality(quality)} {gan.describe()}."}
        write_json(out.folder / "pictures.json", pictures)
