"""Is HyperMM trained over the sites of a cohort as good as in one place, and better than each site by itself?

Reads a workspace after the stage features. Patients are tested in folds, stratified by site and class. In every fold
HyperMM is trained over the sites, with all patients in one place by the same rounds, and at each site alone; all are
tested on the same patients of all sites. Beside it one site is left out of training altogether and tested.

Sites are a covariate of the manifest (`--site`), or made: `--owns east=MRI+PET north=MRI west=PET` shares the patients
out among three hospitals and takes away the scans that a hospital does not own, in training and validation.
"""

import argparse
import dataclasses
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

from benchmarks.common import finish, options
from models.federated_hypermm import (
    Arrays,
    Layout,
    LocalSite,
    Rounds,
    Server,
    features_of,
    load,
    predict,
    train_in_one_process,
)  # fmt: skip
from models.hypermm import Scans, Sets, fit_classifier, new_classifier, predict_sets
from models.sets import Groups
from models.settings import StepTwo, Training
from pipeline.store.features import FeatureStore
from pipeline.store.tables import CohortTables

FEWEST = 5  # patients of a site; smaller ones are left out and named
SETTINGS = "bench"
FEDERATED, TOGETHER, BY_FOLDS = "over the sites", "in one place", "in one place, ρ by inner folds"


@dataclasses.dataclass(frozen=True)
class Cohort:
    """All patients, and where they are.

    Attributes:
        maps: of all scans, (N, C, H, W).
        modality: (N,) int64.
        owner: patient of each scan, (N,) int64.
        hidden: whether the hospital of the patient does not own this scan's modality, (N,) bool.
        target: class of each patient, (P,) int64.
        site: of each patient, (P,) names.
        subject: of each patient, (P,) names.
        modalities: names.
        layout: of the networks.
    """

    maps: Tensor
    modality: Tensor
    owner: Tensor
    hidden: Tensor
    target: Tensor
    site: np.ndarray
    subject: np.ndarray
    modalities: tuple[str, ...]
    layout: Layout

    def data(self, train: np.ndarray, validation: np.ndarray, tested: np.ndarray, *, has: str = "") -> tuple[Any, Any]:
        """Return scans and sets of some patients; those tested keep what they have, or one modality alone."""
        people = np.concatenate([train, validation, tested])
        number = torch.full((len(self.target),), -1)
        number[people] = torch.arange(len(people))
        is_tested = torch.zeros(len(self.target), dtype=torch.bool)
        is_tested[tested] = True
        seen = (number[self.owner] >= 0) & (is_tested[self.owner] | ~self.hidden)
        if has:
            seen &= ~is_tested[self.owner] | (self.modality == self.modalities.index(has))
        rows = seen.nonzero().flatten()
        rows = rows[torch.argsort(number[self.owner[rows]], stable=True)]
        owner, modality = number[self.owner[rows]], self.modality[rows]
        ends = [0, len(train), len(train) + len(validation)]
        parts = [torch.arange(a, b) for a, b in zip(ends, ends[1:], strict=False)]
        of_scan = [torch.isin(owner, part).nonzero().flatten() for part in parts]
        target = self.target[people]
        scans = Scans(self.maps[rows], modality, target[owner], *of_scan)
        train_sets, held_sets = parts
        groups = Groups.of(owner, len(people))
        return scans, Sets(groups, target, train_sets, held_sets, torch.arange(len(people)))


def main() -> None:
    """Train, test, print and write."""
    arguments = _arguments()
    torch.set_num_threads(1)
    cohort, left_out = read(arguments)
    rounds = Rounds(
        extractor=arguments.rounds[0], classifier=arguments.rounds[1], epochs=arguments.epochs,
        learning_rate=arguments.rates[0], classifier_learning_rate=arguments.rates[1], seed=0,
    )  # fmt: skip
    found: dict[str, Any] = {"left out": ", ".join(left_out) or "nobody"}
    found |= {f"{site}: patients, of class 1": _counted(cohort, site) for site in sorted(set(cohort.site))}
    arguments.out.mkdir(parents=True, exist_ok=True)
    predictions = in_folds(
        cohort, rounds, arguments.folds, arguments.repeats, share=arguments.validation,
        saved=arguments.out / "federation_sites.csv",
    )  # fmt: skip
    found |= scored(predictions)
    if not arguments.owns:
        found |= one_left_out(cohort, rounds, arguments.validation)
    finish("federation_sites", found, arguments)


