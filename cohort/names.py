"""One name in two spellings, words that stand for no value, and ids that a spreadsheet has broken."""

import functools
import re
import unicodedata
from collections.abc import Hashable, Iterable
from decimal import Decimal

import pandas as pd

# Of R, pandas, SQL, BIDS, TCGA and people; case, spaces and brackets around do not matter.
MISSING = frozenset(
    "na n/a n.a. n.a #n/a #na #n/an/a #nv nan -nan +nan nat 1.#ind -1.#ind 1.#qnan -1.#qnan null none nil undefined "
    "missing unknown notavailable notapplicable - -- --- . ? ?? ???".split()
)
CODES = ("site", "centre", "center", "scanner", "sex", "gender")
"""Columns that are categories even where numbers are written in them."""

_ERROR = re.compile(r"#+|#[\w/]+[!?]")  # Excel's, in all its languages: #REF!, #DIV/0!, #NAME?, #BEZUG!, #####
_QUOTES = "'\"`\N{RIGHT SINGLE QUOTATION MARK}\N{ACUTE ACCENT}"
_CYRILLIC = str.maketrans("АВЕКМНОРСТУХІЈЅавекмнорстухіјѕ", "ABEKMHOPCTYXIJSabekmhopctyxijs")  # look like Latin ones
_NUMBER = re.compile(r"[+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:e[+-]?\d+)?", re.I)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+")
_SHORTENED = re.compile(r"\d+(?:[.,]\d+)?e\+\d+", re.I)
_MONTHS = (
    "jan|feb|mar|mär|mrz|apr|may|mai|jun|jul|aug|sep|oct|okt|nov|dec|dez|janv|févr|mars|avr|juin|juil|août|sept|déc"
)
_DATE = re.compile(
    rf"(?:\d{{1,2}}[-./ ]+)?(?:{_MONTHS})[-./ ]+\d{{2,4}}|\d{{1,2}}[-./ ]+(?:{_MONTHS})", re.I
)  # Excel's


def _one_form(text: str) -> str:
    """Bring characters that look alike to one (NFKC), and drop those that are not seen."""
    text = unicodedata.normalize("NFKC", text)
    seen = (c for c in text if unicodedata.category(c) != "Cf")
    return "".join(str(unicodedata.decimal(c, c)) for c in seen).translate(_CYRILLIC).strip().strip(_QUOTES)


def _dashes(text: str) -> str:
    """Write all kinds of dash as a hyphen."""
    return "".join("-" if unicodedata.category(c) == "Pd" or c in "_\N{MINUS SIGN}" else c for c in text)


# What does not tell two names apart. Between two digits, spaces, dashes and underscores are one separator (S-1-1 is not
# S-11); at the ends, dashes stay (-1 is not 1); elsewhere they count for nothing.
_STEPS = (
    ("characters that look alike", _one_form),
    ("case or spaces", str.casefold),
    ("case or spaces", lambda text: re.sub(r"\s+", "-", re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text))),
    (
        "dashes or underscores",
        lambda text: re.sub("-+", "-", re.sub(r"(?<=[^\d-])-+(?=[^-])|(?<=\d)-+(?=[^\d-])", "", _dashes(text))),
    ),
    ("a trailing .0", lambda text: re.sub(r"(?<=\d)[.,]0+$", "", text)),
    ("zeros in front", lambda text: re.sub(r"(?<![\d.,])0+(?=\d)", "", text)),
)


@functools.lru_cache(maxsize=100_000)
def canonical(text: str, *, but: str = "") -> str:
    """Return a name in the form in which names are compared, never the one in which they are written.

    Args:
        text: such as a subject, a session, a site.
        but: difference that counts after all, as `difference` returns them.
    """
    for name, step in _STEPS:
        if name != but:
            text = step(text)
    return text


def canonical_value(text: str) -> Hashable:
    """Return a label or a category in the form in which they are compared: 1, 1.0 and 01 are one number."""
    value = number(text)
    return canonical(text) if value is None else value


def difference(one: str, other: str) -> str:
    """Describe in what two spellings of one name differ."""
    if canonical(one) != canonical(other):
        return "how they are written"
    found = [name for name, _ in _STEPS if canonical(one, but=name) != canonical(other, but=name)]
    return ", ".join(dict.fromkeys(found)) or "how they are written"


def spelt_otherwise(name: str, known: Iterable[str]) -> list[str]:
    """Return the other spellings of a name among those known, sorted."""
    same = canonical(name)
    return sorted({other for other in known if other != name and canonical(other) == same})


@functools.lru_cache(maxsize=100_000)
def is_missing(text: str, but: tuple[str, ...] = ()) -> bool:
    """Return whether a cell is empty, or holds a word or an error that stands for no value, except those in `but`."""
    if text in but:
        return False
    plain = "".join(_dashes(_one_form(text)).casefold().split()).strip("[](){}<>")
    return plain == "" or plain in MISSING or _ERROR.fullmatch(plain) is not None


def without_missing(cells: pd.Series, but: tuple[str, ...] = ()) -> pd.Series:
    """Empty the cells that stand for no value, except the words in `but`."""
    return cells.mask(missing(cells, but), "")


def missing(cells: pd.Series, but: tuple[str, ...] = ()) -> pd.Series:
    """Return for each cell whether it stands for no value."""
    return cells.map(lambda text: is_missing(text, but)).astype(bool)


def broken_ids(ids: pd.Series, *, but: tuple[str, ...] = (), dates: bool = True) -> dict[int, str]:
    """Find ids that stand for no value, or that a spreadsheet has turned into something else.

    Args:
        ids: str; empty ones are not looked at.
        but: words that are ids after all.
        dates: whether to look for dates: ids that look like one where the others do not, nor have its shape.

    Returns:
        index → what is wrong, to be read after the id.
    """
    ids = ids[ids != ""]
    dated = ids.map(lambda text: bool(_DATE.fullmatch(text)) and not text.isupper()).astype(bool)
    shapes = ids.map(lambda text: re.sub(r"[^\W\d]", "a", re.sub(r"\d", "0", text)))
    dated &= dates and not dated.all() and ~shapes.isin(shapes[~dated])
    found = {}
    for index, text in ids.items():
        if is_missing(text, but):
            found[index] = "stands for no value; write the id, or leave the row out"
        elif _SHORTENED.fullmatch(text):
            found[index] = "is a number that a spreadsheet has shortened; restore the id in a column formatted as text"
        elif dated[index]:
            found[index] = (
                "is a date, and other ids are not; a spreadsheet makes dates of ids such as 3-1 or MAR1. Restore the "
                "id in a column formatted as text"
            )
    return found


def number(text: str) -> Decimal | None:
    """Return the number that a cell holds, with a decimal point or a decimal comma; None if it holds none."""
    plain = _dashes(_one_form(text))
    return Decimal(plain.replace(",", ".")) if _NUMBER.fullmatch(plain) else None


def are_numbers(cells: pd.Series) -> bool:
    """Return whether all cells that are not empty hold numbers, and there is one."""
    given = cells[cells != ""]
    return len(given) > 0 and all(number(cell) is not None for cell in given)


def may_be_thousands(text: str) -> bool:
    """Return whether the comma of a number may part thousands: 1,234 may be 1.234 or 1234."""
    return _THOUSANDS.fullmatch(text) is not None
