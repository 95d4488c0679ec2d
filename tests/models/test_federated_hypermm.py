"""HyperMM over sites: the same start as centralised, one site is centralised training, faults are survived and said."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.federated_sites import LAYOUT, SETTINGS, SHAPE, auc_by_modalities, patients, pooled, site
from models.extractor import UniversalExtractor
from models.federated_averaging import Update
from models.federated_hypermm import (
    EMBEDDING,
    Arrays,
    LocalSite,
    Rounds,
    Server,
    Step,
    TooFewSitesError,
    load,
    normalisation,
    train_in_one_process,
    with_proximal,
)
from models.fit import evaluate, fit
from models.hypermm import scan_loss
from models.settings import StepOne

pytestmark = pytest.mark.usefixtures("one_thread")
ROUNDS = Rounds(extractor=6, classifier=12, learning_rate=1e-2, classifier_learning_rate=1e-2, batch_size=8)
WHO = {"a": "both", "b": "first", "c": "second"}


def sites(rounds: Rounds = ROUNDS) -> dict[str, LocalSite]:
    return {name: site(name, has, number, rounds) for number, (name, has) in enumerate(WHO.items())}


def server(rounds: Rounds = ROUNDS) -> Server:
    return Server(LAYOUT, SETTINGS, rounds)


def auc(found: tuple[Arrays, Arrays]) -> float:
    """On new patients with both modalities."""
    return auc_by_modalities(found, count=200)["both"]


@pytest.fixture(scope="module")
def trained(one_thread: None) -> tuple[Arrays, Arrays]:
    return train_in_one_process(sites(), server())


def test_federated_training_is_near_centralised_and_above_every_site(trained: tuple[Arrays, Arrays]) -> None:
    everybody = pooled(list(sites().values()), ROUNDS)
    central = auc(train_in_one_process({"all": everybody}, server(dataclasses.replace(ROUNDS, fewest_sites=1))))
    alone = [
        auc(train_in_one_process({n: s}, server(dataclasses.replace(ROUNDS, fewest_sites=1))))
        for n, s in sites().items()
    ]
    assert auc(trained) > max(alone) - 0.02
    assert auc(trained) > central - 0.03
    assert auc(trained) > 0.85


def test_the_normalisation_is_that_of_all_scans_in_one_place() -> None:
    found = normalisation(each.statistics() for each in sites().values())
    everybody = pooled(list(sites().values()), ROUNDS)
    central = UniversalExtractor(2, SHAPE)
    central.fit_normalisation(everybody.scans.batches, "standardise")
    np.testing.assert_allclose(found["extractor.centre"], central.centre, atol=1e-5)
    np.testing.assert_allclose(found["extractor.spread"], central.spread, rtol=1e-5)


def test_a_round_of_one_site_is_an_epoch_of_the_fit_loop() -> None:
    rounds = dataclasses.replace(ROUNDS, fewest_sites=1, extractor=1)
    one, coordinator = site("a", "both", 0, rounds), server(rounds)
    coordinator.start({"a": (SETTINGS, one.statistics())})
    coordinator.take("extractor", 1, [one.round("extractor", 1, coordinator.state)], asked=["a"])
    network = LAYOUT.extractor(rounds.seed)
    network.extractor.fit_normalisation(one.scans.batches, "standardise")
    fit(
        network, scan_loss(network, one.scans, StepOne()), train=one.scans.train,
        validation=torch.zeros(0, dtype=torch.int64), training=rounds.training("extractor", 1),
    )  # fmt: skip
    for name, values in network.state_dict().items():
        np.testing.assert_allclose(coordinator.state[name], values, atol=2e-6, err_msg=name)


def test_only_owners_move_the_row_of_a_modality(trained: tuple[Arrays, Arrays]) -> None:
    rounds = dataclasses.replace(ROUNDS, fewest_sites=1)
    some, coordinator = {"b": site("b", "first", 1, rounds)}, server(rounds)
    coordinator.start({"b": (SETTINGS, some["b"].statistics())})
    start = coordinator.state[EMBEDDING].copy()
    coordinator.take("extractor", 1, [some["b"].round("extractor", 1, coordinator.state)], asked=some)
    assert (coordinator.state[EMBEDDING][0] != start[0]).any()
    np.testing.assert_array_equal(coordinator.state[EMBEDDING][1], start[1])
    assert (trained[0][EMBEDDING] != start).all(axis=1).all()


def test_no_site_moves_the_normalisation() -> None:
    rounds = dataclasses.replace(ROUNDS, fewest_sites=1)
    one, coordinator = site("a", "both", 0, rounds), server(rounds)
    coordinator.start({"a": (SETTINGS, one.statistics())})
    sent = one.round("extractor", 1, coordinator.state)
    centre = coordinator.state["extractor.centre"].copy()
    moved = {**sent.state, "extractor.centre": centre + 1}
    coordinator.take("extractor", 1, [dataclasses.replace(sent, state=moved)], asked=["a"])
    np.testing.assert_array_equal(coordinator.state["extractor.centre"], centre)


def test_a_rare_modality_of_a_site_is_not_used() -> None:
    scans, sets = patients(60, "both", 0)
    second = scans.train[scans.modality[scans.train] == 1]
    few = torch.cat([scans.train[scans.modality[scans.train] == 0], second[:4]])
    found = LocalSite("a", SETTINGS, LAYOUT, dataclasses.replace(scans, train=few), sets, ROUNDS)
    assert found.owned[1] == 0
    assert (found.statistics()["total"][1] == 0).all()
    assert (scans.modality[found.scans.train] == 0).all()


def test_five_sessions_of_one_patient_are_one_patient() -> None:
    """Their mean feature map would be that patient's."""
    scans, sets = patients(60, "both", 0)
    second = scans.train[scans.modality[scans.train] == 1]
    train = torch.cat([scans.train[scans.modality[scans.train] == 0], second[:9]])
    owner = torch.repeat_interleave(torch.arange(60), 2)[second[:9]]
    for alone, enough in ((6, False), (5, True)):  # patients 4 and 5
        subject = sets.subject.clone()
        subject[owner[:alone]] = owner[0]
        some = dataclasses.replace(sets, subject=subject)
        found = LocalSite("a", SETTINGS, LAYOUT, dataclasses.replace(scans, train=train), some, ROUNDS)
        assert found.owned[1] == (9 if enough else 0)


