"""What a terminal would obey is shown instead; all else stays."""

import sys
import unicodedata

import pytest

from files.printable import printable, printable_lines


def test_nothing_that_steers_or_hides_is_left() -> None:
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    left = set(printable(everything))
    assert not [c for c in left if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]


@pytest.mark.parametrize("text", ["", "plain", "é ü 漢字 Ж עברית عربي", "½ → … ×", "a\u3000b\xa0c", "\N{BRAIN}"])
def test_letters_of_all_scripts_stay(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
        ("a\rb\nc\td\x7f\x9b2J", r"a\rb\nc\td\x7f\x9b2J"),
        ("gnp.\u202escan", r"gnp.\u202escan"),
        ("a\u2066b\u200bc\ufeff", r"a\u2066b\u200bc\ufeff"),
        ("a\u2028b", r"a\u2028b"),
        (b"\xff.nii".decode("utf-8", "surrogateescape"), r"\udcff.nii"),
    ],
)
def test_the_rest_is_shown_as_escapes(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_lines_of_data_cannot_pass_for_lines_of_ours() -> None:
    assert printable_lines("first\nreport: /x\r\n\x1b[2J") == "first\n  report: /x\\r\n  \\x1b[2J"
