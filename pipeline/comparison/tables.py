"""From the predictions of all baselines to the tables, figures and words of one comparison."""

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd

from console.errors import InputError
from evaluation.comparison import COSTS, comparison_table, robustness_table
from evaluation.published import published_beside
from files.writing import replacing
from pipeline.comparison.imputation import compared, imputed_path
from pipeline.comparison.scenarios import Scenario
from pipeline.comparison.tasks import FAILED
from pipeline.specs.baselines import BaselinesConfig, GanConfig
from pipeline.store.base import write_json
from pipeline.store.comparison import ComparisonSet
from pipeline.store.volumes import VolumeSet
from reporting.comparison_figures import imputation_figure
from reporting.comparison_page import comparison_markdown

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
) -> dict[str, Any]:
    """Put together what all tasks wrote.

    Args:
        out: the baselines' folders; tables, figures and the page go there too.
        keys: folder of a task → hash of what its result has to be made from to count.
        scenarios: in the order of the tables.
        names: of methods, in the order of the tables; those without a result have no row.
        repeats: their numbers.
        classes: names.
        volumes: preprocessed scans, for the picture of imputed ones.
        config: of the stage.

    Returns:
        What the stage adds to its manifest.

    Raises:
        InputError: no baseline could be fitted.
    """
    found = _collected(out, keys, scenarios, names, repeats)
    if found.predictions.empty or found.predictions["p_0"].isna().all():
        reasons = "; ".join(f"{name} ({scenario}): {why}" for (scenario, name), why in found.reasons.items())
        raise InputError(f"no baseline could be fitted: {reasons}")
    options: dict[str, Any] = {"draws": config.bootstrap_draws, "seed": config.seed}
    able = found.predictions.loc[found.predictions["p_0"].notna(), "method"]
    reference = "HyperMM" if "HyperMM" in set(able) else able.iloc[0]
    table = comparison_table(
        found.predictions, reference=reference, costs=found.costs, reasons=found.reasons, **options
    )
    out.save_table("predictions.csv", found.predictions)
    out.save_table("comparison.csv", table)
    if len(found.curves):
        out.save_table("robustness.csv", robustness_table(found.curves, **options))
    else:
        (out.folder / "robustness.csv").unlink(missing_ok=True)
    if len(found.quality):
        out.save_table("imputation_quality.csv", found.quality)
    else:
        (out.folder / "imputation_quality.csv").unlink(missing_ok=True)
    published = published_beside(config.published, [scenario.name for scenario in scenarios])
    title = cohort_words(found.predictions, classes)
    page = comparison_markdown(table, published, cohort=title, reference=reference)
    if len(found.quality):
        page += f"\n{quality_words(found.quality)} ({config.gan.words()}.)\n"
    with replacing(out.folder / "comparison.md") as part:
        part.write_text(page, "utf-8")
    _pictures(out, volumes, scenarios, config.gan, found.quality)
    return {
        "counts": {"scenarios": len(scenarios), "methods": table["method"].nunique()},
        "cohort": title,
        "reference": reference,
        "published": config.published,
        "scenario_names": [scenario.name for scenario in scenarios],
    }


def quality_words(quality: pd.DataFrame) -> str:
    """How close imputed scans of test subjects came to the real ones that were hidden, one number a method."""
    tested = quality[quality["split"] == "test"]
    found = []
    for (method, source, target), rows in tested.groupby(["method", "from", "to"], sort=False):
        found.append(
            f"{target} by {method} from {source}: SSIM {rows['ssim'].mean():.2f}, PSNR {rows['psnr'].mean():.1f} dB, "
            f"{len(rows)} scans"
        )
    return "Imputed against real, inside the brain, mean over test subjects: " + "; ".join(found) + "."


def cohort_words(predictions: pd.DataFrame, classes: tuple[str, ...]) -> str:
    """How this cohort is called beside the published one."""
    return f"this cohort, {predictions['subject'].nunique()} test subjects, {' and '.join(classes)}"


@dataclasses.dataclass(frozen=True)
class _Collected:
    """Everything that finished tasks wrote."""

    predictions: pd.DataFrame
    curves: pd.DataFrame
    quality: pd.DataFrame
    costs: pd.DataFrame
    reasons: dict[tuple[str, str], str]


def _collected(
    out: ComparisonSet, keys: dict[Path, str], scenarios: list[Scenario], names: list[str], repeats: list[int]
) -> _Collected:
    predictions: list[pd.DataFrame] = []
    curves: list[pd.DataFrame] = []
    quality: list[pd.DataFrame] = []
    costs: list[dict[str, Any]] = []
    reasons: dict[tuple[str, str], str] = {}
    for scenario in scenarios:
        for name in names:
            spent: list[dict[str, float]] = []
            for repeat in repeats:
                place = out.folder_of(scenario.name, name, repeat)
                record = out.finished(place)
                if record is None or record["key"].removeprefix(FAILED) != keys.get(place):
                    continue
                if "reason" in record:
                    reasons[scenario.name, name] = f"repeat {repeat}: {record['reason']}"
                    continue
                where = {"scenario": scenario.name, "method": name}
                if (made := out.read(place, "predictions.csv")) is not None:  # None: nobody was tested
                    predictions.append(made.assign(**where))
                for kind, found in (("curve.csv", curves), ("quality.csv", quality)):
                    if (frame := out.read(place, kind)) is not None:
                        found.append(frame.assign(**where, repeat=repeat))
                spent.append(record)
            if spent:
                costs.append({"scenario": scenario.name, "method": name} | _mean_costs(spent))
    one = pd.concat(predictions, ignore_index=True) if predictions else pd.DataFrame()
    both = _hidden_in_both(one, scenarios) if predictions else []
    curve = pd.concat([*curves, *both], ignore_index=True) if curves else pd.DataFrame()
    return _Collected(
        one,
        curve,
        pd.concat(quality, ignore_index=True) if quality else pd.DataFrame(),
        pd.DataFrame(costs),
        reasons,
    )


def _hidden_in_both(predictions: pd.DataFrame, scenarios: list[Scenario]) -> list[pd.DataFrame]:
    """The scenarios as points of the curve: hidden in training and in test."""
    found = []
    hidden = sorted({modality for scenario in scenarios for modality, _ in scenario.hidden})
    for scenario in scenarios:
        rows = predictions[predictions["scenario"] == scenario.name]
        points = scenario.hidden or ([(m, 0.0) for m in hidden] if scenario.complete_only else [])
        found += [rows.assign(hidden_modality=modality, rate=rate, where="both") for modality, rate in points]
    return found


def _mean_costs(records: list[dict[str, Any]]) -> dict[str, float]:
    return {
        name: sum(values) / len(values) if (values := [r[name] for r in records if name in r]) else float("nan")
        for name in COSTS
    }


def _pictures(
    out: ComparisonSet, volumes: VolumeSet, scenarios: list[Scenario], gan: GanConfig, quality: pd.DataFrame
) -> None:
    """Real and imputed scans side by side, of one test subject, as in the paper's figure 3."""
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
        with replacing(out.folder / "imputed.png") as part:
            part.write_bytes(imputation_figure(rows))
        caption = f"Real and imputed scans of test subjects, hidden from training: {', '.join(shown)}."
        write_json(out.folder / "pictures.json", {"imputed.png": f"{caption} {quality_words(quality)} {gan.words()}."})
