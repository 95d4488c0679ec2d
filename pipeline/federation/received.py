"""The joint model of several sites at one of them: does it fit, and was it made without patients who are tested."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cohort.splits import leaked
from console.errors import InputError
from models.joint.model import JointModel
from pipeline.federation.plan import Plan, differences
from pipeline.federation.sum_files import read_model
from pipeline.store.contribution import ContributionSet
from pipeline.store.tables import SplitTables


def model_of_repeat(paths: Sequence[Path], repeat: int) -> tuple[JointModel, dict[str, Any]]:
    """Return the model of a repeat and its facts.

    Raises:
        FederationFileError: a file is no such model.
        InputError: none, or two, of the files are of this repeat.
    """
    found = [(path, *read_model(path)) for path in paths]
    of_repeat = [each for each in found if each[2]["repeat"] == repeat]
    if len(of_repeat) != 1:
        there = ", ".join(f"{path}: repeat {facts['repeat']}" for path, _, facts in found)
        raise InputError(
            f"joint.federated has {len(of_repeat)} models of repeat {repeat} ({there}). Contribute and combine each "
            "repeat by itself, with contribute.repeat; or contribute and combine in a workspace with split.repeats 1"
        )
    return of_repeat[0][1:]


def check_received(
    facts: dict[str, Any], plan: Plan, contributed: ContributionSet, split: SplitTables, repeat: int
) -> list[str]:
    """Refuse a model that was made with other settings, or from patients who are tested here; return notes.

    Args:
        facts: of the model.
        plan: of this workspace, with the classes and covariates of the model.
        contributed: what this workspace has released.
        split: of this workspace.
        repeat: that the model is for.

    Raises:
        InputError: it must not be used here.
    """
    if lines := differences(facts["plan"], plan):
        raise InputError(
            "the joint model was made with other settings than this workspace, so its scores mean something else (the "
            "model's first, then this one's):\n" + "\n".join(lines)
        )
    used = [each for each in contributed.releases() if each["id"] in facts["contributions"]]
    for release in used:
        if release.get("forgotten"):
            raise InputError(
                "the joint model holds a patient of this workspace who was to be forgotten (contribution "
                f"{release['id']}). Let whoever combines do so again without that contribution, from the other sites' "
                "files alone (with masks the others contribute again, in another contribute.round). This site can "
                "contribute again once contribute.smallest_cell of its patients have changed"
            )
        if seen := leaked(release["train_subjects"], split.splits(), repeat):
            raise InputError(
                f"repeat {repeat}: the joint model holds sums of {len(seen)} subject(s) of the test split "
                f"({', '.join(seen[:10])}), contributed with other splits; its test would mean nothing. Contribute "
                "and combine again"
            )
    return [] if used else ["the joint model holds no contribution of this workspace"]
