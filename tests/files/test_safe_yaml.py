"""YAML that would take all memory, or say two things at once, is refused; the rest is read as PyYAML reads it."""

import random
from pathlib import Path

import pytest
import yaml

from files import safe_yaml as module
from files.reading import DEEPEST, UnusableFileError
from files.safe_yaml import MOST_ALIASES, MOST_NODES, MOST_YAML, safe_yaml

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yaml"))
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_are_read_as_pyyaml_reads_them(path: Path) -> None:
    text = path.read_text("utf-8")
    assert safe_yaml(text) == yaml.safe_load(text)


@pytest.mark.parametrize(
    "text",
    ["", "1_000", "1e-4", "1.0e-4", "off", "2020-01-02", "{a: 1, 'b': [x, ~]}", "a: &x {b: 1}\nc: *x",
     "a: &x {b: 1, c: 2}\nd: {<<: *x, b: 3}\ne: {<<: *x, c: 4}", "a: 1\n'1': 2\n1: 3"],
)  # fmt: skip
def test_small_texts_are_read_as_pyyaml_reads_them(text: str) -> None:
    assert safe_yaml(text) == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "values once its aliases are written out|aliases"),
        ("a: &a {x: 1}\n" + "".join(f"b{i}: *a\n" for i in range(MOST_ALIASES + 1)), f"{MOST_ALIASES} aliases"),
        ("[" * 5000 + "]" * 5000, f"{DEEPEST} levels"),
        ("".join(" " * i + "a:\n" for i in range(DEEPEST + 1)), f"{DEEPEST} levels"),
        ("[" + "1," * MOST_NODES + "1]", "more than 100,000 values"),
        ("#" * (MOST_YAML + 1), "at most 1,000,000 are read"),
        ("a: 1\nb: 2\na: 3", "line 3: 'a' is there already, in line 1"),
        ("x: {PET: 0.5, PET: 0.3}", "line 1: 'PET' is there already"),
        ("x:\n  - {a: 1,\n     'a': 2}", "line 3: 'a' is there already, in line 2"),
        ("a: &a [*a]", r"line 1: \*a lies inside of what it repeats"),
    ],
    ids=lambda value: value[:20],
)
def test_what_floods_or_contradicts_itself_is_refused(text: str, message: str) -> None:
    with pytest.raises(UnusableFileError, match=message):
        safe_yaml(text)


def test_a_bomb_of_few_aliases_is_refused_before_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.yaml, "load", None)  # would be called to build it
    wide = "a: &a [" + "x," * 3000 + "x]\n" + "b: [" + "*a," * 40 + "*a]\n"
    with pytest.raises(UnusableFileError, match="100,000 values once its aliases are written out"):
        safe_yaml(wide)


@pytest.mark.parametrize(
    "text", ["2020-13-45", "!!int foo", "!!bool x", "!!timestamp x", "0b_", "a: [", "\0", "9" * 5000]
)
def test_values_that_are_none_of_their_kind_are_yaml_errors(text: str) -> None:
    """PyYAML's own conversions raise whatever they like."""
    with pytest.raises(yaml.YAMLError):
        safe_yaml(text)


def test_random_texts_end_in_a_value_or_in_one_of_two_errors() -> None:
    draw = random.Random(9)
    pieces = ["a", "&a ", "*a", "[", "]", "{", "}", ": ", ",", "\n", "- ", "!!int ", "<<: ", "'", '"', "|", "1", "\t"]
    for _ in range(400):
        text = "".join(draw.choices(pieces, k=draw.randrange(1, 30)))
        try:
            safe_yaml(text)
        except (yaml.YAMLError, UnusableFileError):
            continue
