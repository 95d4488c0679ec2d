"""Read untrusted YAML with limits of size, depth and aliases that config files need."""

from typing import Any

import yaml

from files.reading import DEEPEST, UnusableFileError

MOST_YAML = 1_000_000  # bytes
MOST_ALIASES = 100
MOST_NODES = 100_000  # values, each as often as aliases repeat it


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, in which a duplicate key of a mapping is an error."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                line, name = key.start_mark.line + 1, (key.tag, key.value)
                if name in lines:
                    raise UnusableFileError(f"line {line}: {key.value!r} is there already, in line {lines[name]}")
                lines[name] = line
        return node


def safe_yaml(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        yaml.YAMLError: it is no YAML, or a value of it is none of its kind, such as a 13th month.
        UnusableFileError: it is larger, deeper or more often repeated than the limits above, or a key stands twice.
    """
    if (size := len(text.encode("utf-8", "surrogatepass"))) > MOST_YAML:
        raise UnusableFileError(f"the YAML has {size:,} bytes; at most {MOST_YAML:,} are read")
    _check_size(text)
    try:
        return yaml.load(text, _Loader)  # a child of SafeLoader
    except UnusableFileError:
        raise
    except (ValueError, LookupError, AttributeError, TypeError, OverflowError) as error:  # of PyYAML's own conversions
        raise yaml.YAMLError(f"a value is none of its kind: {error}") from error


def _check_size(text: str) -> None:
    """Count levels, aliases and values in one pass over the text, before objects are built.

    Raises:
        yaml.YAMLError: it is no YAML.
        UnusableFileError: one of them is beyond its limit.
    """
    open_ones: list[list[Any]] = []  # anchor and number of values of each mapping and list that has not ended
    size_of: dict[str | None, int] = {}
    aliases = whole = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        added = 0
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_ones):
                raise UnusableFileError(f"line {line}: *{event.anchor} lies inside of what it repeats")
            aliases, added = aliases + 1, size_of.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            added = 1
            if event.anchor:
                size_of[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_ones.append([event.anchor, 1])
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, added = open_ones.pop()
            if anchor:
                size_of[anchor] = added
        if open_ones:
            open_ones[-1][1] += added
        whole = max(whole, added, open_ones[-1][1] if open_ones else 0)
        for number, most, what in (
            (aliases, MOST_ALIASES, "aliases"),
            (whole, MOST_NODES, "values once its aliases are written out"),
            (len(open_ones), DEEPEST, "levels"),
        ):
            if number > most:
                raise UnusableFileError(f"line {line}: the YAML has more than {most:,} {what}")
