"""Contributions of several sites, checked against each other, added, and made into one joint model."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from models.joint.dense import from_vector, to_vector
from models.joint.federated import Contribution, add, model_of
from models.joint.masks import FEWEST_SITES, from_ring
from models.joint.model import CannotJoinError, JointModel
from models.joint.privacy import repaired
from pipeline.federation.plan import differences, layout_of, widths_of
from pipeline.federation.sum_files import FederationFileError, Sent

LEAST = 5  # patients of a cell that is used beside what noise alone may look like, where it was added


def combine(sent: Mapping[str, Sent], *, factors: int = 4, seed: int = 0, draws: int = 30) -> tuple[JointModel, dict]:
    """Return the joint model of contributions, and what is to be written beside it.

    Args:
        sent: name of the file → what it holds.
        factors: directions of the embedding.
        seed: of the draws of parameters.
        draws: of the parameters.

    Raises:
        FederationFileError: contributions do not go together, or too few patients are in them.
    """
    if not sent:
        raise FederationFileError("no contribution is given")
    _check_alike(sent)
    first = next(iter(sent.values()))
    total, notes = _added(sent)
    plan, counts = first.plan, total.sums
    noise = [each.facts["noise"] for each in sent.values() if each.facts.get("noise")]
    if noise:
        sd = float(np.sqrt(sum(float(n["sd"]) ** 2 for n in noise)))
        least = fewest_with_noise(sd)
        total = Contribution(repaired(counts, least), total.outside)
        notes.append(
            f"noise was added by {len(noise)} of {len(sent)} sites (ε up to {max(n['epsilon'] for n in noise):g} a "
            f"contribution): counts and sums are not exact, and cells of fewer than {least:.1f} patients are left out "
            f"({LEAST} and three times {sd:.1f}, the standard deviation of a count), since empty ones may look so large"
        )
    if clips := {name: each.facts["clip"] for name, each in sent.items() if each.facts.get("clip") is not None}:
        lengths = ", ".join(f"{clip:g} ({name})" for name, clip in clips.items())
        notes.append(f"scores were shortened to a length of {lengths}; other contributions were not")
    shape = tuple(plan["feature_map_shape"])
    if not plan["feature_maps"]:
        notes.append("means of feature maps were not shared: embeddings can be made, imputed feature maps cannot")
    try:
        model = model_of(total, plan["modalities"], shape, factors=factors, seed=seed, draws=draws)
    except CannotJoinError as error:
        raise FederationFileError("\n".join([str(error), *notes])) from error
    facts = {
        "plan": plan,
        "repeat": first.facts["repeat"],
        "contributions": sorted(each.facts["id"] for each in sent.values()),
        "masked": first.ring is not None,
        "noise": noise,
        "notes": [*notes, *model.notes],
    }
    return model, facts


def fewest_with_noise(sd: float) -> float:
    """Return the patients of a cell that is used, where a count of all sites carries noise of this size."""
    return LEAST + 3 * sd


def _check_alike(sent: Mapping[str, Sent]) -> None:
    (name, first), *others = sent.items()
    for other, each in others:
        if lines := differences(first.plan, each.plan):
            raise FederationFileError(
                f"{name} and {other} were made with different settings, so their sums do not add up:\n"
                + "\n".join(lines)
            )
        if each.facts["repeat"] != first.facts["repeat"]:
            raise FederationFileError(
                f"{name} is of repeat {first.facts['repeat']}, {other} of repeat {each.facts['repeat']}; set "
                "contribute.repeat alike"
            )
    twice = [name for name, count in Counter(each.facts["id"] for each in sent.values()).items() if count > 1]
    if twice:
        files = [name for name, each in sent.items() if each.facts["id"] in twice]
        raise FederationFileError(f"{' and '.join(files)} are the same contribution; its patients would count twice")
    _check_sources(sent)
    masked = {name: each for name, each in sent.items() if each.ring is not None}
    if not masked:
        return
    if len(masked) < len(sent):
        plain = next(name for name, each in sent.items() if each.ring is None)
        raise FederationFileError(f"{plain} has no masks and {next(iter(masked))} has; masks need all sites")
    _check_masks(masked)


def _check_sources(sent: Mapping[str, Sent]) -> None:
    """Refuse two contributions of one workspace: of a rerun the newest alone counts."""
    first_of: dict[str, str] = {}
    for name, each in sent.items():
        source = str(each.facts.get("source") or name)
        if source in first_of:
            raise FederationFileError(
                f"{first_of[source]} and {name} come from the same workspace, so its patients would count twice; leave "
                "out the older one"
            )
        first_of[source] = name


def _check_masks(sent: Mapping[str, Sent]) -> None:
    (name, first), *others = sent.items()
    for other, each in others:
        for key, words in (("sites", "other sites"), ("keys", "other public keys"), ("round", "another round")):
            if each.facts[key] != first.facts[key]:
                raise FederationFileError(
                    f"{other} was masked for {words} than {name} ({each.facts[key]}; {first.facts[key]}); their masks "
                    "do not cancel"
                )
    here = [each.facts["site"] for each in sent.values()]
    lacking = sorted(set(first.facts["sites"]) - set(here))
    if lacking or len(here) != len(first.facts["sites"]):
        raise FederationFileError(
            f"masks cancel only if every site is there once: {', '.join(lacking) or 'one is there twice'}"
            f"{' lacking' if lacking else ''}. Wait for it, or let the others contribute again without it, in another "
            "contribute.round"
        )
    if len(here) < FEWEST_SITES:
        raise FederationFileError(f"{len(here)} sites with masks; at least {FEWEST_SITES} are needed")


def _added(sent: Mapping[str, Sent]) -> tuple[Contribution, list[str]]:
    every = list(sent.values())
    plan = every[0].plan
    blocks, classes, widths = layout_of(plan), len(plan["classes"]), widths_of(plan)
    plain = [each.plain for each in every if each.plain is not None]
    if len(plain) == len(every):
        return add(plain), []
    if every[0].ring is not None:
        ring = _ring_sum([each.ring for each in every if each.ring is not None])
        return from_vector(from_ring(ring), blocks, classes, widths), [
            f"sums of {len(every)} sites came with masks; no file shows those of one site. What one site "
            "alone has, such as a modality or a pattern of scans, is that site's in the total, too"
        ]
    vectors = [each.noisy if each.plain is None else to_vector(each.plain, widths) for each in every]
    return from_vector(np.sum([v for v in vectors if v is not None], axis=0), blocks, classes, widths), []


def _ring_sum(rings: Sequence[Any]) -> Any:
    total = rings[0].copy()
    for each in rings[1:]:
        total = total + each  # modulo 2**64
    return total
