"""The audit of groups of patients, from the tables of the stage confounding, for report and model card."""

from pipeline.store.confounding import ConfoundingTables
from reporting.fairness_others import FairnessOfOthers
from reporting.fairness_page import Fairness


def fairness_of(tables: ConfoundingTables) -> Fairness:
    """Return the audit of HyperMM."""
    facts = tables.facts()
    return Fairness(
        groups=tables.read("groups.csv"),
        gaps=tables.read("gaps.csv"),
        smallest_group=facts["smallest_group"],
        permutations=facts["permutations"],
        positive=facts["positive"],
    )


def fairness_of_others(tables: ConfoundingTables) -> FairnessOfOthers:
    """Return the audit of sets and scans, of the best comparator, of imputations and of synthetic patients."""
    return FairnessOfOthers(
        groups=tables.read("groups_of_others.csv"),
        gaps=tables.read("gaps_of_others.csv"),
        groups_imputed=tables.read("groups_imputed.csv"),
        gaps_imputed=tables.read("gaps_imputed.csv"),
        shares=tables.read("groups_synthetic.csv"),
        groups_sets=tables.read("groups_sets.csv"),
        gaps_sets=tables.read("gaps_sets.csv"),
        comparator=tables.facts()["comparator"],
    )
