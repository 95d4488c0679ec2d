"""Sums of several sites are the model of all patients; masks vanish in the sum; noise has the size that it says."""

import itertools

import numpy as np
import pandas as pd
import pytest
from helpers.joint_world import with_gaps, world
from scipy.stats import kstest, norm

from cohort.splits import SplitConfig, make_splits
from models.joint.basis import public_components
from models.joint.blocks import Blocks
from models.joint.dense import TooManyBlocksError, cell_keys, from_vector, to_vector
from models.joint.federated import (
    Contribution,
    add,
    blocks_of,
    contribution_of,
    marginal,
    model_of,
    scores_of,
    small_cells,
)
from models.joint.gaussian import fit_estimate
from models.joint.masks import LARGEST, OutOfRangeError, from_ring, masked, to_ring
from models.joint.model import JointConfig, Patients, fit_model
from models.joint.privacy import clipped, noise_for, noisy, quota_sensitivity, repaired, system_normals
from models.joint.sums import Sums, sums_of

SHAPE, COMPONENTS = (6, 2, 2), 4
BLOCKS = blocks_of(("A", "B"), {"age": 1}, channels=6, components=COMPONENTS)


def patients(count: int = 90, seed: int = 0) -> tuple[Patients, np.ndarray]:
    """Two modalities with shared factors, and an age; some lack a modality."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    factors = random.standard_normal((count, 3)) + labels[:, None]
    features = {}
    for number, name in enumerate("AB"):
        mixed = factors @ random.standard_normal((3, 6))
        maps = mixed[:, :, None] + 0.5 * random.standard_normal((count, 6, 4)) + 2
        features[name] = maps.reshape(count, -1).astype(np.float32)
        features[name][np.arange(count) % 5 == number] = np.nan
    return Patients(features, {"age": random.standard_normal((count, 1))}), labels


def shared(some: Patients, labels: np.ndarray) -> Contribution:
    return contribution_of(some, labels, BLOCKS, 2, SHAPE, feature_maps=True)


def without(some: Patients, modality: str) -> Patients:
    return Patients(
        {m: np.full_like(v, np.nan) if m == modality else v for m, v in some.features.items()}, some.covariates
    )


def close(one: Contribution, other: Contribution, tolerance: float = 1e-9) -> None:
    """The same models to the bar, parameters and feature maps."""
    a, b = (model_of(each, ("A", "B"), SHAPE, factors=2, seed=0, draws=2) for each in (one, other))
    for name in ("share", "mean", "covariance"):
        np.testing.assert_allclose(
            getattr(a.gaussian.estimate, name), getattr(b.gaussian.estimate, name), rtol=tolerance, atol=tolerance
        )
    np.testing.assert_allclose(a.embedding.directions, b.embedding.directions, rtol=tolerance, atol=tolerance)
    for name, basis in a.bases.items():
        np.testing.assert_array_equal(basis.offset, b.bases[name].offset)


@pytest.mark.parametrize("seed", range(4))
def test_any_partition_gives_the_model_of_all(seed: int) -> None:
    everybody, labels = patients()
    site = np.random.default_rng(seed).integers(seed + 2, size=len(labels))
    parts = [np.flatnonzero(site == s) for s in range(seed + 2)]
    together = add(shared(everybody.rows(rows), labels[rows]) for rows in parts if len(rows))
    close(together, shared(everybody, labels))
    by_hand = fit_estimate(sums_of(scores_of(everybody, BLOCKS, SHAPE), labels, BLOCKS, 2))[0].estimate
    model = model_of(together, ("A", "B"), SHAPE, factors=2, seed=0, draws=0)
    np.testing.assert_allclose(model.gaussian.estimate.covariance, by_hand.covariance, rtol=1e-9, atol=1e-9)


def test_sites_that_own_different_modalities_give_the_model_of_all_and_say_what_is_assumed() -> None:
    everybody, labels = patients()
    half = np.arange(len(labels)) % 2 == (np.arange(len(labels)) // 2) % 2
    first, second = (np.flatnonzero(half), np.flatnonzero(~half))
    at_first, at_second = without(everybody.rows(first), "B"), without(everybody.rows(second), "A")
    both = Patients(
        {m: np.concatenate([at_first.features[m], at_second.features[m]]) for m in "AB"},
        {"age": np.concatenate([at_first.covariates["age"], at_second.covariates["age"]])},
    )
    order = np.concatenate([first, second])
    together = add([shared(at_first, labels[first]), shared(at_second, labels[second])])
    close(together, shared(both, labels[order]))
    model = model_of(together, ("A", "B"), SHAPE, factors=2, seed=0, draws=0)
    assert any("no training patient has both A and B: conditional independence assumed" in n for n in model.notes)
    assert any("links between them come through the class alone" in note for note in model.notes)


def test_the_model_is_that_of_the_stage_joint_with_a_public_basis() -> None:
    everybody, labels = patients()
    federated = model_of(shared(everybody, labels), ("A", "B"), SHAPE, factors=2, seed=0, draws=0)
    config = JointConfig("public", COMPONENTS, draws=0, factors=2)
    central, _ = fit_model(everybody, labels, 2, config, shape=SHAPE)
    estimate, other = federated.gaussian.estimate, central.gaussian.estimate
    np.testing.assert_allclose(estimate.covariance, other.covariance, rtol=1e-4, atol=1e-4)  # its scores are float32
    for name, basis in federated.bases.items():
        np.testing.assert_array_equal(basis.components, public_components(SHAPE, COMPONENTS))
        np.testing.assert_allclose(basis.offset, central.bases[name].offset, atol=1e-4)
        np.testing.assert_allclose(basis.residual, central.bases[name].residual, rtol=1e-3)
    some = everybody.rows(np.flatnonzero(~everybody.has("B"))[:5])
    np.testing.assert_allclose(federated.impute(some, "B")[0], central.impute(some, "B")[0], atol=1e-3)


def test_a_block_that_too_few_have_is_left_out_with_the_sums_of_the_others() -> None:
    everybody, labels = patients()
    rare = Patients({**everybody.features, "B": np.where(np.arange(90)[:, None] < 3, everybody.features["B"], np.nan)},
                    everybody.covariates)  # fmt: skip
    model = model_of(shared(rare, labels), ("A", "B"), SHAPE, factors=2, seed=0, draws=0)
    assert list(model.bases) == ["A"]
    assert any(note.startswith("B: 2 training patients of all sites") for note in model.notes)
    alone = sums_of(scores_of(without(rare, "B"), BLOCKS, SHAPE), labels, BLOCKS, 2)
    kept = ("A", "covariate age")
    for key, cell in marginal(alone, kept).cells.items():
        np.testing.assert_allclose(model.sums.cells[key].outer, cell.outer, rtol=1e-12)


def test_small_cells_are_found_by_patients_and_not_by_sessions() -> None:
    keys = [(0, (True,))] * 6 + [(1, (True,))] * 6
    subjects = [f"s{i}" for i in range(6)] + ["t0", "t0", "t0", "t1", "t2", "t3"]
    assert small_cells(keys, subjects, 5) == {(1, (True,)): 4}
    assert small_cells(keys, subjects, 4) == {}


# --- one length for everybody ---


def test_a_vector_holds_the_contribution_whatever_cells_there_are() -> None:
    everybody, labels = patients()
    widths = {"A": 24, "B": 24}
    whole, part = shared(everybody, labels), shared(without(everybody, "B"), labels)
    assert to_vector(whole, widths).shape == to_vector(part, widths).shape
    back = from_vector(to_vector(whole, widths), BLOCKS, 2, widths)
    assert back.sums.cells.keys() == whole.sums.cells.keys()
    for key, cell in whole.sums.cells.items():
        np.testing.assert_array_equal(back.sums.cells[key].outer, np.triu(cell.outer) + np.triu(cell.outer, 1).T)
        np.testing.assert_array_equal(back.sums.cells[key].total, cell.total)
    np.testing.assert_array_equal(back.outside["A"].squares, whole.outside["A"].squares)
    many = blocks_of("ABCDEFG", {}, channels=6, components=1)
    with pytest.raises(TooManyBlocksError, match="7 modalities and covariates have 127 patterns"):
        cell_keys(many, 2)


# --- masks ---


def masks(sites: int, size: int, seed: int = 0) -> dict[str, dict[str, bytes]]:
    """Random bytes of each pair, at both ends."""
    random = np.random.default_rng(seed)
    names = [f"s{i}" for i in range(sites)]
    found: dict[str, dict[str, bytes]] = {name: {} for name in names}
    for a, b in itertools.combinations(names, 2):
        found[a][b] = found[b][a] = random.bytes(8 * size)
    return found


def test_masks_vanish_in_the_sum_and_nowhere_else() -> None:
    random = np.random.default_rng(1)
    values = {f"s{i}": 100 * random.standard_normal(500) for i in range(4)}
    hidden = {n: masked(to_ring(values[n], sites=4), n, others) for n, others in masks(4, 500).items()}
    total = np.zeros(500, dtype=np.uint64)
    for ring in hidden.values():
        total = total + ring
    np.testing.assert_allclose(from_ring(total), sum(values.values()), atol=1e-10)
    some = np.zeros(500, dtype=np.uint64)
    for name in ("s0", "s1", "s3"):  # all but one: what that one sent is not there, and its masks are
        some = some + hidden[name]
    for told in (some, total - some, hidden["s2"]):
        shares = told.astype(np.float64) / 2.0**64
        assert abs(shares.mean() - 0.5) < 4 / np.sqrt(12 * 500)
        assert abs(shares.std() - np.sqrt(1 / 12)) < 0.03
        assert abs(np.corrcoef(shares, values["s2"])[0, 1]) < 0.2


def test_what_a_site_sends_is_as_likely_for_any_other_patients() -> None:
    """With one other site's masks unknown, every vector could have been sent: there are masks that explain it."""
    size, mine, yours = 50, np.full(50, 3.0), np.linspace(-9, 9, 50)
    pairs = masks(3, size)["s0"]
    sent = masked(to_ring(mine, sites=3), "s0", pairs)
    known = np.frombuffer(pairs["s1"], dtype="<u8")  # s1 tells the coordinator all it knows
    explains = sent - to_ring(yours, sites=3) - known
    again = masked(to_ring(yours, sites=3), "s0", {"s1": pairs["s1"], "s2": explains.tobytes()})
    np.testing.assert_array_equal(again, sent)


