"""HyperMM trained where the scans are: what a site does in a round, and what the server does between rounds.

Step 0 sums feature maps, for the normalisation of z. Step 1 trains φ on single scans, step 2 ρ on frozen φ. In a round
every site starts from the average of the last. FedProx adds μ/2 |w − w₀|² to a site's loss, w₀ what it was given. The
round with the smallest validation loss over all sites is kept.

Source: McMahan et al. 2017 (FedAvg); Li et al. 2020 (FedProx), equation 2.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.extractor import PretrainNetwork, UniversalExtractor
from models.federated_averaging import (
    LARGEST_CHANGE,
    Log,
    Losses,
    Update,
    average,
    is_better,
    losses_of,
    mean_loss,
    screen,
)
from models.fit import Loss, evaluate, fit
from models.hypermm import Scans, Sets, extract, new_classifier, new_extractor, predict_sets, scan_loss, set_loss
from models.set_classifier import SetClassifier
from models.settings import StepOne, StepTwo, Training

Arrays = dict[str, NDArray[Any]]
Step = Literal["extractor", "classifier"]
EMBEDDING = "extractor.hypernetwork.embedding.weight"  # one row a modality
NORMALISATION = ("extractor.centre", "extractor.spread")
SILENT = "it sent nothing in time, or failed (its own log says which)"
FEWEST_PATIENTS = 5  # of a modality at a site; its scans of a rarer one are not used


class TooFewSitesError(RuntimeError):
    """Fewer sites than wanted have sent something that can be used; the message says what was wrong."""


@dataclass(frozen=True)
class Rounds:
    """Settings of a federated training; all sites get the same.

    Attributes:
        extractor: rounds of step 1.
        classifier: rounds of step 2.
        epochs: of a site in a round.
        batch_size: scans a step in step 1, observations in step 2.
        learning_rate: of Adam in step 1.
        classifier_learning_rate: of Adam in step 2.
        weight_decay: of Adam.
        proximal: μ of FedProx; 0 is FedAvg.
        fewest_sites: that a round needs.
        largest_change: as in `models.federated_averaging.screen`.
        seed: of weights and orders.
    """

    extractor: int = 30
    classifier: int = 30
    epochs: int = 1
    batch_size: int = 16
    learning_rate: float = 1e-4
    classifier_learning_rate: float = 1e-4
    weight_decay: float = 5e-4
    proximal: float = 0.0
    fewest_sites: int = 2
    largest_change: float = LARGEST_CHANGE
    seed: int = 0

    def training(self, step: Step, number: int) -> Training:
        """Return the settings of the fit loop in a round."""
        rate = self.learning_rate if step == "extractor" else self.classifier_learning_rate
        return Training(self.epochs, self.batch_size, rate, self.weight_decay, self.epochs, self.seed + number)


@dataclass(frozen=True)
class Layout:
    """What φ and ρ are made for; the same at all sites.

    Attributes:
        modalities: M.
        classes: K.
        feature_map_shape: (C, H, W).
        names: of the modalities, for messages.
    """

    modalities: int
    classes: int
    feature_map_shape: tuple[int, int, int]
    names: tuple[str, ...] = ()

    def extractor(self, seed: int) -> PretrainNetwork:
        """Return an untrained φ with its heads."""
        return new_extractor(
            StepOne(), modalities=self.modalities, feature_map_shape=self.feature_map_shape, classes=self.classes,
            seed=seed,
        )  # fmt: skip

    def classifier(self, seed: int) -> SetClassifier:
        """Return an untrained ρ."""
        return new_classifier(
            StepTwo(fit="epochs"), feature_map_shape=self.feature_map_shape, classes=self.classes, seed=seed
        )


class Site(Protocol):
    """What the server asks of a site; in one process, or on the other side of a network."""

    def statistics(self) -> Arrays:
        """Return the sums for the normalisation of z."""
        ...

    def round(self, step: Step, number: int, state: Arrays) -> Update:
        """Train from the given weights and return an update."""
        ...


class LocalSite:
    """The scans of one site, and its part of the training.

    Args:
        name: of the site.
        settings: hash of the settings that its feature maps were made with.
        layout: of the networks.
        scans: single scans; `feature_maps` (N, C, H, W).
        sets: which scans belong together, numbered as in `scans`.
        rounds: settings.
    """

    def __init__(self, name: str, settings: str, layout: Layout, scans: Scans, sets: Sets, rounds: Rounds) -> None:
        self.name, self.settings, self.layout, self.rounds = name, settings, layout, rounds
        counts = torch.bincount(scans.modality[scans.train], minlength=layout.modalities)
        enough = _patients(scans, sets, layout.modalities) >= FEWEST_PATIENTS
        train = scans.train[enough[scans.modality[scans.train]]]
        self.scans = Scans(scans.feature_maps, scans.modality, scans.target, train, scans.validation)
        self.sets = sets
        self.phi: Tensor | None = None
        self._extractor: PretrainNetwork | None = None
        self.owned = torch.where(enough, counts, 0).numpy().astype(np.int64)

    def statistics(self) -> Arrays:
        """Return count (M,), Σz (M, C, H, W) and Σ|z|² (M,) of the training scans."""
        shape = (self.layout.modalities, *self.layout.feature_map_shape)
        total, squares = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape[0], dtype=torch.float64)
        for maps, modality in self.scans.batches():
            total.index_add_(0, modality, maps.double())
            squares.index_add_(0, modality, maps.double().square().flatten(1).sum(1))
        return {"count": self.owned.astype(np.float64), "total": total.numpy(), "squares": squares.numpy()}

    def round(self, step: Step, number: int, state: Arrays) -> Update:
        """Train from the given weights and return an update.

        Raises:
            FloatingPointError: the loss is no longer a finite number.
        """
        network: nn.Module
        if step == "extractor":
            network = both = self._extractor = self._extractor or self.layout.extractor(self.rounds.seed)
            load(both, state)
            loss = scan_loss(both, self.scans, StepOne())
            train, validation = self.scans.train, self.scans.stopping()
            owned, judged = self.owned, "validation_ce"  # as decision 18: reconstruction gets better without end
        else:
            network, phi = self.layout.classifier(self.rounds.seed), self._phi(state)
            load(network, {name: values for name, values in state.items() if name in network.state_dict()})
            training = self.rounds.training(step, number)
            classifier = network

            def logits(scans: Tensor, owner: Tensor, count: int) -> Tensor:
                out: Tensor = classifier(phi[scans], owner, count)
                return out

            loss = set_loss(logits, self.sets, StepTwo(fit="epochs"), training, None)
            train, validation, owned = self.sets.train, self.sets.validation, self.owned
            judged = "validation_loss"
        before = evaluate(network, loss, validation, batch_size=self.rounds.batch_size).get(judged, float("nan"))
        wanted = self.rounds.extractor if step == "extractor" else self.rounds.classifier
        if len(train) and number <= wanted:  # beyond, the weights are only judged
            fit(
                network, with_proximal(loss, network, self.rounds.proximal), train=train,
                validation=train.new_zeros(0), training=self.rounds.training(step, number),
            )  # fmt: skip
        return Update(
            self.name, self.settings, arrays_of(network), len(train), owned,
            float(before) if len(validation) else None, len(validation),
        )  # fmt: skip

    def _phi(self, state: Arrays) -> Tensor:
        """Compute φ of all scans once; it is frozen in step 2."""
        if self.phi is None:
            extractor = self.layout.extractor(self.rounds.seed)
            load(extractor, {name: values for name, values in state.items() if name in extractor.state_dict()})
            self.phi = features_of(extractor.extractor, self.scans)
        return self.phi


def _patients(scans: Scans, sets: Sets, modalities: int) -> Tensor:
    """Return how many patients have training scans of each modality, (M,); one with several sessions is one."""
    owner = torch.repeat_interleave(torch.arange(len(sets.subject)), sets.groups.starts.diff())
    subject = torch.zeros(len(scans.modality), dtype=torch.int64)
    subject[sets.groups.items] = sets.subject[owner]
    pairs = torch.stack([scans.modality[scans.train], subject[scans.train]])
    return torch.bincount(pairs.unique(dim=1)[0], minlength=modalities)


def features_of(extractor: UniversalExtractor, scans: Scans) -> Tensor:
    """Return φ of all scans, (N, C·H·W)."""
    every = torch.arange(len(scans.modality))
    batches = ((scans.feature_maps[items], scans.modality[items]) for items in every.split(256))
    return torch.cat(list(extract(extractor, batches, "cpu")))


def with_proximal(loss: Loss, network: nn.Module, weight: float) -> Loss:
    """Return the loss with FedProx's term, from the weights that the network has now."""
    if weight == 0:
        return loss
    start = {name: value.detach().clone() for name, value in network.named_parameters()}

    def closer(items: Tensor, learning: bool) -> dict[str, Tensor]:
        moved = torch.stack([(value - start[name]).square().sum() for name, value in network.named_parameters()])
        return {**loss(items, learning), "proximal": weight / 2 * moved.sum()}

    return closer