def _arguments() -> argparse.Namespace:
    parser = options(__doc__ or "")
    add = parser.add_argument
    add("--workspace", type=Path, required=True, help="after the stage features")
    add("--site", default="site", help="covariate with the site; default site")
    add("--owns", nargs="*", metavar="NAME=A+B", help="hospitals to share the patients out among, and what each owns")
    add("--average", action="store_true", help="feature maps averaged over positions: a tenth of the time")
    add("--folds", type=int, default=4)
    add("--repeats", type=int, default=1, help="of the folds")
    add("--rounds", type=int, nargs=2, default=(3, 20), metavar="N", help="of φ and of ρ")
    add("--validation", type=int, default=0, metavar="N", help="one of N for validation; 0: the last round counts")
    add("--epochs", type=int, default=1, help="of a site in a round")
    add("--rates", type=float, nargs=2, default=(1e-4, 1e-3), metavar="X", help="learning rates of φ and of ρ")
    return parser.parse_args()


def read(arguments: argparse.Namespace) -> tuple[Cohort, list[str]]:
    """Return the patients of a workspace, and those of sites that are too small."""
    tables, store = CohortTables(arguments.workspace / "cohort"), FeatureStore(arguments.workspace / "features")
    scans = tables.scans()
    scans = scans[scans["scan"].isin(store.scans())].sort_values(["observation", "scan"])
    people = scans.drop_duplicates("subject").set_index("subject")
    scans = scans[scans["observation"].isin(people["observation"])]  # the first session
    classes, modalities = tables.classes(), tuple(sorted(scans["modality"].unique()))
    target = people["label"].map(classes.index).astype(int)
    owns = dict(each.split("=") for each in arguments.owns or ())
    if owns:
        site = pd.Series("", index=people.index)
        for label in range(len(classes)):
            members = np.random.default_rng([0, label]).permutation(people.index[target == label])
            site[members] = np.resize(list(owns), len(members))
    else:
        site = people[arguments.site]
    enough = site.map(site.value_counts()) >= FEWEST
    left_out = [f"{name} ({n})" for name, n in site[~enough].value_counts().items()]
    people, site, target = people[enough], site[enough], target[enough]
    scans = scans[scans["subject"].isin(people.index)]
    number = {subject: i for i, subject in enumerate(people.index)}
    owner = torch.tensor([number[each] for each in scans["subject"]])
    hidden = [
        bool(owns) and m not in owns[site[s]].split("+")
        for s, m in zip(scans["subject"], scans["modality"], strict=True)
    ]
    maps = store.load(scans["scan"].to_list())
    if arguments.average:
        maps = maps.mean(dim=(2, 3), keepdim=True)
    layout = Layout(len(modalities), len(classes), tuple(maps.shape[1:]))  # type: ignore[arg-type]
    modality = torch.tensor([modalities.index(m) for m in scans["modality"]])
    return Cohort(
        maps, modality, owner, torch.tensor(hidden), torch.tensor(target.to_numpy()), site.to_numpy(),
        people.index.to_numpy(), modalities, layout,
    ), left_out  # fmt: skip


def _counted(cohort: Cohort, site: str) -> str:
    here = cohort.site == site
    return f"{here.sum()}, {int(cohort.target[here].sum())}"