def test_masks_are_refused_where_they_hide_nothing() -> None:
    ring = to_ring(np.ones(4), sites=2)
    with pytest.raises(ValueError, match="2 sites; masks hide a site among 3 or more"):
        masked(ring, "s0", {"s1": bytes(32)})
    with pytest.raises(OutOfRangeError, match="too large for masks"):
        to_ring(np.array([LARGEST]), sites=2)
    with pytest.raises(OutOfRangeError, match="too large for masks"):
        to_ring(np.array([np.nan]), sites=2)


# --- noise ---


@pytest.mark.parametrize(("epsilon", "delta"), [(0.5, 1e-5), (1.0, 1e-5), (8.0, 1e-3)])
def test_the_noise_is_the_smallest_that_keeps_its_promise(epsilon: float, delta: float) -> None:
    """Theorem 8 of Balle and Wang, with the normal distribution of SciPy as the other way to it."""

    def spent(sd: float) -> float:
        ratio = np.sqrt(3) / sd
        return norm.cdf(ratio / 2 - epsilon / ratio) - np.exp(epsilon) * norm.cdf(-ratio / 2 - epsilon / ratio)

    sd = noise_for(epsilon, delta, 1.0).sd
    assert spent(sd) == pytest.approx(delta, rel=1e-6)
    assert spent(0.99 * sd) > delta


