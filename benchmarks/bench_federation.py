"""What does a federation cost and give? Sums of several sites on made data, and HyperMM trained over sites.

Sums: is the model that of all patients together, how much does one modality tell of the other as more patients have
both, and what is left of that with noise for differential privacy.
"""

import argparse
import dataclasses
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common import finish, options
from benchmarks.federated_sites import LAYOUT, SETTINGS, auc_by_modalities, pooled, site
from models.federated_hypermm import LocalSite, Rounds, Server, train_in_one_process
from models.joint.blocks import Blocks
from models.joint.dense import from_vector, to_vector
from models.joint.federated import Contribution
from models.joint.gaussian import TooFewPatientsError, condition, fit_estimate
from models.joint.masks import from_ring, masked, to_ring
from models.joint.posterior import fit
from models.joint.privacy import clipped, noise_for, noisy, repaired
from models.joint.sums import Sums, merge, sums_of
from pipeline.federation.combine import fewest_with_noise

Array = NDArray[np.float64]
SIZE, LINK = 8, 0.6  # scores of a modality; the share of each score's variance that shared factors explain
ALONE = 100  # patients of each of two sites that own one modality
PAIRED = (0, 5, 10, 20, 30, 50, 100, 200)  # patients of a third site that has both
BLOCKS = Blocks(("MRI", "PET"), (SIZE, SIZE))


USUAL: dict[str, Any] = {
    "extractor": 20, "classifier": 30, "learning_rate": 3e-3, "classifier_learning_rate": 1e-2, "batch_size": 8,
}  # fmt: skip
QUICK = {**USUAL, "extractor": 1, "classifier": 1}
SITES = {"east": "both", "north": "first", "west": "second"}  # modalities that each owns
SIGNAL = 0.5  # of the class


def main() -> None:
    """Measure, print and write."""
    arguments = options(__doc__ or "").parse_args()
    torch.set_num_threads(1)
    found = equality(3 if arguments.quick else 50)
    found |= pairs(arguments, 2 if arguments.quick else 20)
    found |= privacy(1 if arguments.quick else 10)
    found |= networks(1 if arguments.quick else 3, Rounds(**QUICK if arguments.quick else USUAL))
    finish("federation", found, arguments)


class World:
    """Scores of two modalities that share two factors, and means of two classes."""

    def __init__(self, random: np.random.Generator) -> None:
        loading = random.standard_normal((2 * SIZE, 2))
        loading *= np.sqrt(LINK) / np.linalg.norm(loading, axis=1, keepdims=True)
        self.covariance = loading @ loading.T + (1 - LINK) * np.eye(2 * SIZE)
        self.mean = 0.5 * random.standard_normal((2, 2 * SIZE))
        self.random = random

    def patients(self, count: int) -> tuple[Array, NDArray[np.int64]]:
        """Return scores and classes."""
        labels = np.arange(count) % 2
        root = np.linalg.cholesky(self.covariance)
        return self.mean[labels] + self.random.standard_normal((count, 2 * SIZE)) @ root.T, labels

    def site(self, count: int, *, lacks: str | None = None) -> Sums:
        """Return the sums of a site that may lack a modality."""
        rows, labels = self.patients(count)
        if lacks is not None:
            rows[:, BLOCKS.slice_of(lacks)] = np.nan
        return sums_of(rows, labels, BLOCKS, 2)

    def explained(self, sums: Sums, tested: int = 2000) -> float:
        """Share of the variance of PET within classes that MRI explains, for new patients, by the model of sums."""
        rows, labels = self.patients(tested)
        part = BLOCKS.slice_of("PET")
        given = rows.copy()
        given[:, part] = np.nan
        mean = condition(fit_estimate(sums)[0], given, labels, plug_in=True).mean[:, part]
        return float(1 - ((rows[:, part] - mean) ** 2).mean() / np.diag(self.covariance)[part].mean())

    def best(self) -> float:
        """Return what nobody can beat: the truth's own regression."""
        a, b = BLOCKS.slice_of("MRI"), BLOCKS.slice_of("PET")
        slope = np.linalg.solve(self.covariance[a, a], self.covariance[a, b])
        return float(np.einsum("ij,ij->", slope, self.covariance[a, b]) / np.trace(self.covariance[b, b]))


