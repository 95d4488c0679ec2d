"""How much does a method make of which scans there are? AUC by whether that told something in training."""

import numpy as np
import pandas as pd

from evaluation.comparison import holm
from evaluation.intervals import paired_difference, probability_columns, summarise

AT_RANDOM = "random"
SHUFFLED = ", shuffled within classes"  # after the name of a reason
KEY = ["repeat", "observation"]
PATTERN = (
    "method", "reason", "n", "auc", "random_auc", "learnt", "learnt_low", "learnt_high", "learnt_p", "learnt_p_holm",
    "shuffled_auc", "within", "within_low", "within_high",
)  # fmt: skip


def pattern_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Compute how much each method makes of which scans there are, for each reason but `AT_RANDOM`.

    The test is that of the reason in every figure. What changes is the training: scans lost by the same reason, at
    random, or by the reason and then shuffled within each class. Trained at random, a method cannot have learnt that
    who lacks the scan is of one class; shuffled, it can, and not what kind of patient of the class that is.

    Args:
        predictions: as `comparison.mechanisms_table` takes them.

    Returns:
        Columns `method`, `reason`, `n` (predictions made in all trainings of the row: every figure of it is of these),
        `auc` (trained by the reason), `random_auc`, `shuffled_auc`; `learnt`, `learnt_low`, `learnt_high`: `auc` minus
        `random_auc`, with `learnt_p` and, corrected by Holm over all methods and reasons, `learnt_p_holm`; `within`,
        `within_low`, `within_high`: `auc` minus `shuffled_auc`. NaN where not trained so.
    """
    columns, rows = probability_columns(predictions), []
    made = predictions[~predictions[columns].isna().any(axis=1)]
    cells = {key: table for key, table in made.groupby(["method", "training", "tested"], sort=False)}
    for method, reason in dict.fromkeys(zip(made["method"], made["training"], strict=True)):
        own = cells.get((method, reason, reason))
        if reason == AT_RANDOM or own is None:
            continue
        against = (("random", AT_RANDOM, "learnt"), ("shuffled", reason + SHUFFLED, "within"))
        others = {(name, of): cells[key] for name, way, of in against if (key := (method, way, reason)) in cells}
        shared = own[KEY]
        for other in others.values():
            shared = shared.merge(other[KEY], on=KEY)
        row = dict.fromkeys(PATTERN, np.nan) | {"method": method, "reason": reason, "n": len(shared)}
        if len(shared):
            own = own.merge(shared, on=KEY)
            row["auc"] = summarise(own)["auc"]["mean"]
            for (name, of), other in others.items():
                other = other.merge(shared, on=KEY)
                found = paired_difference(own, other, "auc")
                row[f"{name}_auc"] = summarise(other)["auc"]["mean"]
                row |= {of: found["difference"], f"{of}_low": found["low"], f"{of}_high": found["high"]}
                if of == "learnt":
                    row["learnt_p"] = found["p"]
        rows.append(row)
    table = pd.DataFrame(rows, columns=list(PATTERN))
    return table.assign(learnt_p_holm=holm(table["learnt_p"].to_numpy(dtype=np.float64)))