@pytest.mark.parametrize("owners", [("a", "c"), ("a", "b", "c")])
@pytest.mark.parametrize("change", [lambda maps: 1000 * maps, lambda maps: maps / 1000, lambda maps: maps + 200])
def test_scaled_or_moved_scans_of_a_site_are_found(change: Callable[[Tensor], Tensor], owners: tuple[str, ...]) -> None:
    there = sites()
    there["b"] = site("b", "second" if "b" in owners else "first", 1, ROUNDS)
    scans, sets = patients(60, "second", 2)
    scans = dataclasses.replace(scans, feature_maps=change(scans.feature_maps))
    there["c"] = LocalSite("c", SETTINGS, LAYOUT, scans, sets, ROUNDS)
    coordinator = server(dataclasses.replace(ROUNDS, fewest_sites=1))
    coordinator.start({name: (SETTINGS, each.statistics()) for name, each in there.items()})
    refused = {name: why for _, name, why in coordinator.log.refused}
    assert list(refused) == (["a", "c"] if len(owners) == 2 else ["c"])
    for why in refused.values():
        assert "its scans of modality 2 have centre or spread more than 10 times apart from those of" in why
        assert ("of two sites nobody can tell which is wrong" in why) == (len(owners) == 2)
    assert 0.1 < coordinator.state["extractor.spread"].min() <= coordinator.state["extractor.spread"].max() < 10
    sent = [there[name].round("extractor", 1, coordinator.state) for name in ("b", "c")]
    coordinator.take("extractor", 1, sent)
    assert ("extractor round 1", "c", "its sums could not be used") in coordinator.log.refused


def test_fedprox_stays_nearer_to_what_was_given() -> None:
    moved = []
    for weight in (0.0, 10.0):
        rounds = dataclasses.replace(ROUNDS, proximal=weight, fewest_sites=1)
        one, coordinator = site("a", "both", 0, rounds), server(rounds)
        coordinator.start({"a": (SETTINGS, one.statistics())})
        given = coordinator.state
        state = one.round("extractor", 1, given).state
        moved.append(sum(float(np.square(state[n] - given[n]).sum()) for n in given))
    assert moved[1] < 0.8 * moved[0]
    network = torch.nn.Linear(1, 1, bias=False)
    term = with_proximal(lambda items, learning: {}, network, 4.0)
    with torch.no_grad():
        network.weight += 3
    assert float(term(torch.zeros(0), True)["proximal"].detach()) == pytest.approx(4 / 2 * 9)


class Faulty(LocalSite):
    """A site that sends something else from round 2 of step 1 on."""

    fault = "nan"

    def round(self, step: Step, number: int, state: Arrays) -> Update:
        sent = super().round(step, number, state)
        if step == "extractor" and number < 2:
            return sent
        if self.fault == "nan":
            return dataclasses.replace(sent, state={n: np.full_like(v, np.nan) for n, v in sent.state.items()})
        own = {n: state[n] for n in sent.state}
        return dataclasses.replace(sent, state={n: own[n] + 1e3 * (v - own[n] + 1e-3) for n, v in sent.state.items()})