def test_one_patient_moves_a_release_by_no_more_than_the_noise_is_made_for() -> None:
    some = world()
    rows, labels = some.draw(30, np.random.default_rng(2))
    rows, share = clipped(with_gaps(10 * rows, some.blocks, 0.3, np.random.default_rng(3)), 2.0)
    assert 0 < share <= 1
    assert np.sqrt(np.nansum(rows**2, axis=1)).max() <= 2 + 1e-12
    whole = to_vector(Contribution(sums_of(rows, labels, some.blocks, 2)), {})
    scale = noisy_scale(some.blocks, 2.0)
    for gone in range(30):
        left = np.delete(np.arange(30), gone)
        less = to_vector(Contribution(sums_of(rows[left], labels[left], some.blocks, 2)), {})
        assert np.linalg.norm((whole - less) / scale) <= np.sqrt(3) + 1e-9


@pytest.mark.parametrize("ratio", [(6, 1, 3), (5, 7, 11)])
def test_a_patient_more_moves_a_release_by_no_more_than_the_noise_of_quotas_is_made_for(
    ratio: tuple[float, float, float],
) -> None:
    """Who trains is decided by quotas: others move up, also of other classes. Scores are the worst: all alike."""
    config, blocks, largest = SplitConfig(ratio=ratio, repeats=1), Blocks(("A",), (1,)), 0.0
    for size in range(20, 60):
        labels = [f"c{(7 * i + size) % 5 % 2}" for i in range(size)]
        cohort = pd.DataFrame({"subject": [f"s{i}" for i in range(size)], "label": labels, "split": ""})
        trained = train_of(cohort, config)
        for name in (f"new{i}" for i in range(8)):
            more = pd.DataFrame({"subject": [name], "label": [f"c{size % 2}"], "split": [""]})
            after = train_of(pd.concat([cohort, more], ignore_index=True), config)
            vectors = [
                to_vector(Contribution(sums_of(np.ones((len(some), 1)), np.array([*some.values()]), blocks, 2)), {})
                for some in (trained, after)
            ]
            apart = np.linalg.norm(vectors[0] - vectors[1])
            moved = {
                label: [n for n in trained.keys() ^ after.keys() if (trained | after)[n] == label] for label in (0, 1)
            }
            worst = np.sqrt(sum(3 * len(each) for each in moved.values()))  # if all rows differ in their pattern
            assert max(apart, worst) <= quota_sensitivity(2)
            largest = max(largest, apart, worst)
    assert largest > np.sqrt(6)


