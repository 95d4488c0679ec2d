import unicodedata

import pandas as pd
import pytest

from cohort.names import (
    broken_ids,
    canonical,
    canonical_value,
    difference,
    is_missing,
    number,
    spelt_otherwise,
)


@pytest.mark.parametrize(
    ("one", "other", "what"),
    [
        ("P001", "p001", "case or spaces"),
        ("P 001", "P001", "case or spaces"),
        ("C N", "CN", "case or spaces"),
        ("Straße", "STRASSE", "case or spaces"),
        ("ses-1", "ses-01", "zeros in front"),
        ("ses-M12", "ses-M012", "zeros in front"),
        ("101", "101.0", "a trailing .0"),
        ("0101", "101.0", "a trailing .0, zeros in front"),
        ("P-001", "P001", "dashes or underscores"),
        ("001_S_4638", "001-S-4638", "dashes or underscores"),
        ("S\N{NON-BREAKING HYPHEN}1\N{EN DASH}1", "S-1-1", "dashes or underscores"),
        ("\N{FULLWIDTH LATIN CAPITAL LETTER P}001", "P001", "characters that look alike"),
        ("\N{CYRILLIC CAPITAL LETTER ER}001", "P001", "characters that look alike"),
        ("P\N{ZERO WIDTH SPACE}001", "P001", "characters that look alike"),
        ("'007", "007", "characters that look alike"),  # an apostrophe keeps Excel from reading a number
        (unicodedata.normalize("NFD", "José"), unicodedata.normalize("NFC", "José"), "characters that look alike"),
    ],
)
def test_one_name_in_two_spellings(one: str, other: str, what: str) -> None:
    assert canonical(one) == canonical(other)
    assert difference(one, other) == what
    assert spelt_otherwise(one, ["Q", other, one]) == [other]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("P1", "P10"), ("S-1-1", "S-11"), ("S 1 1", "S 11"), ("1-11", "11-1"), ("1.1", "1.10"), ("1.01", "1.1"),
        ("-1", "1"), ("<65", ">65"), ("A+", "A-"), ("A-", "A"), ("1+", "1"), ("0.05", "0.5"), ("P0", "PO"),
        ("José", "Jose"), ("5 \N{MICRO SIGN}m", "5 mm"), ("a/b", "a b"), ("007", "070"),
    ],
)  # fmt: skip
def test_two_names(one: str, other: str) -> None:
    assert canonical(one) != canonical(other)


def test_numbers_are_one_value_however_they_are_written() -> None:
    assert len({canonical_value(cell) for cell in ("1", "1.0", "01", "1,00", "+1", "1e0")}) == 1
    assert len({canonical_value(cell) for cell in ("-1", "1", "0", "10", "1e-5", "1e5", "0.5", "0.05", "AD")}) == 9
    assert canonical_value("0.5") == canonical_value("0,50")
    assert [number(cell) for cell in ("nan", "inf", "", "70y", "1 2", "1.2.3")] == [None] * 6
    assert number("\N{MINUS SIGN}70,5") == number("-70.5")


@pytest.mark.parametrize(
    "word",
    ["", " ", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "-nan", "NaT", "null", "NULL", "(null)", "None", "NONE",
     "-", "--", "\N{EM DASH}", ".", "?", "N / A", "[Not Available]", "'--", "unknown", "\N{NO-BREAK SPACE}",
     "#VALUE!", "#REF!", "#DIV/0!", "#NAME?", "#NUM!", "#BEZUG!", "#NV", "########"],
)  # fmt: skip
def test_words_that_stand_for_no_value(word: str) -> None:
    assert is_missing(word)
    assert is_missing(word, (word,)) is False


@pytest.mark.parametrize("word", ["AD", "0", "-1", "+", "Nadia", "Nan Li", "NAs", "#1", "a?", "no", "1912-05-31", ".."])
def test_values(word: str) -> None:
    assert not is_missing(word)


def test_ids_that_a_spreadsheet_has_broken() -> None:
    ids = pd.Series(
        ["PAR1", "01-Mar", "Mar-01", "1.23E+05", "1,2e+17", "#REF!", "nan", "", "12E-3", "MAR-01"], dtype=str
    )
    found = broken_ids(ids.drop(9))
    assert sorted(found) == [1, 2, 3, 4, 5, 6]
    assert found[1].startswith("is a date, and other ids are not")
    assert found[3].startswith("is a number that a spreadsheet has shortened")
    assert found[5] == found[6] == "stands for no value; write the id, or leave the row out"
    assert 2 not in broken_ids(ids)  # MAR-01 has its shape


@pytest.mark.parametrize(
    "ids", [["Mar-01", "Mar-02"], ["Mar-01", "Par-01"], ["MAR-01", "X1"], ["1912-05-31", "Hopper"], []]
)
def test_ids_that_look_like_dates_and_are_none(ids: list[str]) -> None:
    assert broken_ids(pd.Series(ids, dtype=str)) == {}