@pytest.mark.parametrize(("fault", "reason"), [("nan", "not finite"), ("scaled", "times as far")])
def test_a_site_that_goes_wrong_is_left_out_and_the_others_finish(fault: str, reason: str) -> None:
    there, coordinator = sites(), server()
    bad = Faulty("c", SETTINGS, LAYOUT, *patients(60, "second", 2), ROUNDS)
    bad.fault = fault
    found = train_in_one_process({**there, "c": bad}, coordinator)
    refused = coordinator.log.refused
    assert {site for _, site, _ in refused} == {"c"}
    assert refused[0][0] == "extractor round 2"
    assert all(reason in why for _, _, why in refused)
    assert len(refused) == ROUNDS.extractor - 1 + ROUNDS.classifier
    assert all(np.isfinite(v).all() for state in found for v in state.values())
    assert auc(found) > 0.75


def test_other_settings_and_silence_are_named_and_too_few_sites_stop() -> None:
    rounds = dataclasses.replace(ROUNDS, extractor=1)
    there, coordinator = sites(rounds), server(rounds)
    coordinator.start({n: ("other" if n == "b" else SETTINGS, s.statistics()) for n, s in there.items()})
    assert ("statistics", "b", f"other settings (other, not {SETTINGS})") in coordinator.log.refused
    silent = server(rounds)
    with pytest.raises(
        TooFewSitesError, match=r"statistics: 1 sites sent .*b: it sent nothing in time.*; c: it sent nothing"
    ):
        silent.start({"a": (SETTINGS, there["a"].statistics())}, asked=there)
    sent = [there["a"].round("extractor", 1, coordinator.state)]
    with pytest.raises(TooFewSitesError, match=r"1 sites sent .* 2 are needed. b: .* in time.*; c: it sent nothing"):
        coordinator.take("extractor", 1, sent, asked=there)


@pytest.mark.parametrize(
    "change",
    [
        lambda sums: sums.pop("count"),
        lambda sums: sums.update(count=-sums["count"]),
        lambda sums: sums.update(squares=sums["squares"][:1]),
        lambda sums: sums.update(total=sums["total"].astype(str)),
        lambda sums: sums.update(total=2 * sums["total"]),  # longer than scans of these lengths add up to
        lambda sums: sums.update(count=0 * sums["count"]),
    ],
)
def test_statistics_that_are_none_are_left_out(change: object) -> None:
    there, coordinator = sites(), server()
    sent = {name: (SETTINGS, each.statistics()) for name, each in there.items()}
    change(sent["b"][1])  # type: ignore[operator]
    coordinator.start(sent)
    assert [site for _, site, _ in coordinator.log.refused] == ["b"]
    assert "sums of another shape" in coordinator.log.refused[0][2]
    nothing = server(dataclasses.replace(ROUNDS, fewest_sites=1))
    nothing.start({**sent, "b": (SETTINGS, None)})  # type: ignore[dict-item]
    assert [site for _, site, _ in nothing.log.refused] == ["b"]


def test_numbers_of_scans_that_change_and_modalities_of_nobody_are_named() -> None:
    some = {name: each for name, each in sites().items() if name != "c"}
    some["a"] = site("a", "first", 0, ROUNDS)  # now nobody has the second
    coordinator = server(dataclasses.replace(ROUNDS, fewest_sites=1))
    coordinator.start({name: (SETTINGS, each.statistics()) for name, each in some.items()})
    assert coordinator.log.lines[-1].startswith("modality 2: no site has 5 training patients with it")
    sent = [each.round("extractor", 1, coordinator.state) for each in some.values()]
    sent[1] = dataclasses.replace(sent[1], owned=sent[1].owned * 100)
    coordinator.take("extractor", 1, sent)
    assert ("extractor round 1", "b", "other numbers of scans than when it sent its sums") in coordinator.log.refused


def test_untrained_weights_are_no_result_and_phi_is_judged_by_its_cross_entropy() -> None:
    there, coordinator = sites(), server()
    coordinator.start({name: (SETTINGS, each.statistics()) for name, each in there.items()})
    start = coordinator.state
    given = [each.round("extractor", 1, start) for each in there.values()]
    network = LAYOUT.extractor(ROUNDS.seed)
    load(network, start)
    scans = there["a"].scans
    found = evaluate(network, scan_loss(network, scans, StepOne()), scans.stopping(), batch_size=8)
    assert given[0].validation_loss == pytest.approx(found["validation_ce"])
    assert found["validation_ce"] < found["validation_loss"]
    coordinator.take("extractor", 1, [dataclasses.replace(each, validation_loss=0.0) for each in given])
    after = [dataclasses.replace(each, validation_loss=9.0) for each in given]
    chosen = coordinator.finish("extractor", after)
    assert any(not np.array_equal(chosen[name], start[name]) for name in start)