def in_folds(cohort: Cohort, rounds: Rounds, folds: int, repeats: int, *, share: int, saved: Path) -> pd.DataFrame:
    """Return predictions, and write them after each fold.

    Returns:
        way, has, repeat (a fold of a repeat), subject, observation, truth, p_0, p_1.
    """
    strata = np.array([f"{s} {k}" for s, k in zip(cohort.site, cohort.target.tolist(), strict=True)])
    tables, number = [], 0
    for repeat in range(repeats):
        split = StratifiedKFold(folds, shuffle=True, random_state=repeat).split(strata, strata)
        for rest, tested in split:
            number += 1
            train, validation = _held(rest, strata, repeat, share)
            begun = time.process_time()
            own = dataclasses.replace(rounds, seed=repeat)
            for way, has, p in _ways(cohort, own, train, validation, tested):
                table = pd.DataFrame({"subject": cohort.subject[tested], "truth": cohort.target[tested].numpy()})
                tables.append(
                    table.assign(
                        observation=table["subject"], repeat=number, way=way, has=has, p_0=p[:, 0], p_1=p[:, 1]
                    )
                )
            print(f"fold {number}: {time.process_time() - begun:.0f} CPU-seconds", flush=True)
            done = pd.concat(tables, ignore_index=True)
            done.to_csv(saved, index=False)
            for (has, way), part in done.groupby(["has", "way"]):
                print(f"  {way}, tested with {has}: AUC {_auc(part):.3f} so far", flush=True)
    return pd.concat(tables, ignore_index=True)


def _held(rest: np.ndarray, strata: np.ndarray, repeat: int, share: int) -> tuple[np.ndarray, np.ndarray]:
    """Return training and validation patients: one of `share` of each site and class for validation; 0: nobody."""
    if share == 0:
        return rest, np.zeros(0, dtype=np.int64)
    shuffled = np.random.default_rng([7, repeat]).permutation(rest)
    place = pd.Series(strata[shuffled]).groupby(strata[shuffled]).cumcount().to_numpy()
    held = place % share == share // 2
    return np.sort(shuffled[~held]), np.sort(shuffled[held])


def _sites(
    cohort: Cohort, names: Iterable[str], rounds: Rounds, train: np.ndarray, held: np.ndarray
) -> dict[str, LocalSite]:
    nobody = np.zeros(0, dtype=np.int64)
    out = {}
    for name in names:
        own, own_held = (part[cohort.site[part] == name] for part in (train, held))
        scans, sets = cohort.data(own, own_held, nobody)
        out[name] = LocalSite(name, SETTINGS, cohort.layout, scans, sets, rounds)
    return out


def _trained(cohort: Cohort, sites: Mapping[str, LocalSite], rounds: Rounds) -> tuple[Arrays, Arrays]:
    rounds = dataclasses.replace(rounds, fewest_sites=min(len(sites), rounds.fewest_sites))
    server = Server(cohort.layout, SETTINGS, rounds)
    found = train_in_one_process(sites, server)
    for line in server.log.refused:
        print("refused:", *line, flush=True)
    return found


def _together(cohort: Cohort, rounds: Rounds, train: np.ndarray, held: np.ndarray) -> LocalSite:
    scans, sets = cohort.data(train, held, np.zeros(0, dtype=np.int64))
    return LocalSite("all", SETTINGS, cohort.layout, scans, sets, rounds)


def _ways(
    cohort: Cohort, rounds: Rounds, train: np.ndarray, held: np.ndarray, tested: np.ndarray
) -> Iterable[tuple[str, str, np.ndarray]]:
    """Yield way, modalities of the tested, and probabilities (n, 2)."""
    names = sorted(set(cohort.site))
    together = _together(cohort, rounds, train, held)
    central = _trained(cohort, {"all": together}, rounds)
    ways = {TOGETHER: central, FEDERATED: _trained(cohort, _sites(cohort, names, rounds, train, held), rounds)}
    ways |= {f"{name} alone": _trained(cohort, _sites(cohort, [name], rounds, train, held), rounds) for name in names}
    disjoint = bool(cohort.hidden.any())
    for has in ("", *(cohort.modalities if disjoint else ())):
        nobody = np.zeros(0, dtype=np.int64)
        scans, sets = cohort.data(nobody, nobody, tested, has=has)
        for way, found in ways.items():
            yield way, has or "all", predict(cohort.layout, *found, scans, sets).numpy()
        yield BY_FOLDS, has or "all", _by_folds(cohort, central[0], rounds, together, scans, sets)