def normalisation(statistics: Iterable[Arrays]) -> Arrays:
    """Return centre (M, C, H, W) and spread (M, 1, 1, 1) of z over all sites, as `models.scale.feature_scale`."""
    every = list(statistics)
    count, total, squares = (sum(np.asarray(each[name]) for each in every) for name in ("count", "total", "squares"))
    number = np.maximum(np.asarray(count), 1)
    centre = np.asarray(total) / number[:, None, None, None]
    width = float(np.prod(centre.shape[1:]))
    variance = np.asarray(squares) / number / width - np.square(centre).mean(axis=(1, 2, 3))
    spread = np.where(np.asarray(count) > 1, np.maximum(np.sqrt(np.maximum(variance, 0)), 1e-6), 1.0)
    return {
        "extractor.centre": centre.astype(np.float32),
        "extractor.spread": spread.astype(np.float32).reshape(-1, 1, 1, 1),
    }


@dataclass
class Server:
    """The weights between rounds, and what is known of the sites.

    Attributes:
        layout: of the networks.
        settings: hash that all sites must have.
        rounds: settings.
        log: what happened.
        state: the weights that are sent next.
        best: those with the smallest validation loss so far, and that of each site.
        counts: site → scans of each modality that it has summed, (M,).
        unusable: sites whose sums could not be used; they take part in no round.
    """

    layout: Layout
    settings: str
    rounds: Rounds
    log: Log = field(default_factory=Log)
    state: Arrays = field(default_factory=dict)
    best: tuple[Losses, Arrays] | None = None
    counts: dict[str, NDArray[Any]] = field(default_factory=dict)
    unusable: set[str] = field(default_factory=set)

    def start(self, statistics: Mapping[str, tuple[str, Arrays]], *, asked: Iterable[str] = ()) -> None:
        """Begin step 1 with the sites' sums: site → (hash of its settings, sums); `asked` are those that were asked."""
        for site in sorted(set(asked) - statistics.keys()):
            self._refuse("statistics", site, SILENT)
        good: dict[str, Arrays] = {}
        shape = (self.layout.modalities, *self.layout.feature_map_shape)
        for site, (settings, sums) in sorted(statistics.items()):
            if settings != self.settings:
                self._refuse("statistics", site, f"other settings ({settings}, not {self.settings})")
            elif not _are_sums(sums, shape):
                self._refuse("statistics", site, "sums of another shape, or not finite, or of no possible scans")
                self.unusable.add(site)
            else:
                good[site] = sums
        names = self.layout.names or tuple(f"modality {number + 1}" for number in range(self.layout.modalities))
        for site, reason in far_apart(good, names).items():
            self._refuse("statistics", site, reason)
            self.unusable.add(site)
            del good[site]
        self.counts = {site: np.asarray(sums["count"]) for site, sums in good.items()}
        self._enough(len(good), "statistics")
        for number in np.flatnonzero(sum(self.counts.values()) == 0):
            self.log.lines.append(
                f"{names[number]}: no site has {FEWEST_PATIENTS} training patients with it, so φ does not learn it"
            )
        self.state = arrays_of(self.layout.extractor(self.rounds.seed)) | normalisation(good.values())

    def take(self, step: Step, number: int, updates: list[Update], *, asked: Iterable[str] = ()) -> None:
        """Average the updates of a round; `asked` are the sites that it was sent to.

        Raises:
            TooFewSitesError: fewer than `Rounds.fewest_sites` sent something that can be used.
        """
        name = f"{step} round {number}"
        kept, refused = screen(
            updates, self.state, settings=self.settings, modalities=self.layout.modalities,
            largest=self.rounds.largest_change,
        )  # fmt: skip
        for update in list(kept):
            if update.site in self.unusable:
                refused[update.site] = "its sums could not be used"
                kept.remove(update)
            elif update.site in self.counts and not np.array_equal(update.owned, self.counts[update.site]):
                refused[update.site] = "other numbers of scans than when it sent its sums"
                kept.remove(update)
        for site in sorted(set(asked) - {update.site for update in updates}):
            self._refuse(name, site, SILENT)
        for site, reason in refused.items():
            self._refuse(name, site, reason)
        self._enough(len(kept), name)
        if number > 1:  # what round 1 was given is untrained, and no result, however small its loss
            self._judge(kept)
        losses = losses_of(kept)
        loss = mean_loss(losses, sorted(losses))
        rows = frozenset({EMBEDDING})
        self.log.lines.append(
            f"{name}: {', '.join(each.site for each in kept)}"
            + (f"; validation loss of what they were given {loss:.4f}" if loss is not None else "")
        )
        self.state = average(kept, self.state, rows=rows, fixed=frozenset(NORMALISATION))

    def finish(self, step: Step, last: list[Update]) -> Arrays:
        """Return the weights of the best round of a step; `last` tells how good the newest ones are."""
        kept, _ = screen(last, self.state, settings=self.settings, modalities=self.layout.modalities, largest=np.inf)
        self._judge(kept)
        chosen = self.best[1] if self.best is not None else self.state
        self.best = None
        if step == "extractor":
            self.state = arrays_of(self.layout.classifier(self.rounds.seed))
        return chosen

    def _judge(self, kept: list[Update]) -> None:
        losses = losses_of(kept)
        if losses and (self.best is None or is_better(losses, self.best[0])):
            self.best = losses, self.state

    def _refuse(self, where: str, site: str, reason: str) -> None:
        self.log.refused.append((where, site, reason))
        self.log.lines.append(f"{where}: {site} is left out: {reason}")

    def _enough(self, count: int, where: str) -> None:
        if count < self.rounds.fewest_sites:
            said = "; ".join(f"{site}: {reason}" for place, site, reason in self.log.refused if place == where)
            raise TooFewSitesError(
                f"{where}: {count} sites sent something that can be used, {self.rounds.fewest_sites} are needed. {said}"
            )


