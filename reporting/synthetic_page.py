"""A section of the report: synthetic images beside real ones, and what was found when they were judged."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reporting.formatting import interval, is_number, number, percent
from reporting.pages import data_uri
from reporting.tables import Table

TILE = 96  # pixels
_GAP = 4
_VERDICTS = {
    "passed": "Released: no more synthetic scans than allowed are copies of training patients.",
    "copies": "Not released: too many synthetic scans are copies of training patients.",
    "copies accepted": "Released although too many synthetic scans are copies of training patients (accept_copies).",
}
_FINDINGS = {
    "copies": "too many copies of training patients",
    "near": "nearer to training patients than held-out patients are",
    "narrow": "varies less than real patients",
    "wide": "varies more than real patients",
    "different": "can be told from held-out patients by the kernel distance",
}


@dataclass(frozen=True)
class Synthetic:
    """What the stage judge found.

    Attributes:
        facts: content of `judgement.json`.
        walls: modality, picture of real scans and picture of synthetic ones (PNG).
    """

    facts: Mapping[str, Any]
    walls: tuple[tuple[str, bytes, bytes], ...] = ()


def synthetic_section(page: Synthetic) -> dict[str, Any]:
    """Return the variables of `synthetic.html.j2`."""
    facts = page.facts
    return {
        "verdict": _VERDICTS[facts["verdict"]],
        "patients": f"{facts['patients']:,}",
        "repeat": facts["repeat"],
        "most_copied": percent(facts["most_copied"]),
        "figures": figures(facts["judgements"]),
        "sentences": [sentence(each) for each in facts["judgements"]],
        "transfer": transfer_sentence(facts["transfer"]),
        "left_out": "; ".join(facts["left_out"]),
        "not_judged": ", ".join(facts.get("not_judged", ())),
        "only_searched": [
            f"{each['modality']}, {each['space']}: too few patients to be judged; copies were looked for, "
            f"{_share(each['copied'])} of the synthetic scans are."
            for each in facts.get("only_searched", ())
        ],
        "walls": [(name, data_uri(real, "image/png"), data_uri(made, "image/png")) for name, real, made in page.walls],
    }


def figures(judgements: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table of judgements, a row a question and a column a modality and space."""
    headers = ("Question", "If nothing is wrong", *[f"{each['modality']}, {each['space']}" for each in judgements])
    rows: list[tuple[str, ...]] = []

    def add(question: str, usual: str, cells: Sequence[str]) -> None:
        rows.append((question, usual, *cells))

    add(
        "Real scans: training, held-out; synthetic",
        "",
        [f"{j['train']:,}, {j['held_out']:,}; {j['generated']:,}" for j in judgements],
    )
    searched = [j.get("searched", j["generated"]) for j in judgements]
    if searched != [j["generated"] for j in judgements]:
        add("Synthetic scans among which copies were looked for", "", [f"{each:,}" for each in searched])
    several = [(j.get("train_patients", j["train"]), j.get("held_out_patients", j["held_out"])) for j in judgements]
    if any(each != (j["train"], j["held_out"]) for each, j in zip(several, judgements, strict=True)):
        add(
            "Of how many patients, who are drawn and permuted with all their scans: training, held-out",
            "",
            [f"{train:,}, {held_out:,}" for train, held_out in several],
        )
    add(
        "Are they like held-out scans? Kernel distance (p by permutation)",
        "about 0 (p above .01)",
        [f"{number(j['kernel']['value'], 3)} ({_p(j['kernel']['p'])})" for j in judgements],
    )
    add(
        "The same of training scans",
        "about 0 (p above .01)",
        [f"{number(j['kernel_of_training']['value'], 3)} ({_p(j['kernel_of_training']['p'])})" for j in judgements],
    )
    for name, words in (("frechet_held_out", "held-out"), ("frechet_train", "training")):
        add(
            f"Fréchet distance to {words} scans (of halves of those to each other; 95 % below)",
            "as between halves",
            [_frechet(j[name]) for j in judgements],
        )
        add(
            f"The same for endlessly many {words} scans",
            "as between halves",
            [_pair(j[name]["extrapolated"], number(j[name]["null_extrapolated"])) for j in judgements],
        )
    for name, words in (
        ("precision", "Are they among real scans? Precision (of training scans)"),
        ("density", "Density (of training scans)"),
        ("recall", "Are real scans among them? Recall (by training scans)"),
        ("coverage", "Coverage (by training scans)"),
    ):
        add(
            words,
            "as of training",
            [f"{number(j['manifold'][name])} ({number(j['manifold_of_training'][name])})" for j in judgements],
        )
    add(
        "Do they vary as much? Variance ratio",
        "1 in the interval",
        [f"{number(j['variance'][0])} ({interval(*j['variance'][1:])})" for j in judgements],
    )
    add(
        "Are they copies? Nearer to training than 95 % of held-out",
        "about 5 %",
        [_share(j["memorisation"]["nearer"]) for j in judgements],
    )
    add("Authentic (AuthPct)", "as many as possible", [_share(j["memorisation"]["authentic"]) for j in judgements])
    add(
        "Nearer than held-out? C_T",
        "above -3",
        [number(j["memorisation"]["c_t"], 1) for j in judgements],
    )
    add(
        "Copies: near, and near to one training scan alone",
        "below the limit",
        [_share(j["memorisation"]["copied"]) for j in judgements],
    )
    add(
        "Do they make training scans likelier than held-out ones? Gap of the feature likelihood (p by permutation)",
        "small, p above .01",
        [f"{number(j['likelihood']['gap'], 1)} ({_p(j['likelihood']['p'])})" for j in judgements],
    )
    add(
        "Can a linear classifier tell them from held-out scans? AUC",
        "0.5 in the interval",
        [_pair(j["probe"]["auc"], interval(j["probe"]["low"], j["probe"]["high"])) for j in judgements],
    )
    return Table(headers, tuple(rows))


