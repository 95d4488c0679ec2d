"""The stage baselines from the command line: what is compared, what is fitted again, and what one failure costs."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from baselines import methods
from baselines.sample import Sample
from cohort.missingness import hide_scans
from files.reading import file_sha256
from models.settings import Training, seed_of_repeat
from pipeline.cli.main import main
from pipeline.store.comparison import ComparisonSet

pytestmark = pytest.mark.usefixtures("thin_backbone")

SCENARIOS = ("complete", "100% high + 50% low", "100% low + 50% high")
METHODS = {"hypermm": "HyperMM", "multi_cnn": "Multi-CNN", "averaged_probes": "linear probes, averaged"}
ONLY = ["--only", ",".join(METHODS)]
QUICK = ["--pretrain.epochs", "1", "--baselines.epochs", "1"]
QUICK += ["--baselines.curve_rates", "[0, 0.5]", "--baselines.workers", "1"]
SECTION = 'id="comparison"'


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory, picture_cohort: Callable[..., Path]) -> tuple[list[str], Path]:
    """The arguments of a run of the usual stages, and its workspace."""
    folder = tmp_path_factory.mktemp("usual")
    config = picture_cohort(folder / "data")
    argv = ["--config", str(config), "--quiet", *QUICK]
    assert main([*argv, "--workspace", str(folder / "run")]) == 0
    return argv, folder / "run"


@pytest.fixture(scope="module")
def compared(usual: tuple[list[str], Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """The arguments of a comparison after it, and its workspace."""
    run = tmp_path_factory.mktemp("compared") / "run"
    shutil.copytree(usual[1], run)
    argv = [*usual[0], "--stages", "baselines,report"]
    assert main([*argv, *ONLY, "--workspace", str(run)]) == 0
    return argv, run


@pytest.fixture
def copied(compared: tuple[list[str], Path], tmp_path: Path) -> tuple[list[str], Path]:
    """The arguments of a comparison in a copy of the finished one, without the choice of methods; and the copy."""
    shutil.copytree(compared[1], tmp_path / "run")
    return [*compared[0], "--workspace", str(tmp_path / "run")], tmp_path / "run"


def times(run: Path) -> dict[str, int]:
    """Finished tasks, "scenario/method/repeat-N", and when they were."""
    folder = run / "baselines"
    return {str(p.parent.relative_to(folder)): p.stat().st_mtime_ns for p in folder.glob("*/*/*/record.json")}


def state(argv: list[str], capsys: pytest.CaptureFixture[str], stage: str = "baselines") -> str:
    """What the plan says of a stage."""
    capsys.readouterr()
    assert main([*argv, "--dry-run"]) == 0
    return next(line for line in capsys.readouterr().out.splitlines() if line.split()[:1] == [stage])


def table_of(run: Path) -> pd.DataFrame:
    """`comparison.csv`."""
    return ComparisonSet(run / "baselines").comparison()


def complete_observations(run: Path) -> pd.DataFrame:
    """The scans of observations with both modalities."""
    scans = pd.read_csv(run / "cohort" / "scans.csv", dtype=str)
    both = scans.groupby("observation")["modality"].transform("nunique") == 2
    return scans[both]


def test_the_usual_stages_compare_nothing(usual: tuple[list[str], Path]) -> None:
    assert not (usual[1] / "baselines").exists()
    assert SECTION not in (usual[1] / "report" / "report.html").read_text("utf-8")


def test_tables_and_a_section_of_the_report_are_written(compared: tuple[list[str], Path]) -> None:
    _, run = compared
    table = table_of(run)
    assert list(zip(table["scenario"], table["method"], strict=True)) == [
        (scenario, method) for scenario in SCENARIOS for method in METHODS.values()
    ]
    assert (table["repeats"] == 2).all()
    costs = ["classification_seconds", "peak_memory_mb", "trained_parameters"]
    assert (table[costs] > 0).all(axis=None)
    markdown = (run / "baselines" / "comparison.md").read_text("utf-8")
    page = (run / "report" / "report.html").read_text("utf-8")
    assert SECTION in page
    for word in (*SCENARIOS, *METHODS.values()):
        assert word in markdown
        assert word in page
    assert "Published" not in markdown
    manifest = json.loads((run / "baselines" / "manifest.json").read_text())
    assert manifest["counts"] == {"scenarios": 3, "methods": 3}
    assert manifest["reference"] == "HyperMM"


def test_every_test_observation_has_a_row_for_every_method(compared: tuple[list[str], Path]) -> None:
    _, run = compared
    predictions = pd.read_csv(run / "baselines" / "predictions.csv")
    splits = pd.read_csv(run / "split" / "splits.csv")
    scans = complete_observations(run)
    label = dict(zip(scans["observation"], scans["label"], strict=True))
    for (scenario, method, number), rows in predictions.groupby(["scenario", "method", "repeat"]):
        tested = splits.loc[(splits["repeat"] == number) & (splits["split"] == "test"), "subject"]
        assert sorted(rows["observation"]) == sorted(set(tested) & set(scans["subject"])), (scenario, method)
        assert [int(label[o] == "sick") for o in rows["observation"]] == list(rows["truth"])
    assert len(predictions.groupby(["scenario", "method", "repeat"])) == len(SCENARIOS) * len(METHODS) * 2
    made = predictions[["p_0", "p_1"]].notna().all(axis=1)
    np.testing.assert_allclose(predictions.loc[made, ["p_0", "p_1"]].sum(axis=1), 1, atol=1e-6)
    for scenario, modality in zip(SCENARIOS[1:], ("low", "high"), strict=True):
        here = predictions["scenario"] == scenario
        without = pd.Series(False, index=predictions.index)
        for repeat in (1, 2):
            available = hide_scans(scans, {modality: 0.5}, seed_of_repeat(0, repeat)).scans
            hidden = set(available.loc[~available["available"], "observation"])
            without |= here & (predictions["repeat"] == repeat) & predictions["observation"].isin(hidden)
        assert without.any()
        assert list(predictions.index[here & ~made]) == list(
            predictions.index[without & (predictions["method"] == "Multi-CNN")]
        )
    assert made[predictions["scenario"] == "complete"].all()


def test_curves_start_where_the_tables_are(compared: tuple[list[str], Path]) -> None:
    _, run = compared
    curves = pd.read_csv(run / "baselines" / "robustness.csv")
    points = {(m, where, rate) for m in ("low", "high") for where in ("test", "both") for rate in (0.0, 0.5)}
    for method, rows in curves.groupby("method"):
        assert set(zip(rows["hidden_modality"], rows["where"], rows["rate"], strict=True)) == points, method
        assert len(rows) == len(points)
    table = table_of(run).set_index(["scenario", "method"])
    for row in curves.itertuples():
        scenario = (
            "complete" if row.rate == 0 else next(s for s in SCENARIOS if s.endswith(f"50% {row.hidden_modality}"))
        )
        if row.rate == 0 or row.where == "both":
            assert row.auc_mean == pytest.approx(table["auc_mean"][scenario, row.method], nan_ok=True)
            assert row.n == table["n"][scenario, row.method]
    lost = curves.query("method == 'Multi-CNN' and where == 'test' and rate == 0.5")
    assert (lost["n"] < lost["n_asked"]).all()


def test_a_second_run_does_nothing(copied: tuple[list[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    argv, run = copied
    before = {p: p.stat().st_mtime_ns for p in (run / "baselines").rglob("*") if p.is_file()}
    assert "up to date" in state([*argv, *ONLY], capsys)
    assert main([*argv, *ONLY]) == 0
    assert {p: p.stat().st_mtime_ns for p in (run / "baselines").rglob("*") if p.is_file()} == before


def test_one_method_more_costs_only_that_method(
    copied: tuple[list[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    argv, run = copied
    before = times(run)
    more = ["--only", f"{','.join(METHODS)},linear_set"]
    assert "baselines.only changed" in state([*argv, *more], capsys)
    assert main([*argv, *more]) == 0
    after = times(run)
    assert {name: after[name] for name in before} == before
    new = {name.split("/")[1] for name in set(after) - set(before)}
    assert new == {"linear-set-function"}
    assert len(after) - len(before) == len(SCENARIOS) * 2
    assert set(table_of(run)["method"]) == {
        *METHODS.values(),
        "linear set function",
    }
    assert "linear set function" in (run / "report" / "report.html").read_text("utf-8")


def test_methods_that_are_not_asked_for_keep_their_rows_while_they_hold(copied: tuple[list[str], Path]) -> None:
    argv, run = copied
    before = times(run)
    assert main([*argv, "--only", "linear_set"]) == 0
    table = table_of(run)
    assert set(table["method"]) == {*METHODS.values(), "linear set function"}
    assert (table["n_shared"] > 0).all()
    assert main([*argv, "--only", "linear_set", "--baselines.learning_rate", "1e-3"]) == 0
    assert set(table_of(run)["method"]) == {"linear set function"}
    assert {name: time for name, time in times(run).items() if name in before} == before
    assert main([*argv, "--only", "averaged_probes,multi_cnn,hypermm"]) == 0
    assert set(table_of(run)["method"]) == set(METHODS.values())
    assert {name: time for name, time in times(run).items() if name in before} == before


@pytest.mark.parametrize(
    "change",
    [
        ["--baselines.published", "ADNI"],
        ["--baselines.scenarios", "[missing]"],
        ["--baselines.gan.width", "8"],
    ],
)
def test_settings_of_the_tables_fit_nothing_again(copied: tuple[list[str], Path], change: list[str]) -> None:
    argv, run = copied
    before = times(run)
    assert main([*argv, *ONLY, *change]) == 0
    assert times(run) == before


def test_other_curve_rates_fit_only_the_complete_scenario_again(copied: tuple[list[str], Path]) -> None:
    argv, run = copied
    before = times(run)
    assert main([*argv, *ONLY, "--baselines.curve_rates", "[0.2]"]) == 0
    changed = {name for name, time in times(run).items() if time != before[name]}
    assert {name.split("/")[0] for name in changed} == {"complete"}
    assert len(changed) == len(METHODS) * 2


def test_forced_it_fits_all_again_to_the_same_bytes(copied: tuple[list[str], Path]) -> None:
    argv, run = copied
    files, before = [run / "baselines" / name for name in ("predictions.csv", "robustness.csv")], times(run)
    content = [file_sha256(file) for file in files]
    assert main([*argv, *ONLY, "--force", "baselines"]) == 0
    after = times(run)
    assert set(after) == set(before)
    assert all(after[name] > before[name] for name in before)
    assert [file_sha256(file) for file in files] == content


def test_another_seed_gives_other_predictions(copied: tuple[list[str], Path]) -> None:
    argv, run = copied
    table = run / "baselines" / "predictions.csv"
    before = pd.read_csv(table).query("scenario == 'complete' and method == 'Multi-CNN'").reset_index(drop=True)
    other = ["--only", "multi_cnn", "--baselines.scenarios", "[complete]", "--baselines.seed", "1"]
    assert main([*argv, *other]) == 0
    after = pd.read_csv(table)
    assert list(after["observation"]) == list(before["observation"])
    assert (after["p_0"] != before["p_0"]).all()


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Breaks the linear set function until it is called."""
    whole = methods.SIMPLE["linear_set"]

    def fit(sample: Sample, training: Training) -> methods.Fitted:
        raise RuntimeError("out of luck")

    monkeypatch.setitem(methods.SIMPLE, "linear_set", replace(whole, fit=fit))
    return lambda: monkeypatch.setitem(methods.SIMPLE, "linear_set", whole)