def far_apart(sums: Mapping[str, Arrays], names: Sequence[str]) -> dict[str, str]:
    """Return site → what is wrong, of sites whose scans of a modality lie elsewhere than those of most other owners.

    Two sites are apart if one's spread is more than `LARGEST_CHANGE` times the other's, or their centres are more than
    so many of the smaller spread apart. Left out is who is apart from more than half of the others: of three owners the
    one that is unlike two; of two that disagree both, since nobody can tell which is wrong.

    Args:
        sums: site → sums as `LocalSite.statistics` returns them.
        names: of the modalities.
    """
    found: dict[str, str] = {}
    for number, name in enumerate(names):
        owners = {site: normalisation([each]) for site, each in sums.items() if each["count"][number] > 0}
        centre = {site: each["extractor.centre"][number].astype(np.float64) for site, each in owners.items()}
        spread = {site: float(each["extractor.spread"][number, 0, 0, 0]) for site, each in owners.items()}
        for site in owners:
            others = [other for other in owners if other != site]
            apart = [
                other
                for other in others
                if max(spread[site], spread[other]) > LARGEST_CHANGE * min(spread[site], spread[other])
                or np.sqrt(np.square(centre[site] - centre[other]).mean())
                > LARGEST_CHANGE * min(spread[site], spread[other])
            ]
            if 2 * len(apart) > len(others):
                which = "; of two sites nobody can tell which is wrong" if len(others) == 1 else ""
                found.setdefault(
                    site,
                    f"its scans of {name} have centre or spread more than {LARGEST_CHANGE:g} times apart from those of "
                    f"{', '.join(apart)}{which}. Compare how the sites prepare {name}",
                )
    return found