def _by_folds(
    cohort: Cohort, extractor: Arrays, rounds: Rounds, together: LocalSite, scans: Scans, sets: Sets
) -> np.ndarray:
    """Return probabilities of the φ of one place and the usual ρ, whose penalty inner folds choose."""
    network = cohort.layout.extractor(0)
    load(network, extractor)
    step = StepTwo()
    rho = new_classifier(
        step, feature_map_shape=cohort.layout.feature_map_shape, classes=cohort.layout.classes, seed=rounds.seed
    )
    fit_classifier(rho, features_of(network.extractor, together.scans), together.sets, step, Training(seed=rounds.seed))
    return predict_sets(rho, features_of(network.extractor, scans), sets.groups).numpy()


def one_left_out(cohort: Cohort, rounds: Rounds, share: int) -> dict[str, Any]:
    """Return the AUC on all patients of a site that no training saw: the others federated, and in one place."""
    found: dict[str, Any] = {}
    every = np.arange(len(cohort.target))
    strata = np.array([f"{s} {k}" for s, k in zip(cohort.site, cohort.target.tolist(), strict=True)])
    for name in sorted(set(cohort.site)):
        tested = every[cohort.site == name]
        train, held = _held(every[cohort.site != name], strata, 0, share)
        others = sorted(set(cohort.site) - {name})
        nobody = np.zeros(0, dtype=np.int64)
        scans, sets = cohort.data(nobody, nobody, tested)
        ways = {
            FEDERATED: _trained(cohort, _sites(cohort, others, rounds, train, held), rounds),
            TOGETHER: _trained(cohort, {"all": _together(cohort, rounds, train, held)}, rounds),
        }
        for way, states in ways.items():
            p = predict(cohort.layout, *states, scans, sets).numpy()
            table = pd.DataFrame({"repeat": 1, "truth": cohort.target[tested].numpy(), "p_1": p[:, 1]})
            key = f"{name} left out, the others {way}: AUC"
            found[key] = _auc(table)
            print(key, found[key], flush=True)
    return found


def _auc(table: pd.DataFrame, weights: np.ndarray | None = None) -> Any:
    """Return the share of pairs of the two classes, tested by the same model, that are ordered rightly.

    Args:
        table: repeat, truth, p_1.
        weights: of the rows, (B, n); none is one of ones.
    """
    w = np.ones((1, len(table))) if weights is None else weights
    right, pairs = np.zeros(len(w)), np.zeros(len(w))
    truth, p, fold = (table[name].to_numpy() for name in ("truth", "p_1", "repeat"))
    for number in np.unique(fold):
        one, zero = (np.flatnonzero((fold == number) & (truth == k)) for k in (1, 0))
        order = np.sign(p[one][:, None] - p[zero]) / 2 + 0.5
        right += np.einsum("bi,ij,bj->b", w[:, one], order, w[:, zero])
        pairs += w[:, one].sum(axis=1) * w[:, zero].sum(axis=1)
    return right / np.maximum(pairs, 1e-12) if weights is not None else float(right[0] / pairs[0])


def scored(predictions: pd.DataFrame, draws: int = 2000) -> dict[str, Any]:
    """Return AUC of each way, with that of the federation minus it and its interval from drawing patients."""
    found: dict[str, Any] = {}
    for has, table in predictions.groupby("has", sort=False):
        ways = {way: part.sort_values(["repeat", "subject"]) for way, part in table.groupby("way", sort=False)}
        rows = ways[FEDERATED]
        subjects, owner = np.unique(rows["subject"].to_numpy(dtype=object), return_inverse=True)
        drawn = np.random.default_rng(0).multinomial(len(subjects), np.full(len(subjects), 1 / len(subjects)), draws)
        weights = drawn[:, owner].astype(np.float64)
        base = _auc(rows, weights)
        for way, part in ways.items():
            found[f"{way}, tested with {has}: AUC"] = _auc(part)
            if way != FEDERATED:
                low, high = np.quantile(base - _auc(part, weights), [0.025, 0.975])
                gap = _auc(rows) - _auc(part)
                found[f"{FEDERATED} minus {way}, tested with {has}"] = f"{gap:+.3f} ({low:+.3f} to {high:+.3f})"
    return found


if __name__ == "__main__":
    main()
