"""How the page of a patient writes chances, conformal sets, distances, names and times."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from evaluation.conformal import fewest_subjects
from reporting.formatting import count, is_number, percent

LONGEST_NAME = 60  # characters of a name in the margin of a printed page


def set_sentence(patient: Mapping[str, Any], *, error_rate: float) -> str:
    """Describe the conformal set of a patient in a sentence.

    The guarantee is about the average over patients like those of the calibration, never about this patient, and there
    is none where the calibration has fewer subjects than `evaluation.conformal.fewest_subjects`.
    """
    seen, needed = patient["calibration_subjects"], fewest_subjects(error_rate)
    names, rate = [str(name) for name in patient["set"]], percent(error_rate)
    if not names:
        what = "is empty: no class fits well enough"
    elif len(names) == 1:
        what = f"holds {names[0]} alone"
    else:
        what = f"holds {', '.join(names[:-1])} and {names[-1]}: none of them can be left out"
    if seen < needed:
        return (
            f"The set of possible classes {what}. No error rate can be promised: {count(seen, 'calibration subject')} "
            f"had such scans, and an error rate of {rate} needs at least {needed:,}."
        )
    return (
        f"At an error rate of {rate} the set of possible classes {what}. Over many patients like the {seen:,} of the "
        f"calibration, at most {rate} of such sets miss the true class on average. That is no promise for this patient."
    )


def chance(probability: Any) -> str:
    """Write a probability as `83 %`; never as 0 or 100 %, which no model can know."""
    if not is_number(probability):
        return "n/a"
    whole = round(100 * probability)
    text = "> 99 %" if whole >= 100 else "< 1 %" if whole <= 0 else f"{whole} %"
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def points(change: Any) -> str:
    """Write a change of probability as percentage points with a sign: `+12`, `−5`, `0`."""
    whole = round(100 * change)
    return f"+{whole}" if whole > 0 else f"−{-whole}" if whole < 0 else "0"


def remark(scan: Mapping[str, Any]) -> str:
    """Return the remark on a scan."""
    if not scan["used"]:
        return reason(scan)
    sentences = [describe_distance(scan) if scan["outlier"] else "Not compared with training scans."]
    if scan.get("map"):
        sentences.append(f"Occlusion map: {scan['map']}.")
    return " ".join(sentences)


def reason(scan: Mapping[str, Any]) -> str:
    """Return why a scan was not used."""
    return scan["reason"] or "no reason recorded"


def not_compared(scan: Mapping[str, Any]) -> bool:
    """Tell whether a used scan could not be compared with the training scans."""
    return bool(scan["used"] and (scan["outlier"] is None or scan["outlier"]["flag"] is None))


def flagged(scan: Mapping[str, Any]) -> bool:
    """Tell whether a used scan lies far from the training scans."""
    return bool(scan["used"] and scan["outlier"] and scan["outlier"]["flag"])


def describe_distance(scan: Mapping[str, Any]) -> str:
    """Describe how far a scan lies from the training scans."""
    outlier = scan["outlier"]
    if outlier["flag"] is None:
        few = f"{count(outlier['n'], 'held-out scan')} {'is' if outlier['n'] == 1 else 'are'} too few"
        return f"Not known whether it is unlike the training scans: {few} to tell."
    likeness, share = "Unlike" if outlier["flag"] else "Like", f"{100 * outlier['share_farther']:.2g}"
    others = count(outlier["n"], "held-out scan")
    return f"{likeness} the training scans: of it and {others}, {share} % lie as far from them or farther."


def patient_name(patient: Mapping[str, Any]) -> str:
    """Return the subject, and the session if any."""
    return f"{patient['subject']}, {patient['session']}" if patient["session"] else str(patient["subject"])


def readable_time(text: str) -> str:
    """Format an ISO 8601 time for display; any other text is returned unchanged."""
    try:
        time = datetime.datetime.fromisoformat(text)
    except ValueError:
        return text
    return time.strftime("%Y-%m-%d %H:%M") + (f" {time.tzname()}" if time.tzinfo else "")


def css_text(text: str) -> str:
    """Escape a name for a CSS string: every character but ASCII letters and digits is escaped."""
    short = text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 1]}…"
    return "".join(c if c.isascii() and c.isalnum() else f"\\{ord(c):06x}" for c in short)
