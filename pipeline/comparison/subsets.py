"""Every subset of modalities in the test: what a method that was trained once says of whoever has all of a subset."""

import pandas as pd

from pipeline.comparison.scenarios import Tests
from pipeline.training.repeat_data import RepeatData
from pipeline.training.scores import subsets_of


def hidden_by_subset(data: RepeatData) -> Tests:
    """Return the name of each subset of the modalities, with the test scans that do not belong to it.

    Args:
        data: what the scenario leaves of a repeat.
    """
    tested = data.scans[data.scans["split"] == "test"]
    return tuple(
        (name, tuple(sorted(tested.loc[~tested["modality"].isin(subset), "scan"])))
        for name, subset in _named(data).items()
    )


def of_those_who_have_it(predictions: pd.DataFrame, data: RepeatData) -> pd.DataFrame:
    """Keep the predictions of observations that have every modality of the subset that they were made from.

    Args:
        predictions: column `tested`, the subset.
        data: what the scenario leaves of a repeat.

    Returns:
        The same with `modalities` in the place of `tested`.
    """
    has = data.scans.groupby("observation")["modality"].agg(set)
    subsets = _named(data)
    rows = zip(predictions["tested"], predictions["observation"], strict=True)
    kept = [subsets[name] <= has[observation] for name, observation in rows]
    return predictions[kept].rename(columns={"tested": "modalities"})


def _named(data: RepeatData) -> dict[str, set[str]]:
    return {"+".join(subset): set(subset) for subset in subsets_of(data.modalities)}