def train_of(cohort: pd.DataFrame, config: SplitConfig) -> dict[str, int]:
    """Subject → class of the training patients."""
    splits = make_splits(cohort, config)
    label = cohort.set_index("subject")["label"]
    return {name: int(label[name][1:]) for name in splits.loc[splits["split"] == "train", "subject"]}


def noisy_scale(blocks: Blocks, clip: float) -> np.ndarray:
    """What `noisy` multiplies its noise by: the same chance with this bound over that with a bound of 1."""
    drawn = [
        noisy(Sums(blocks, 2, {}), noise_for(1.0, 1e-5, c), np.random.default_rng(5).standard_normal)
        for c in (clip, 1.0)
    ]
    return drawn[0] / drawn[1]


def test_noise_is_normal_and_of_the_operating_system(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = system_normals(100_000)
    assert abs(drawn.mean()) < 5 / np.sqrt(100_000)
    assert abs(drawn.std() - 1) < 5 / np.sqrt(200_000)
    assert kstest(drawn, "norm").pvalue > 1e-6
    for byte in (0, 255):
        monkeypatch.setattr("secrets.token_bytes", lambda size, byte=byte: bytes([byte]) * size)
        some = world()
        found = noisy(Sums(some.blocks, 2, {}), noise_for(1.0, 1e-5, 1.0))
        assert len(set(np.round(found, 9))) == 1  # nothing else is drawn from
        assert 8 < abs(system_normals(1)[0]) < 9  # and the farthest is finite


def test_noise_has_its_size_in_every_number_and_repaired_sums_can_be_of_patients() -> None:
    some = world()
    rows, labels = some.draw(60, np.random.default_rng(2))
    sums = sums_of(clipped(rows, 3.0)[0], labels, some.blocks, 2)
    noise = noise_for(1.0, 1e-5, 3.0)
    drawn = np.stack([noisy(sums, noise, np.random.default_rng(seed).standard_normal) for seed in range(300)])
    off = (drawn - to_vector(Contribution(sums), {})) / noise.sd
    spread = off.std(axis=0)
    assert set(np.round(np.unique(noisy_scale(some.blocks, 3.0)), 9)) == {1.0, 3.0, 9.0}
    np.testing.assert_allclose(spread / noisy_scale(some.blocks, 3.0), 1.0, atol=0.2)
    back = from_vector(drawn[0], some.blocks, 2, {}).sums
    fixed = repaired(back, 5)
    assert fixed.cells.keys() == {key for key, cell in back.cells.items() if cell.count >= 5}
    for cell in fixed.cells.values():
        gram = np.block([[np.full((1, 1), cell.count), cell.total[None]], [cell.total[:, None], cell.outer]])
        assert np.linalg.eigvalsh(gram)[0] > -1e-6 * cell.count
    assert fit_estimate(fixed)[0].estimate.covariance.shape == (9, 9)
