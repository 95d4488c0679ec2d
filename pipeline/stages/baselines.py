"""The paper's tables on anybody's cohort: every comparator in every scenario, on the caches that are there.

Each (scenario, method, repeat) is a task of its own: finished ones are not done again, a failed one takes no other
down, and `--baselines.only` picks methods.
"""

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from baselines.names import KEYS, TRANSLATIONS
from pipeline.artifacts import BlockSet, CohortTables, ComparisonSet, SplitTables, VolumeSet, replacing, write_json
from pipeline.imputation import GanConfig, Kind, impute
from pipeline.provenance import digest, result_settings
from pipeline.repeats import Usable, repeats_of, usable_scans
from pipeline.runtime import DISK_FULL, InputError, Runtime
from pipeline.scenarios import Drawn, Scenario, draw_sample, scans_in, scenarios_of
from pipeline.stage import Stage
from pipeline.stages.cohort import STAGE as COHORT
from pipeline.stages.features import STAGE as FEATURES
from pipeline.stages.preprocess import STAGE as PREPROCESS
from pipeline.stages.split import STAGE as SPLIT
from pipeline.training import TrainingConfig

if TYPE_CHECKING:
    import pandas as pd

    from baselines.methods import Method
    from baselines.sample import Fitted, Sample, Training

log = logging.getLogger("hypermm")
PICTURE_SPACING_MM = 1.5  # between the slices of imputed.png
FAILED = "failed "  # before the key of a task that raised, which therefore counts as not done
NOT_IN_A_TASK = ("only", "scenarios", "rates", "published", "gan", "bootstrap_draws", "memory_mb", "curve_rates")