def equality(seeds: int) -> dict[str, Any]:
    """Largest difference between the model of sites and that of all patients, in standard deviations."""
    plain, hidden = [], []
    for seed in range(seeds):
        random = np.random.default_rng([seed, 1])
        rows, labels = World(random).patients(240)
        gone = random.integers(3, size=240)  # has both, lacks MRI, lacks PET
        rows[gone == 1, :SIZE] = np.nan
        rows[gone == 2, SIZE:] = np.nan
        sites = random.integers(int(random.integers(2, 8)), size=240)
        if seed % 3 == 0:  # disjoint modalities: each site has what its number says, and nobody has both
            rows[:, :SIZE][sites % 2 == 0] = np.nan
            rows[:, SIZE:][sites % 2 == 1] = np.nan
            labels, rows = labels[~np.isnan(rows).all(axis=1)], rows[~np.isnan(rows).all(axis=1)]
            sites = np.isnan(rows[:, 0]).astype(np.int64)
        whole = sums_of(rows, labels, BLOCKS, 2)
        parts = [sums_of(rows[sites == s], labels[sites == s], BLOCKS, 2) for s in np.unique(sites)]
        added = parts[0]
        for more in parts[1:]:
            added = merge(added, more)
        truth = fit(whole, draws=5, seed=seed)
        plain.append(_difference(truth, fit(added, draws=5, seed=seed)))
        hidden.append(_difference(truth, fit(_masked_sum(parts, random), draws=5, seed=seed)))
    return {
        "partitions": seeds,
        "largest difference, plain sums, sd": max(plain),
        "largest difference, masked sums, sd": max(hidden),
    }


def _masked_sum(parts: list[Sums], random: np.random.Generator) -> Sums:
    vectors = [to_vector(Contribution(part), {}) for part in parts]
    vectors += [np.zeros_like(vectors[0])] * max(0, 3 - len(vectors))
    names = [f"s{i}" for i in range(len(vectors))]
    streams: dict[str, dict[str, bytes]] = {name: {} for name in names}
    for i, one in enumerate(names):
        for other in names[:i]:
            streams[one][other] = streams[other][one] = random.bytes(8 * len(vectors[0]))
    total = np.zeros(len(vectors[0]), dtype=np.uint64)
    for name, vector in zip(names, vectors, strict=True):
        total = total + masked(to_ring(vector, sites=len(names)), name, streams[name])
    return from_vector(from_ring(total), BLOCKS, 2, {}).sums


def _difference(one: Any, other: Any) -> float:
    sd = np.sqrt(np.diag(one.estimate.covariance))
    mean = np.abs((one.estimate.mean - other.estimate.mean) / sd).max()
    covariance = np.abs((one.estimate.covariance - other.estimate.covariance) / np.outer(sd, sd)).max()
    return float(max(mean, covariance))


def pairs(arguments: argparse.Namespace, seeds: int) -> dict[str, Any]:
    """How much MRI tells of PET, by the number of patients who have both; two sites have one modality each."""
    found: dict[str, Any] = {}
    table = np.zeros((seeds, len(PAIRED)))
    best = []
    for seed in range(seeds):
        world = World(np.random.default_rng([seed, 2]))
        best.append(world.best())
        alone = merge(world.site(ALONE, lacks="PET"), world.site(ALONE, lacks="MRI"))
        for column, count in enumerate(PAIRED):
            sums = merge(alone, world.site(count)) if count else alone
            table[seed, column] = world.explained(sums)
            if count == 0:
                found["no pairs: said"] = "; ".join(fit_estimate(sums)[0].notes)
    for column, count in enumerate(PAIRED):
        found[f"{count} paired patients: variance explained"] = max(0.0, float(table[:, column].mean()))
    found["variance explained by the truth"] = float(np.mean(best))
    _draw(table, float(np.mean(best)), arguments)
    return found