def test_a_method_that_fails_takes_no_other_down_and_is_tried_again(
    copied: tuple[list[str], Path], broken: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    argv, run = copied
    fitted = times(run)
    argv += ["--only", f"linear_set,{','.join(METHODS)}"]
    assert main(argv) == 3
    capsys.readouterr()
    failures = pd.read_csv(run / "failures.csv")
    tasks = {f"{scenario}, linear set function, repeat {repeat}" for scenario in SCENARIOS for repeat in (1, 2)}
    assert set(failures["scan"]) == tasks
    assert set(failures["stage"]) == {"baselines"}
    assert set(failures["reason"]) == {"RuntimeError: out of luck"}
    table = table_of(run).set_index(["scenario", "method"])
    assert set(table.index) == {(s, m) for s in SCENARIOS for m in (*METHODS.values(), "linear set function")}
    page = (run / "report" / "report.html").read_text("utf-8")
    for scenario in SCENARIOS:
        assert table["n"][scenario, "linear set function"] == 0
        assert "out of luck" in table["note"][scenario, "linear set function"]
        assert table["note"][scenario, "linear set function"] in page
        assert (table["n"][scenario].drop("linear set function") > 0).all()
    assert {name: time for name, time in times(run).items() if name in fitted} == fitted
    assert "worth another try" in state(argv, capsys)
    assert main(argv) == 3  # tried again, and still broken
    broken()
    assert "worth another try" in state(argv, capsys)
    assert main(argv) == 0
    assert len(pd.read_csv(run / "failures.csv")) == 0
    assert (table_of(run)["n"] > 0).all()
    assert {name: time for name, time in times(run).items() if name in fitted} == fitted
    assert "up to date" in state(argv, capsys)


def test_a_failed_method_that_is_left_out_is_not_tried_again(
    copied: tuple[list[str], Path], broken: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    argv, _ = copied
    assert main([*argv, "--only", f"linear_set,{','.join(METHODS)}"]) == 3
    assert main([*argv, *ONLY]) == 0
    assert "up to date" in state([*argv, *ONLY], capsys)


def test_stopped_between_two_methods_it_goes_on_where_it_was(
    copied: tuple[list[str], Path],
    compared: tuple[list[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv, run = copied
    whole = methods.SIMPLE["multi_cnn"]
    calls = 0

    def fit(sample: Sample, training: Training) -> methods.Fitted:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return whole.fit(sample, training)

    monkeypatch.setitem(methods.SIMPLE, "multi_cnn", replace(whole, fit=fit))
    assert main([*argv, *ONLY, "--force", "baselines"]) == 130
    assert not (run / "baselines" / "manifest.json").exists()
    finished = times(run)
    assert len(finished) == 4  # all of the first repeat, one of the second
    assert main([*argv, "--stages", "report"]) == 0
    assert SECTION not in (run / "report" / "report.html").read_text("utf-8")  # nothing half finished is shown
    assert main([*argv, *ONLY]) == 0
    assert {name: time for name, time in times(run).items() if name in finished} == finished
    for name in ("predictions.csv", "robustness.csv"):
        assert (run / "baselines" / name).read_bytes() == (compared[1] / "baselines" / name).read_bytes()


def test_why_a_method_cannot_be_fitted_stands_in_the_table(
    picture_cohort: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only those who are well have a picture of high magnification, so it teaches nothing by itself."""
    config = picture_cohort(tmp_path / "data", subjects=16, second=1.0)
    manifest = pd.read_csv(tmp_path / "data" / "cohort.csv")
    manifest.query("modality == 'low' or `class` == 'well'").to_csv(tmp_path / "data" / "cohort.csv", index=False)
    argv = ["--config", str(config), "--workspace", str(tmp_path / "run"), "--quiet", *QUICK, "--stages", "baselines"]
    argv += ["--only", "uni_cnn,multi_cnn", "--baselines.scenarios", "[as_it_is]"]
    assert main(argv) == 0
    table = table_of(tmp_path / "run").set_index("method")
    assert table["n"]["CNN low"] > 0
    markdown = (tmp_path / "run" / "baselines" / "comparison.md").read_text("utf-8")
    for method in ("CNN high", "Multi-CNN"):
        assert table["n"][method] == 0
        assert "are of class 0; two classes are needed" in table["note"][method]
        assert table["note"][method] in markdown
    capsys.readouterr()
    assert "up to date" in state(argv, capsys)  # trying again would end the same


@pytest.mark.parametrize(
    ("argv", "messages"),
    [
        (["--baselines.only", "[multi_cnn, hyperm]"], ("baselines.only", "no baseline 'hyperm'", "shaspec")),
        (["--only", "multi_cnn,hyperm"], ("baselines.only", "no baseline 'hyperm'")),
        (["--baselines.only", "hypermm"], ("baselines.only",)),
        (["--baselines.scenarios", "[halves]"], ("baselines.scenarios", "as_it_is")),
        (["--baselines.scenarios", "[]"], ("baselines.scenarios",)),
        (["--baselines.rates", "[1.0]"], ("baselines.rates", "shares")),
        (["--baselines.rates", "[0.0]"], ("baselines.rates",)),
        (["--baselines.rates", "[0.5, 0.5]"], ("baselines.rates", "expected different shares")),
        (["--baselines.curve_rates", "[0.5, 0.5]"], ("baselines.curve_rates", "expected different shares")),
        (["--baselines.curve_rates", "[-0.5]"], ("baselines.curve_rates", "shares")),
        (["--baselines.gan.pixels", "16"], ("baselines.gan.pixels", "32")),
        (["--baselines.gan.pixels", "100"], ("baselines.gan.pixels", "multiple of 16")),
        (["--baselines.gan.pixel", "64"], ("did you mean baselines.gan.pixels?",)),
    ],
)
def test_slips_are_explained(
    copied: tuple[list[str], Path], argv: list[str], messages: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    before = times(copied[1])
    assert main([*copied[0], *argv]) == 2
    error = capsys.readouterr().err
    for word in messages:
        assert word in error
    assert times(copied[1]) == before


def test_without_a_complete_test_subject_it_says_what_to_ask_for(
    picture_cohort: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everybody tested has one modality; what was compared before stays."""
    config = picture_cohort(tmp_path / "data", subjects=16, second=1.0)
    manifest = pd.read_csv(tmp_path / "data" / "cohort.csv")
    number = manifest["subject"].str[1:].astype(int)
    manifest["split"] = np.select([number < 10, number < 12], ["train", "validation"], "test")
    manifest[(number < 12) | (manifest["modality"] == "low")].to_csv(tmp_path / "data" / "cohort.csv", index=False)
    argv = ["--config", str(config), "--workspace", str(tmp_path / "run"), "--quiet", *QUICK, "--stages", "baselines"]
    argv += ["--only", "multi_cnn,averaged_probes"]
    as_it_is = [*argv, "--baselines.scenarios", "[as_it_is]"]
    assert main(as_it_is) == 0
    table = table_of(tmp_path / "run").set_index("method")
    assert table["n"].to_dict() == {"Multi-CNN": 0, "linear probes, averaged": 8}  # four subjects, two repeats
    manifest = json.loads((tmp_path / "run" / "baselines" / "manifest.json").read_text())
    assert manifest["reference"] == "linear probes, averaged"  # the first that made a prediction
    assert main(argv) == 2
    assert "set baselines.scenarios to [as_it_is]" in capsys.readouterr().err
    assert "up to date" in state(as_it_is, capsys)


def test_a_repeat_that_tests_nobody_complete_leaves_the_others_to_be_compared(
    picture_cohort: Callable[..., Path], tmp_path: Path
) -> None:
    config = picture_cohort(tmp_path / "data", subjects=16, second=1.0)
    argv = ["--config", str(config), "--workspace", str(tmp_path / "run"), "--quiet", *QUICK]
    assert main([*argv, "--stages", "split"]) == 0
    splits = pd.read_csv(tmp_path / "run" / "split" / "splits.csv").query("split == 'test'")
    first, second = (set(splits.loc[splits["repeat"] == repeat, "subject"]) for repeat in (1, 2))
    manifest = pd.read_csv(tmp_path / "data" / "cohort.csv")
    dropped = manifest["subject"].isin(first) & (manifest["modality"] == "high")
    manifest[~dropped].to_csv(tmp_path / "data" / "cohort.csv", index=False)
    complete = ["--stages", "baselines", "--baselines.scenarios", "[complete]", "--only", "averaged_probes"]
    assert main([*argv, *complete]) == 0
    predictions = pd.read_csv(tmp_path / "run" / "baselines" / "predictions.csv")
    assert set(predictions["repeat"]) == {2}
    assert set(predictions["subject"]) == second - first
    assert set(pd.read_csv(tmp_path / "run" / "baselines" / "robustness.csv")["n_asked"]) == {len(second - first)}


def test_a_cohort_of_one_modality_can_be_compared_on(picture_cohort: Callable[..., Path], tmp_path: Path) -> None:
    """There is nothing to hide, so there are no curves."""
    config = picture_cohort(tmp_path / "data", subjects=16, second=0.0)
    argv = ["--config", str(config), "--workspace", str(tmp_path / "run"), "--quiet", *QUICK, "--stages", "baselines"]
    argv += ["--only", "uni_cnn,averaged_probes", "--baselines.scenarios", "[complete]"]
    assert main(argv) == 0
    table = table_of(tmp_path / "run")
    assert list(table["method"]) == ["CNN low", "linear probes, averaged"]
    assert not (tmp_path / "run" / "baselines" / "robustness.csv").exists()


def test_a_comparison_on_other_data_is_not_shown_beside_new_results(
    copied: tuple[list[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The usual stages leave the comparison as it is; once what it was made from has changed, the report must not."""
    argv, run = copied
    argv = [word for word in argv if word not in ("--stages", "baselines,report")]
    assert main(argv) == 0
    assert SECTION in (run / "report" / "report.html").read_text("utf-8")
    capsys.readouterr()
    assert main([*argv, "--features.random_seed", "1"]) == 0
    assert SECTION not in (run / "report" / "report.html").read_text("utf-8")
    assert "note: report: the comparison with baselines is of earlier data and not shown" in capsys.readouterr().out


def test_published_figures_stand_beside_their_own_scenario_only(copied: tuple[list[str], Path]) -> None:
    """Those of BreakHis are on whatever pictures a patient has, and no other scenario."""
    argv, run = copied
    assert main([*argv, *ONLY, "--baselines.published", "BreakHis"]) == 0
    assert "Published" not in (run / "baselines" / "comparison.md").read_text("utf-8")
    assert main([*argv, *ONLY, "--baselines.published", "BreakHis", "--baselines.scenarios", "[as_it_is]"]) == 0
    assert "Published: BreakHis" in (run / "baselines" / "comparison.md").read_text("utf-8")


def test_pictures_cannot_be_imputed_and_the_table_says_so(copied: tuple[list[str], Path]) -> None:
    argv, run = copied
    assert main([*argv, "--only", "pix2pix", "--baselines.scenarios", "[missing]"]) == 0
    table = table_of(run).set_index(["scenario", "method"])
    for scenario in SCENARIOS[1:]:
        assert table["n"][scenario, "pix2pix"] == 0
        assert "is a picture" in table["note"][scenario, "pix2pix"]


BLIND = "covariates,availability,covariates_availability,covariates_images"


def test_methods_that_see_no_image_stand_beside_the_others(usual: tuple[list[str], Path], tmp_path: Path) -> None:
    """Those who are ill are older here, and the site tells nothing."""
    argv, before = usual
    shutil.copytree(before, tmp_path / "run")
    manifest = pd.read_csv(before.parent / "data" / "cohort.csv")
    number = manifest["subject"].str[1:].astype(int)
    manifest["path"] = [str(before.parent / "data" / name) for name in manifest["path"]]
    manifest.assign(age=60 + 9 * (number % 2) + number % 5, site="A").to_csv(tmp_path / "cohort.csv", index=False)
    argv = [*argv, "--cohort", str(tmp_path / "cohort.csv"), "--workspace", str(tmp_path / "run")]
    argv += ["--stages", "baselines,report", "--baselines.scenarios", "[complete, as_it_is]"]
    assert main([*argv, "--only", f"hypermm,{BLIND}"]) == 0
    table = table_of(tmp_path / "run").set_index(["scenario", "method"])
    names = ["HyperMM", "covariates only", "availability only", "covariates and availability", "covariates + HyperMM"]
    for scenario in ("complete", "as it is"):
        assert list(table.loc[scenario].index) == names
        assert (table["n"][scenario] == table["n_asked"][scenario]).all()
        assert table["auc_mean"][scenario, "covariates only"] == 1
    assert table["auc_mean"]["complete", "availability only"] == 0.5  # all have the same scans
    gains = ComparisonSet(tmp_path / "run" / "baselines").gains()
    assert gains is not None
    assert gains["scenario"].tolist() == ["complete", "as it is"]
    assert (gains["difference"] <= 0).all()
    for page in ("baselines/comparison.md", "report/report.html"):
        text = (tmp_path / "run" / page).read_text("utf-8")
        assert "from age and site alone" in text, page
    fitted = times(tmp_path / "run")
    assert main([*argv, "--only", BLIND]) == 0
    assert times(tmp_path / "run") == fitted
    older = pd.read_csv(tmp_path / "cohort.csv")
    older.loc[older["subject"] == "p01", "age"] += 1
    older.to_csv(tmp_path / "cohort.csv", index=False)
    assert main([*argv, "--only", BLIND]) == 0
    again = {name.split("/")[1] for name, time in times(tmp_path / "run").items() if time != fitted[name]}
    assert again == {"covariates-only", "covariates-and-availability", "covariates-+-HyperMM"}


def test_without_covariates_that_is_said(copied: tuple[list[str], Path]) -> None:
    argv, run = copied
    assert main([*argv, "--only", "covariates,availability"]) == 0
    table = table_of(run).set_index(["scenario", "method"])
    assert "none of the columns of cohort.covariates" in table["note"]["complete", "covariates only"]
    assert (table["n"].xs("availability only", level="method") > 0).all()
    assert "What the images add cannot be said" in (run / "report" / "report.html").read_text("utf-8")