class BaselinesConfig(TrainingConfig):
    """Which comparators, in which scenarios."""

    only: tuple[str, ...] = Field(default=(), description=f"methods; empty for all that apply. {', '.join(KEYS)}")
    scenarios: tuple[Literal["complete", "missing", "as_it_is"], ...] = Field(
        default=("complete", "missing"),
        min_length=1,
        description="complete: subjects with every modality; missing: those, with each modality hidden in turn; "
        "as_it_is: whatever each subject has",
    )
    rates: tuple[float, ...] = Field(default=(0.5,), description="shares hidden in training and test, for missing")
    curve_rates: tuple[float, ...] = Field(
        default=(0.0, 0.1, 0.3, 0.5, 0.7, 0.9),
        description="shares hidden in the test part of the complete scenario; one trained model serves all",
    )
    published: Literal["ADNI", "BreakHis"] | None = Field(
        default=None, description="whose published figures stand beside ours"
    )
    gan: GanConfig = Field(default=GanConfig(), description="pix2pix and cycleGAN")
    bootstrap_draws: int = Field(default=2000, ge=100, description="draws of subjects for the intervals")

    @field_validator("only")
    @classmethod
    def _known(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        for key in keys:
            if key not in KEYS:
                raise ValueError(f"no method {key!r}; there are {', '.join(KEYS)}")
        return keys

    @field_validator("rates", "curve_rates")
    @classmethod
    def _shares(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 <= rate < 1 for rate in rates):
            raise ValueError(f"{rates}: expected shares from 0 up to (not including) 1")
        return rates


def baselines(
    cohort: CohortTables,
    split: SplitTables,
    preprocess: VolumeSet,
    features: BlockSet,
    out: ComparisonSet,
    config: BaselinesConfig,
    runtime: Runtime,
) -> None:
    """Write every method's predictions and the tables over all. Source: HyperMM, tables 1 and 2."""
    from baselines.methods import ABLATIONS, chosen_methods

    scans = cohort.scans()
    modalities = tuple(sorted(scans["modality"].unique()))
    pictures = bool((scans["kind"] == "image").all())
    not_here = {"ablations", *(TRANSLATIONS if pictures else ("incremental_cnn",))}
    keys = config.only or tuple(key for key in KEYS if key not in not_here)
    usable = {repeat: usable_scans(cohort, split, features, repeat) for repeat in repeats_of(split)}
    scenarios = scenarios_of(config.scenarios, config.rates, modalities)
    for scenario in scenarios:
        left, _ = scans_in(scenario, next(iter(usable.values())), config.seed)
        if left.empty:
            raise InputError(
                f"scenario {scenario.name!r}: no subject has every modality; set baselines.scenarios to [as_it_is]"
            )
    # Methods that are not asked for now keep their rows, if they were fitted on the same data with the same settings.
    methods = chosen_methods(KEYS, modalities, pictures=pictures)
    wanted = {method.name for method in chosen_methods(keys, modalities, pictures=pictures)}
    run = _Run(preprocess, features, out, config, runtime, modalities)
    tasks = len(scenarios) * len(usable) * (len(wanted) + sum(key in keys for key in TRANSLATIONS))
    with runtime.progress(tasks, "comparator") as progress:
        for scenario in scenarios:
            for repeat, all_scans in usable.items():
                drawn, notes = run.draw(scenario, all_scans)
                for note in notes if repeat == min(usable) else ():
                    runtime.note(f"{scenario.name}: {note}")
                for method in methods:
                    run.simple(scenario, repeat, method, drawn, wanted=method.name in wanted)
                    progress.advance(int(method.name in wanted))
                for key in TRANSLATIONS:
                    run.translated(scenario, repeat, key, drawn, all_scans, wanted=key in keys)  # type: ignore[arg-type]
                    progress.advance(int(key in keys))
    names = [method.name for method in methods if method not in ABLATIONS] + list(TRANSLATIONS.values())
    run.tables(scenarios, names + [method.name for method in ABLATIONS], list(usable), cohort.classes())


@dataclasses.dataclass
class _Run:
    """What all tasks share."""

    preprocess: VolumeSet
    features: BlockSet
    out: ComparisonSet
    config: BaselinesConfig
    runtime: Runtime
    modalities: tuple[str, ...]
    keys: dict[Path, str] = dataclasses.field(default_factory=dict)
    """Folder of a task → hash of what its result has to be made from to count."""

    def draw(self, scenario: Scenario, usable: Usable) -> tuple[Drawn, list[str]]:
        """The sample of a scenario and repeat."""
        scans, notes = scans_in(scenario, usable, self.config.seed)
        return draw_sample(scans, usable, self.features, self.runtime.device), notes

    def training(self, repeat: int) -> "Training":
        """The settings of the fit loop."""
        from baselines.sample import Training

        config = self.config
        return Training(
            epochs=config.epochs,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            patience=config.patience,
            seed=1000 * config.seed + repeat,
        )

    def key(self, scenario: Scenario, repeat: int, drawn: Drawn, *more: Any) -> str:
        """Hash of all that one task depends on."""
        settings = {k: v for k, v in result_settings(self.config).items() if k not in NOT_IN_A_TASK}
        content = self.features.scans()
        rows = drawn.scans.assign(content=[content[s] for s in drawn.scans["scan"]]).to_dict("split")
        return digest([STAGE.version, settings, dataclasses.asdict(scenario), repeat, rows, more])

    def simple(self, scenario: Scenario, repeat: int, method: "Method", drawn: Drawn, *, wanted: bool) -> None:
        """A comparator that needs nothing but blocks."""
        rates = self.config.curve_rates if scenario.name == "complete" else ()
        key = self.key(scenario, repeat, drawn, method.name, rates)
        place = self.out.place(scenario.name, method.name, repeat)
        self.keys[place] = key
        if not wanted or self.out.record(place, key) is not None:
            return

        def fit() -> "tuple[dict[str, pd.DataFrame], dict[str, Any]]":
            started = time.monotonic()
            sample = drawn.sample.standardised() if method.standardised else drawn.sample
            fitted = method.fit(sample, method.training(self.training(repeat)))
            tables = {"predictions.csv": _predictions(fitted, sample, drawn, repeat)}
            facts = {"trained_parameters": fitted.parameters, "notes": list(getattr(fitted, "notes", ()))}
            facts["classification_seconds"] = round(time.monotonic() - started, 3)
            if rates:
                tables["curve.csv"] = _curve(fitted, sample, drawn, repeat, rates, self.modalities, self.config.seed)
            return tables, facts

        self._task(place, key, f"{scenario.name}, {method.name}, repeat {repeat}", fit)

    def translated(
        self, scenario: Scenario, repeat: int, key: Kind, drawn: Drawn, usable: Usable, *, wanted: bool
    ) -> None:
        """Impute whole scans, compute their blocks, then Multi-CNN on the filled sample."""
        from baselines.imputers import TableImputer, fit_imputed

        if not scenario.hidden and bool(drawn.sample.there.all()):
            return  # nothing to impute
        gan = self.config.gan
        task = self.key(scenario, repeat, drawn, key, gan.model_dump(mode="json"), self.preprocess.fingerprint)
        place = self.out.place(scenario.name, TRANSLATIONS[key], repeat)
        self.keys[place] = task
        if not wanted or self.out.record(place, task) is not None:
            return
        there = set(drawn.scans["scan"])
        gone = usable.scans[~usable.scans["scan"].isin(there) & usable.scans["observation"].isin(drawn.observations)]
        hidden = {(row.observation, row.modality): row.scan for row in gone.itertuples()}

        def fit() -> "tuple[dict[str, pd.DataFrame], dict[str, Any]]":
            import pandas as pd

            maker, spacing_mm = _like_the_real_ones(self.runtime)
            imputed = impute(
                key, drawn, self.modalities, hidden=hidden, volumes=self.preprocess, place=place, config=gan,
                block_of=maker, spacing_mm=spacing_mm, device=self.runtime.device,
                seed=1000 * self.config.seed + repeat,
            )  # fmt: skip
            started = time.monotonic()
            centre, spread = (t.cpu() for t in drawn.sample.scale())
            table = {(o, m): (block - centre[m]) / spread[m] for (o, m), block in imputed.blocks.items()}
            sample = drawn.sample.standardised()
            fitted = fit_imputed(sample, self.training(repeat), TableImputer(table))
            tables = {
                "predictions.csv": _predictions(fitted, sample, drawn, repeat),
                "quality.csv": pd.DataFrame(imputed.quality),
            }
            facts = {
                "trained_parameters": fitted.parameters + imputed.parameters,
                "notes": [*imputed.notes, *fitted.notes],
                "imputation_seconds": round(imputed.seconds, 3),
                "classification_seconds": round(time.monotonic() - started, 3),
            }
            return tables, facts

        self._task(place, task, f"{scenario.name}, {TRANSLATIONS[key]}, repeat {repeat}", fit)

    def _task(
        self, place: Path, key: str, words: str, fit: "Callable[[], tuple[dict[str, pd.DataFrame], dict[str, Any]]]"
    ) -> None:
        """Fit one comparator and write what came of it; a failure is recorded and told, and the others go on."""
        from baselines.sample import CannotFit

        self.out.begin(place, key)
        try:
            with _peak_memory(self.runtime) as peak:
                tables, facts = fit()
        except CannotFit as error:
            log.warning("baselines: %s: %s", words, error)
            self.out.finish(place, key, {}, {"reason": str(error)})
        except InputError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise
            log.exception("baselines: %s failed", words)
            self.out.finish(place, FAILED + key, {}, {"reason": f"{type(error).__name__}: {error}"})
            self.runtime.note(f"{words} failed and will be tried again: {type(error).__name__}: {error}")
        else:
            self.out.finish(place, key, tables, facts | {"peak_memory_mb": peak["mb"]})

    def tables(self, scenarios: list[Scenario], names: list[str], repeats: list[int], classes: tuple[str, ...]) -> None:
        """Put together what all tasks wrote."""
        from evaluation.comparison import comparison_table, robustness_table
        from evaluation.comparison_page import comparison_markdown
        from evaluation.published import published_beside

        found = _collected(self.out, self.keys, scenarios, names, repeats)
        if found.predictions.empty:
            reasons = "; ".join(f"{name} ({scenario}): {why}" for (scenario, name), why in found.reasons.items())
            raise InputError(f"no comparator could be fitted: {reasons}")
        options: dict[str, Any] = {"draws": self.config.bootstrap_draws, "seed": self.config.seed}
        reference = "HyperMM" if "HyperMM" in set(found.predictions["method"]) else found.predictions["method"].iloc[0]
        table = comparison_table(
            found.predictions, reference=reference, costs=found.costs, reasons=found.reasons, **options
        )
        self.out.save_table("predictions.csv", found.predictions)
        self.out.save_table("comparison.csv", table)
        if len(found.curves):
            self.out.save_table("robustness.csv", robustness_table(found.curves, **options))
        else:
            (self.out.folder / "robustness.csv").unlink(missing_ok=True)
        if len(found.quality):
            self.out.save_table("imputation_quality.csv", found.quality)
        published = published_beside(self.config.published, [scenario.name for scenario in scenarios])
        title = cohort_words(found.predictions, classes)
        page = comparison_markdown(table, published, cohort=title, reference=reference)
        if len(found.quality):
            page += f"\n{quality_words(found.quality)} ({self.config.gan.words()}.)\n"
        with replacing(self.out.folder / "comparison.md") as part:
            part.write_text(page, "utf-8")
        _pictures(self.out, self.preprocess, scenarios, self.config.gan, found.quality)
        self.runtime.results |= {
            "counts": {"scenarios": len(scenarios), "methods": table["method"].nunique()},
            "cohort": title,
            "reference": reference,
            "published": self.config.published,
            "scenario_names": [scenario.name for scenario in scenarios],
        }


def _like_the_real_ones(runtime: Runtime) -> "tuple[Any, float]":
    """From an imputed volume to its block, as the features stage makes blocks; and the voxel size of real volumes.

    The settings of both stages are those of the run, which `settings.yaml` holds.
    """
    import yaml

    from pipeline.stages.features import FeaturesConfig, block_maker
    from pipeline.stages.preprocess import PreprocessConfig

    settings = yaml.safe_load((runtime.workspace / "settings.yaml").read_text("utf-8"))
    spacing_mm = PreprocessConfig(**settings["preprocess"]).spacing_mm
    return block_maker(FeaturesConfig(**settings["features"]), runtime), spacing_mm


def quality_words(quality: "pd.DataFrame") -> str:
    """How close imputed scans of test subjects came to the real ones that were hidden, one number a method."""
    tested = quality[quality["part"] == "test"]
    found = []
    for (method, source, target), rows in tested.groupby(["method", "from", "to"], sort=False):
        found.append(
            f"{target} by {method} from {source}: SSIM {rows['ssim'].mean():.2f}, PSNR {rows['psnr'].mean():.1f} dB, "
            f"{len(rows)} scans"
        )
    return "Imputed against real, inside the brain, mean over test subjects: " + "; ".join(found) + "."


def cohort_words(predictions: "pd.DataFrame", classes: tuple[str, ...]) -> str:
    """How this cohort is called beside the published one."""
    return f"this cohort, {predictions['subject'].nunique()} test subjects, {' and '.join(classes)}"


@dataclasses.dataclass(frozen=True)
class _Collected:
    """Everything that finished tasks wrote."""

    predictions: "pd.DataFrame"
    curves: "pd.DataFrame"
    quality: "pd.DataFrame"
    costs: "pd.DataFrame"
    reasons: dict[tuple[str, str], str]


def _collected(
    out: ComparisonSet, keys: dict[Path, str], scenarios: list[Scenario], names: list[str], repeats: list[int]
) -> _Collected:
    import pandas as pd

    from pipeline.artifacts import read_json

    predictions: list[pd.DataFrame] = []
    curves: list[pd.DataFrame] = []
    quality: list[pd.DataFrame] = []
    costs: list[dict[str, Any]] = []
    reasons: dict[tuple[str, str], str] = {}
    for scenario in scenarios:
        for name in names:
            spent: list[dict[str, float]] = []
            for repeat in repeats:
                place = out.place(scenario.name, name, repeat)
                record = read_json(place / "record.json")
                if record is None or record["key"].removeprefix(FAILED) != keys.get(place):
                    continue
                if "reason" in record:
                    reasons[scenario.name, name] = f"repeat {repeat}: {record['reason']}"
                    continue
                where = {"scenario": scenario.name, "method": name}
                predictions.append(out.read(place, "predictions.csv").assign(**where))  # type: ignore[union-attr]
                for kind, found in (("curve.csv", curves), ("quality.csv", quality)):
                    if (frame := out.read(place, kind)) is not None:
                        found.append(frame.assign(**where))
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


def _hidden_in_both(predictions: "pd.DataFrame", scenarios: list[Scenario]) -> "list[pd.DataFrame]":
    """The scenarios as points of the curve: hidden in training and in test."""
    found = []
    hidden = sorted({modality for scenario in scenarios for modality, _ in scenario.hidden})
    for scenario in scenarios:
        rows = predictions[predictions["scenario"] == scenario.name]
        points = scenario.hidden or ([(m, 0.0) for m in hidden] if scenario.complete_only else [])
        found += [rows.assign(hidden_modality=modality, rate=rate, where="both") for modality, rate in points]
    return found


def _mean_costs(records: list[dict[str, Any]]) -> dict[str, float]:
    from evaluation.comparison import COSTS

    return {
        name: sum(values) / len(values) if (values := [r[name] for r in records if name in r]) else float("nan")
        for name in COSTS
    }


def _predictions(fitted: "Fitted", sample: "Sample", drawn: Drawn, repeat: int) -> "pd.DataFrame":
    """One row a test observation; NaN where the method cannot take it."""
    import pandas as pd

    test = drawn.observed("test").tolist()
    probabilities = fitted.probabilities(sample)[drawn.observed("test")].cpu()
    frame = pd.DataFrame(
        {
            "repeat": repeat,
            "subject": [drawn.subjects[i] for i in test],
            "observation": [drawn.observations[i] for i in test],
            "truth": sample.target[drawn.observed("test")].tolist(),
        }
    )
    return frame.assign(**{f"p_{k}": probabilities[:, k].numpy() for k in range(sample.classes)})


def _curve(
    fitted: "Fitted",
    sample: "Sample",
    drawn: Drawn,
    repeat: int,
    rates: tuple[float, ...],
    modalities: tuple[str, ...],
    seed: int,
) -> "pd.DataFrame":
    """Predictions of one trained comparator with more and more scans of the test part hidden."""
    import pandas as pd
    import torch

    from cohort.missingness import hide_scans

    tested = drawn.scans[drawn.scans["part"] == "test"]
    frames = []
    for modality in modalities if len(modalities) > 1 else ():
        for rate in rates:
            available, _ = hide_scans(tested, {modality: rate}, seed)
            gone = set(available.loc[~available["available"], "scan"])
            hidden = torch.tensor([scan in gone for scan in drawn.scans["scan"]], device=sample.blocks.device)
            frame = _predictions(fitted, sample.without(hidden), drawn, repeat)
            frames.append(frame.assign(hidden_modality=modality, rate=rate, where="test"))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _pictures(
    out: ComparisonSet, volumes: VolumeSet, scenarios: list[Scenario], gan: GanConfig, quality: "pd.DataFrame"
) -> None:
    """Real and imputed scans side by side, of one test subject, as in the paper's figure 3."""
    import pandas as pd

    from evaluation.comparison_figures import imputation_figure
    from pipeline.imputation import compared, imputed_path

    rows: dict[str, dict[str, Any]] = {}
    shown = ""
    for scenario in scenarios:
        places = {name: out.place(scenario.name, name, 1) for name in TRANSLATIONS.values()}
        tables = {name: out.read(place, "quality.csv") for name, place in places.items()}
        measured = {name: table for name, table in tables.items() if table is not None and len(table)}
        if not measured:
            continue
        common = pd.concat(measured.values()).query("part == 'test'")
        if common.empty:
            continue
        chosen = common.sort_values("observation").iloc[0]
        made = {name: imputed_path(places[name], chosen["observation"], chosen["to"]) for name in measured}
        rows[chosen["to"]] = compared(volumes, dict(chosen[["source", "real"]]), made, gan, PICTURE_SPACING_MM)
        shown = f"{shown}, {chosen['to']} of {chosen['observation']}".strip(", ")
    if rows and len({tuple(columns) for columns in rows.values()}) == 1:
        with replacing(out.folder / "imputed.png") as part:
            part.write_bytes(imputation_figure(rows))
        caption = f"Real and imputed scans of test subjects, hidden from training: {shown}. {quality_words(quality)}"
        caption += f" {gan.words()}."
        write_json(out.folder / "pictures.json", {"imputed.png": caption})


@contextmanager
def _peak_memory(runtime: Runtime) -> "Iterator[dict[str, float]]":
    """Largest resident set while the block ran, MB; on CUDA the most that torch held there."""
    import torch

    peak = {"mb": float("nan")}
    if runtime.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(runtime.device)
        yield peak
        peak["mb"] = round(torch.cuda.max_memory_allocated(runtime.device) / 1e6, 1)
        return
    done = threading.Event()
    status = Path("/proc/self/statm")

    def watch() -> None:
        import resource

        most = 0
        while True:
            most = max(most, int(status.read_text().split()[1]))
            if done.wait(0.05):
                break
        peak["mb"] = round(most * resource.getpagesize() / 1e6, 1)

    watcher = threading.Thread(target=watch, daemon=True) if status.exists() else None
    if watcher is not None:
        watcher.start()
    try:
        yield peak
    finally:
        done.set()
        if watcher is not None:
            watcher.join()


STAGE = Stage(
    baselines,
    config=BaselinesConfig,
    writes=ComparisonSet,
    version=1,
    reads={"cohort": COHORT, "split": SPLIT, "preprocess": PREPROCESS, "features": FEATURES},
)