def _draw(table: Array, best: float, arguments: argparse.Namespace) -> None:
    figure, axes = plt.subplots(figsize=(5, 3.2))
    error = table.std(axis=0, ddof=1) / np.sqrt(len(table))
    axes.errorbar(PAIRED, table.mean(axis=0), 1.96 * error, marker="o", color="#4477aa", label="joint model of sums")
    axes.axhline(best, color="#777777", linestyle="--", label="truth")
    axes.set(xlabel="patients with both modalities", ylabel="variance of PET explained by MRI", ylim=(-0.05, 0.7))
    axes.legend(frameon=False)
    arguments.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.out / "federation-pairs.svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def privacy(seeds: int) -> dict[str, Any]:
    """Measure what noise leaves: three sites with all modalities and as many patients, each adding its own noise."""
    found: dict[str, Any] = {}
    for count in (54, 300, 5000):
        for epsilon in (1.0, 8.0):
            values, sizes = [], []
            for seed in range(seeds):
                random = np.random.default_rng([seed, 3, count])
                world = World(random)
                clip = float(np.sqrt(2 * SIZE) * 1.5)
                noise = noise_for(epsilon, 1e-5, clip)
                vectors = []
                for _ in range(3):
                    rows, labels = world.patients(count)
                    sums = sums_of(clipped(rows, clip)[0], labels, BLOCKS, 2)
                    vectors.append(noisy(sums, noise, random.standard_normal))
                least = fewest_with_noise(np.sqrt(3) * noise.sd)
                total = repaired(from_vector(np.sum(vectors, axis=0), BLOCKS, 2, {}).sums, least)
                sizes.append(noise.sd * clip**2 * np.sqrt(2 * 2 * 3) / (3 * count))
                try:
                    values.append(max(0.0, world.explained(total)))
                except TooFewPatientsError:
                    values.append(0.0)
            name = f"3 sites of {count} patients, ε = {epsilon:g}"
            found[f"{name}: noise of a covariance, sd"] = float(np.mean(sizes))
            found[f"{name}: variance explained"] = float(np.mean(values))
    return found


def networks(seeds: int, rounds: Rounds) -> dict[str, Any]:
    """AUC on new patients of HyperMM trained over three sites, in one place, and at each site alone."""
    alone = dataclasses.replace(rounds, fewest_sites=1)
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in range(seeds):
        seeded = {"seed": seed}
        ways: dict[str, tuple[dict[str, LocalSite], Rounds]] = {}
        for name, settings in (("FedAvg", rounds), ("FedProx, μ = 0.1", dataclasses.replace(rounds, proximal=0.1))):
            own = dataclasses.replace(settings, **seeded)
            ways[name] = ({n: _site(n, has, seed, own) for n, has in SITES.items()}, own)
        single = dataclasses.replace(alone, **seeded)
        parts = {n: _site(n, has, seed, single) for n, has in SITES.items()}
        ways["all in one place"] = {"all": pooled(list(parts.values()), single)}, single
        ways |= {f"{n} alone": ({n: part}, single) for n, part in parts.items()}
        ways |= {f"without {n}": ({m: part for m, part in parts.items() if m != n}, single) for n in parts}
        for name, (sites, settings) in ways.items():
            trained = train_in_one_process(sites, Server(LAYOUT, SETTINGS, settings))
            rows.setdefault(name, []).append(auc_by_modalities(trained, signal=SIGNAL))
    found: dict[str, Any] = {}
    for name, each in rows.items():
        for has in each[0]:
            values = [row[has] for row in each]
            found[f"HyperMM, {name}: AUC, {has}"] = float(np.mean(values))
            found[f"HyperMM, {name}: AUC, {has}, sd over cohorts"] = float(np.std(values))
    return found


def _site(name: str, has: str, seed: int, rounds: Rounds) -> LocalSite:
    return site(name, has, 10 * seed + list(SITES).index(name), rounds, count=100, signal=SIGNAL)


if __name__ == "__main__":
    main()