def _are_sums(sums: Arrays | None, shape: tuple[int, ...]) -> bool:
    """Return whether these can be count (M,), Σz (M, C, H, W) and Σ|z|² (M,)."""
    wanted = {"count": shape[:1], "total": shape, "squares": shape[:1]}
    if sums is None or sums.keys() != wanted.keys():
        return False
    for name, values in sums.items():
        given = np.asarray(values)
        if given.shape != wanted[name] or given.dtype.kind != "f" or not np.isfinite(given).all():
            return False
    lengths = np.square(sums["total"].reshape(shape[0], -1)).sum(axis=1)  # |Σz|² ≤ n Σ|z|²
    possible = lengths <= sums["count"] * sums["squares"] * (1 + 1e-6)
    return bool((sums["count"] >= 0).all() and (sums["squares"] >= 0).all() and possible.all())


def train_in_one_process(sites: Mapping[str, Site], server: Server) -> tuple[Arrays, Arrays]:
    """Train φ and ρ with sites that are called one after the other; return both states."""
    server.start({name: (server.settings, site.statistics()) for name, site in sites.items()})
    found = []
    steps: tuple[tuple[Step, int], ...] = (
        ("extractor", server.rounds.extractor),
        ("classifier", server.rounds.classifier),
    )
    extractor: Arrays = {}
    for step, count in steps:
        for number in range(1, count + 1):
            given = server.state | extractor
            server.take(step, number, [site.round(step, number, given) for site in sites.values()], asked=sites)
        given = server.state | extractor
        found.append(server.finish(step, [site.round(step, count + 1, given) for site in sites.values()]))
        extractor = found[0]
    return found[0], found[1]


def predict(layout: Layout, extractor: Arrays, classifier: Arrays, scans: Scans, sets: Sets) -> Tensor:
    """Return the class probabilities of all sets, (B, K) float64."""
    network, rho = layout.extractor(0), layout.classifier(0)
    load(network, extractor)
    load(rho, classifier)
    return predict_sets(rho, features_of(network.extractor, scans), sets.groups)


def arrays_of(network: nn.Module) -> Arrays:
    """Return the weights of a network."""
    return {name: value.detach().cpu().numpy().copy() for name, value in network.state_dict().items()}


def load(network: nn.Module, state: Mapping[str, NDArray[np.float32]]) -> None:
    """Set the weights of a network."""
    network.load_state_dict({name: torch.from_numpy(np.array(values)) for name, values in state.items()})
