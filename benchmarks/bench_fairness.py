"""Is a planted harm found, and is none found where there is none? Simulated test predictions of two sexes and sites.

Scores of class 1 lie some standard deviations above those of class 0. Harm is planted in two ways: the sick of one sex
lack a share of that distance, as the phantoms with `demo.sign_by_sex` do; or the scores of one site are shifted, as by
a scanner with another gain where nothing takes it out. Groups are sex, site and age in three bands, and their pairs, as
in the stage `confounding`. Counted is how often the planted harm is found (p after Holm below .05 in its grouping), and
how often anything is found that was not planted. It leaves `fairness.md` beside the JSON, the table of
docs/results/fairness.md.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.common import finish, options
from evaluation.comparison import holm
from evaluation.fairness import PERMUTATIONS, crossed, permutation_test

SMALLEST = 10  # patients of each class in a group, as in the stage
LEVEL = 0.05


@dataclass(frozen=True)
class Design:
    """How many patients are tested, and how often.

    Attributes:
        name: for the table.
        patients: half of them sick.
        repeats: of the split.
        tested: share of the patients tested in each repeat, drawn by class.
    """

    name: str
    patients: int
    repeats: int = 1
    tested: float = 1.0


@dataclass(frozen=True)
class Harm:
    """What is wrong with the model.

    Attributes:
        name: for the table.
        lacking: share of the distance between the classes that sick women lack.
        shift: added to the scores of site B, standard deviations.
        where: the grouping that it is planted in; "" for none.
    """

    name: str
    lacking: float = 0.0
    shift: float = 0.0
    where: str = ""


DESIGNS = (
    Design("90 tested once", 90),
    Design("90, 3 repeats of 30 %", 90, 3, 0.3),
    Design("90, 10 repeats of 30 %", 90, 10, 0.3),
)
HARMS = (
    Harm("none"),
    Harm("sick women look well", lacking=1.0, where="sex"),
    Harm("sick women show half", lacking=0.5, where="sex"),
    Harm("site B shifted by 1 sd", shift=1.0, where="site"),
    Harm("site B shifted by 2 sd", shift=2.0, where="site"),
)


def main() -> None:
    """Run it."""
    parser = options(__doc__ or "")
    parser.add_argument("--cohorts", type=int, default=200, help="simulated for each row")
    arguments = parser.parse_args()
    cohorts, designs = (4, DESIGNS[:1]) if arguments.quick else (arguments.cohorts, DESIGNS)
    lines = ["| test patients | harm | found | false alarms | tests |", "|---" * 5 + "|"]
    found: dict[str, Any] = {}
    for design in designs:
        for harm in HARMS:
            hits, alarms, tests = simulate(design, harm, cohorts)
            hit = "–" if not harm.where else f"{hits:.2f}"
            lines.append(f"| {design.name} | {harm.name} | {hit} | {alarms:.3f} | {tests:.0f} |")
            print(lines[-1], flush=True)  # noqa: T201
            found[f"{design.name}: {harm.name}"] = alarms if not harm.where else hits
    arguments.out.mkdir(parents=True, exist_ok=True)
    Path(arguments.out / "fairness.md").write_text("\n".join(lines) + "\n", "utf-8")
    finish("fairness", found, arguments)


def simulate(design: Design, harm: Harm, cohorts: int) -> tuple[float, float, float]:
    """Return the share of cohorts where the harm is found, that with a false alarm, and the mean number of tests.

    A false alarm is one in a grouping that the harm is not planted in, pairs with it aside.
    """
    hits, alarms, tests = [], [], []
    for seed in range(cohorts):
        table, groups = cohort(design, harm, seed=seed)
        every = groups | crossed(groups)
        found = [(name, p) for name, group_of in every.items() for p in p_values(table, group_of, seed).values()]
        corrected = holm([p for _, p in found])
        told = {name for (name, _), p in zip(found, corrected, strict=True) if p < LEVEL}
        hits.append(harm.where in told)
        alarms.append(any(not harm.where or harm.where not in name.split(" and ") for name in told))
        tests.append(len(found))
    return float(np.mean(hits)), float(np.mean(alarms)), float(np.mean(tests))


def p_values(table: pd.DataFrame, group_of: pd.Series, seed: int) -> dict[str, float]:
    """Return p of each measure, of the groups that are large enough; nothing where fewer than two are."""
    first = table.drop_duplicates("subject")
    sizes = pd.crosstab(first["subject"].map(group_of.astype(object)), first["truth"])
    scored = [str(name) for name in sizes.index[(sizes >= SMALLEST).all(axis=1)]]
    if len(scored) < 2:
        return {}
    return permutation_test(table, group_of, scored, permutations=PERMUTATIONS, seed=seed)


def cohort(
    design: Design, harm: Harm, *, seed: int, distance: float = 2.2
) -> tuple[pd.DataFrame, dict[str, pd.Series]]:
    """Return test predictions, with decisions at .5, and grouping → patient → group.

    Models of different repeats differ: each adds noise of its own, 0.3 standard deviations.
    """
    random, n = np.random.default_rng(seed), design.patients
    truth = random.permutation(np.arange(n) % 2)
    sex, site = (random.permutation(np.array(list(names))[np.arange(n) % 2]) for names in ("FM", "AB"))
    names = pd.Index([f"s{i:03d}" for i in range(n)])
    age = pd.Series(random.uniform(60, 85, n), index=names)
    score = random.normal(size=n) + distance * truth * (1 - harm.lacking * (sex == "F"))
    score = score - distance / 2 + harm.shift * (site == "B")
    tables = []
    for repeat in range(1, design.repeats + 1):
        noisy = score + 0.3 * random.normal(size=n) * (design.repeats > 1)
        p = 1 / (1 + np.exp(-distance * noisy))
        table = pd.DataFrame({"repeat": repeat, "subject": names, "observation": names, "truth": truth})
        table = table.assign(p_0=1 - p, p_1=p, decided=(p >= 0.5).astype(int))
        by_class = [random.permutation(np.flatnonzero(truth == k)) for k in (0, 1)]
        chosen = np.concatenate([members[: round(design.tested * len(members))] for members in by_class])
        tables.append(table.iloc[np.sort(chosen)])
    band = pd.qcut(age, 3, labels=["young", "middle", "old"])
    groups = {"sex": pd.Series(sex, index=names), "site": pd.Series(site, index=names), "age": band}
    made = pd.concat(tables, ignore_index=True)
    tested = set(made["subject"])
    return made, {name: group_of[[s in tested for s in names]] for name, group_of in groups.items()}


if __name__ == "__main__":
    main()