def sentence(judgement: Mapping[str, Any]) -> str:
    """Say in words what was found of one modality in one space."""
    name = f"{judgement['modality']}, {judgement['space']}"
    found = [_FINDINGS[each] for each in judgement["findings"]]
    probe = judgement["probe"]
    told = ""
    if is_number(probe["low"]) and probe["low"] > 0.5:
        told = f" A linear classifier tells them from held-out scans with AUC {probe['auc']:.2f}."
    if not found:
        return f"{name}: nothing was found that so many scans could show.{told}"
    return f"{name}: {'; '.join(found)}.{told}"


def transfer_sentence(transfer: Mapping[str, Any]) -> str:
    """Say what a classifier learns from synthetic patients."""
    if not is_number(transfer["generated_auc"]):
        return "What a classifier learns from synthetic patients cannot be said: a class is missing on one side."
    change = interval(transfer["low"], transfer["high"])
    return (
        f"Trained on synthetic patients and tested on {transfer['n']:,} held-out ones, a linear classifier of the "
        f"channel means reaches AUC {transfer['generated_auc']:.2f}; trained on real ones {transfer['real_auc']:.2f} "
        f"(difference {transfer['difference']:+.2f}, interval {change}). The one trained on real patients finds the "
        f"labels of the synthetic ones with AUC {number(transfer['coherence'])}."
    )


def wall(tiles: Sequence[NDArray[np.uint8]], *, across: int = 8) -> bytes:
    """Return pictures side by side as one PNG.

    Args:
        tiles: (h, w) or (h, w, 3), uint8; one at least.
        across: pictures in a row.
    """
    side = TILE + _GAP
    down = -(-len(tiles) // across)
    canvas = np.full((down * side - _GAP, min(across, len(tiles)) * side - _GAP, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        height, width = tile.shape[:2]
        scale = TILE / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = np.asarray(Image.fromarray(tile).convert("RGB").resize(size, Image.Resampling.BILINEAR))
        top, left = (i // across) * side, (i % across) * side
        canvas[top : top + TILE, left : left + TILE] = 0
        top, left = top + (TILE - size[1]) // 2, left + (TILE - size[0]) // 2
        canvas[top : top + size[1], left : left + size[0]] = small
    stream = io.BytesIO()
    Image.fromarray(canvas).save(stream, format="PNG", compress_level=6)
    return stream.getvalue()


def _frechet(values: Mapping[str, Any]) -> str:
    if not is_number(values["value"]):
        return "too few"
    return f"{number(values['value'])} ({number(values['null'])}; {number(values['null_high'])})"


def _pair(value: Any, beside: str) -> str:
    return f"{number(value)} ({beside})" if is_number(value) else "too few"


def _share(value: Any) -> str:
    return f"{100 * value:.1f} %" if is_number(value) else "n/a"


def _p(value: float) -> str:
    return "p < .001" if value < 0.001 else f"p = {value:.3f}"
