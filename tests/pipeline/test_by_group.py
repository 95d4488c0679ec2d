"""The audit beside HyperMM: which comparator is taken, and that each figure is of the patients of its group."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from evaluation.comparison import holm
from evaluation.fairness import audit_groups
from evaluation.metrics import best_threshold
from files.writing import real_folder
from pipeline.comparison.by_group import FROM_REAL, FROM_SYNTHETIC, Audit, first_sessions, groups_by, shares_of_groups
from pipeline.store.base import write_record
from pipeline.store.comparison import ComparisonSet
from pipeline.store.imputed import ImputedSet
from pipeline.store.synthetic import JudgementTables, SyntheticCohort

NOW = {"cohort": "c", "split": "s", "features": "f"}
PEOPLE = [f"p{i:02d}" for i in range(48)]
SEX = pd.Series(np.where(np.arange(48) // 2 % 2, "F", "M"), index=PEOPLE)


def finish(artifact: Any, **inputs: str) -> None:
    write_record(artifact.folder / "manifest.json", {"made_from": {"inputs": NOW | inputs}, "files": {}})


def predictions(signal: float, *, seed: int, people: list[str] = PEOPLE, repeat: int = 1) -> pd.DataFrame:
    """Classes in turn; probabilities by `signal` standard deviations apart."""
    random = np.random.default_rng([seed, repeat])
    truth = np.array([int(name[1:]) % 2 for name in people])
    p = 1 / (1 + np.exp(-signal * (truth - 0.5) - random.standard_normal(len(people))))
    table = pd.DataFrame({"repeat": repeat, "subject": people, "observation": people, "truth": truth})
    return table.assign(p_0=1 - p, p_1=p)


VALIDATION = [f"v{i:02d}" for i in range(20)]


@pytest.fixture
def baselines(tmp_path: Path) -> ComparisonSet:
    """One is better on validation patients and worse on test patients than the other; others cannot be chosen."""
    out = ComparisonSet(real_folder(tmp_path / "baselines", below=tmp_path))
    signals = {"Multi-CNN": (6, 1), "ShaSpec": (1, 6), "HyperMM": (9, 9), "covariates only": (9, 9), "gappy": (9, 9)}
    for seed, (name, (held, tested)) in enumerate(signals.items()):
        for repeat in (1, 2):
            validation = predictions(held, seed=seed, people=VALIDATION, repeat=repeat)
            if name == "gappy":
                validation.loc[3, ["p_0", "p_1"]] = np.nan
            tables = {
                "predictions.csv": predictions(tested, seed=10 + seed, repeat=repeat), "validation.csv": validation,
            }  # fmt: skip
            folder = out.folder_of("as it is", name, repeat)
            real_folder(folder, below=out.folder)
            out.finish(folder, "key", tables, {})
    comparison = pd.DataFrame({"scenario": "as it is", "method": [*signals, "never fitted"], "note": ""})
    out.save_table("comparison.csv", comparison)
    finish(out)
    return out


def test_the_comparator_is_chosen_on_validation_and_decided_at_its_own_threshold(baselines: ComparisonSet) -> None:
    audit = Audit(smallest=5, permutations=200, seed=0)
    audit.comparator(baselines, NOW, [1, 2], {"sex": SEX})
    chosen = audit.facts["comparator"]
    assert chosen["name"] == "Multi-CNN"
    assert set(chosen["validation"]) == {"Multi-CNN", "ShaSpec"}
    assert set(chosen["left_out"]) == {"gappy", "never fitted"}
    made = []
    for repeat in (1, 2):
        folder = baselines.folder_of("as it is", "Multi-CNN", repeat)
        test, held = (baselines.read(folder, name) for name in ("predictions.csv", "validation.csv"))
        assert test is not None
        assert held is not None
        threshold, _ = best_threshold(held["truth"], held["p_1"])
        made.append(test.assign(decided=(test["p_1"] >= threshold).astype(int)))
    expected = audit_groups(pd.concat(made), {"sex": SEX}, smallest=5)
    found = audit.tables()["groups_of_others.csv"]
    pd.testing.assert_frame_equal(found.drop(columns="of"), expected)
    assert set(found["of"]) == {"Multi-CNN"}


def test_test_patients_of_whom_the_comparator_says_nothing_are_counted(baselines: ComparisonSet) -> None:
    folder = baselines.folder_of("as it is", "Multi-CNN", 1)
    tables = {name: baselines.read(folder, name) for name in ("predictions.csv", "validation.csv")}
    test = tables["predictions.csv"]
    assert test is not None
    test.loc[:4, ["p_0", "p_1"]] = np.nan
    baselines.finish(folder, "key", tables, {})
    audit = Audit(smallest=5, permutations=200, seed=0)
    audit.comparator(baselines, NOW, [1, 2], {"sex": SEX})
    assert audit.facts["comparator"]["not_predicted"] == 5
    groups = audit.tables()["groups_of_others.csv"]
    assert groups.loc[groups["grouping"] == "sex", "n"].sum() == 91


def test_what_is_of_other_data_is_not_audited(baselines: ComparisonSet) -> None:
    audit = Audit(smallest=5, permutations=200, seed=0)
    audit.comparator(baselines, NOW | {"split": "another"}, [1, 2], {"sex": SEX})
    assert audit.facts["comparator"]["name"] == ""
    tables = audit.tables()
    assert all(len(table) == 0 for table in tables.values())
    assert list(tables["gaps_imputed.csv"]) == [
        "grouping", "groups", "highest", "lowest", "gap", "low", "high", "p", "modality", "p_holm"
    ]  # fmt: skip


def test_imputations_are_worse_in_the_group_that_was_made_worse(tmp_path: Path) -> None:
    out = ImputedSet(real_folder(tmp_path / "impute", below=tmp_path))
    random = np.random.default_rng(0)
    rows = [
        {"repeat": r, "modality": m, "observation": name, "from": "MRI",
         "crps": random.normal(1 + 1.5 * (m == "PET" and SEX[name] == "F"), 0.3), "crps_without": 3.0}
        for r in (1, 2) for m in ("MRI", "PET") for name in PEOPLE
    ]  # fmt: skip
    out.save_table("quality.csv", pd.DataFrame(rows))
    finish(out)
    audit = Audit(smallest=5, permutations=400, seed=0)
    audit.imputations(out, NOW, predictions(1, seed=0), {"sex": SEX})
    gaps = audit.imputed["gaps_imputed.csv"].set_index("modality")
    assert (gaps["highest"]["PET"], gaps["lowest"]["PET"]) == ("F", "M")
    assert gaps["p_holm"]["PET"] < 0.05 < gaps["p_holm"]["MRI"]
    np.testing.assert_allclose(gaps["p_holm"], holm(gaps["p"].to_numpy()))
    table = pd.DataFrame(rows)
    mean = table[table["modality"] == "PET"].groupby(["observation"])["crps"].mean().groupby(SEX).mean()
    found = audit.imputed["groups_imputed.csv"].query("modality == 'PET'").set_index("group")
    np.testing.assert_allclose(found["mean"][["F", "M"]], mean[["F", "M"]])
    assert (found["low"] < found["mean"]).all()


def test_imputations_of_patients_who_change_class_are_exchanged_among_themselves(tmp_path: Path) -> None:
    """Twelve patients have a second visit with the other class; which of the two comes first must not matter."""
    out = ImputedSet(real_folder(tmp_path / "impute", below=tmp_path))
    random = np.random.default_rng(1)
    changing = PEOPLE[:12]
    names = [*PEOPLE, *(f"{name}_2" for name in changing)]
    subjects = [*PEOPLE, *changing]
    truth = [int(name[1:]) % 2 for name in PEOPLE] + [1 - int(name[1:]) % 2 for name in changing]
    rows = [
        {"repeat": 1, "modality": "PET", "observation": name, "from": "MRI", "crps_without": 3.0,
         "crps": random.normal(1 + 0.4 * (SEX[who] == "F") + 2 * (who in changing), 0.5)}
        for name, who in zip(names, subjects, strict=True)
    ]  # fmt: skip
    test = pd.DataFrame({"observation": names, "subject": subjects, "truth": truth})
    found = []
    for order in (1, -1):  # the second visits last, or first
        out.save_table("quality.csv", pd.DataFrame(rows[::order]))
        finish(out)
        audit = Audit(smallest=5, permutations=400, seed=0)
        audit.imputations(out, NOW, test, {"sex": SEX})
        found.append(audit.imputed["gaps_imputed.csv"])
        assert audit.notes == [
            "imputed PET: 12 patients change class between sessions (p00, p01, p02, p03, p04, …); each counts once, "
            "with the mean of all sessions, and the random groups exchange them among themselves"
        ]
        assert audit.imputed["groups_imputed.csv"]["subjects"].sum() == len(PEOPLE)
    pd.testing.assert_frame_equal(*found)
    crps = pd.DataFrame(rows).assign(subject=subjects).groupby("subject")["crps"].mean()
    stratum = [name if name == "changes" else str(int(who[1:]) % 2) for who in PEOPLE
               for name in ["changes" if who in changing else "once"]]  # fmt: skip
    drawn, value, women = np.random.default_rng(7), crps[PEOPLE].to_numpy(), (SEX[PEOPLE] == "F").to_numpy()
    gap = abs(value[women].mean() - value[~women].mean())
    as_large = 0
    for _ in range(2000):
        mixed = women.copy()
        for each in set(stratum):
            members = np.flatnonzero([name == each for name in stratum])
            mixed[members] = drawn.permutation(women[members])
        as_large += abs(value[mixed].mean() - value[~mixed].mean()) >= gap
    assert found[0]["p"].iloc[0] == pytest.approx(as_large / 2000, abs=0.05)


def test_synthetic_patients_are_judged_by_group_and_their_shares_counted(tmp_path: Path) -> None:
    judge = JudgementTables(real_folder(tmp_path / "judge", below=tmp_path))
    made = SyntheticCohort(real_folder(tmp_path / "synthesise", below=tmp_path))
    tables = {"real": predictions(3, seed=1), "generated": predictions(1, seed=2)}
    transfer = pd.concat([table.assign(trained_on=name) for name, table in tables.items()])
    judge.save({"repeat": 1}, pd.DataFrame(columns=list(judge.COPY_COLUMNS)), pd.DataFrame(
        columns=list(made.MANIFEST_COLUMNS)), transfer)  # fmt: skip
    finish(judge)
    drawn = pd.DataFrame(
        {"subject": [f"syn-{i}" for i in range(10)], "modality": "MRI", "path": "", "origin": "synthetic"}
    )
    made.save_table("manifest.csv", drawn.assign(judged="no", sex=["F"] * 8 + ["M"] * 2), made.MANIFEST_COLUMNS)
    trained = [f"t{i}" for i in range(6)]
    again = [f"t0_{i}" for i in range(2, 11)]  # nine sessions more of a woman, who is one patient
    covariates = pd.DataFrame({"sex": [*SEX, *"FFMMMM", *"FFFFFFFFF"]}, index=[*PEOPLE, *trained, *again])
    subjects = [*PEOPLE, *trained, *["t0"] * 9]
    sessions = [*["1"] * 54, *(str(i) for i in range(2, 11))]
    scans = pd.DataFrame({"observation": covariates.index, "subject": subjects, "session": sessions})
    splits = pd.DataFrame({"repeat": 1, "subject": [*PEOPLE, *trained], "split": ["test"] * 48 + ["train"] * 6})
    audit = Audit(smallest=5, permutations=200, seed=0)
    audit.synthetic(judge, made, NOW, covariates, splits, scans)
    found = audit.tables()["groups_of_others.csv"].set_index(["of", "group"])
    for name, of in ((FROM_REAL, "real"), (FROM_SYNTHETIC, "generated")):
        women = tables[of][tables[of]["subject"].map(SEX) == "F"]
        assert found["auc_mean"][name, "F"] == pytest.approx(roc_auc_score(women["truth"], women["p_1"]))
    (judge.folder / "transfer.csv").unlink()  # as of an earlier version of the stage
    earlier = Audit(smallest=5, permutations=200, seed=0)
    earlier.synthetic(judge, made, NOW, covariates, splits, scans)
    assert "type --stages judge,confounding" in earlier.notes[0]
    assert not earlier.groups
    shares = audit.tables()["groups_synthetic.csv"].set_index("group")
    assert shares["share_training"].to_dict() == pytest.approx({"F": 1 / 3, "M": 2 / 3})
    assert shares["share_synthetic"].to_dict() == pytest.approx({"F": 0.8, "M": 0.2})


def test_shares_have_groups_that_one_side_lacks() -> None:
    table = shares_of_groups({"sex": pd.Series(["F", "F"])}, {"sex": pd.Series(["M"])})
    assert table[["group", "training", "synthetic"]].to_numpy().tolist() == [["F", 2, 0], ["M", 0, 1]]
    assert groups_by(pd.DataFrame({"sex": ["F", ""]}, index=["a", "b"]), {"a"})["sex"].to_list() == ["F", "not given"]


def test_a_patient_with_many_sessions_counts_once_in_the_terciles() -> None:
    ages = {f"s{i:02d}": 50 + i for i in range(30)}
    rows = [(name, str(n), f"{name}_{n}", age) for name, age in ages.items() for n in range(12 if age >= 70 else 1)]
    scans = pd.DataFrame(rows, columns=["subject", "session", "observation", "age"]).iloc[::-1]  # ses-10 after ses-2
    first = first_sessions(scans)
    assert first == [f"{name}_0" for name in ages]
    covariates = scans.set_index("observation")[["age"]].astype(str)
    cut = groups_by(covariates, set(first))["age"].loc[first]
    assert cut.value_counts().loc[cut.cat.categories[:3]].to_list() == [10, 10, 10]
