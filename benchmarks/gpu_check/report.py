"""The rows of a check: results that are right or wrong, and figures that are neither."""

import json
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NOT_MEASURED = "not measured"


class Report:
    """Collects rows, prints each at once, and writes all of them after every part.

    Args:
        facts: of the machine and the command, for the file.
        path: JSON file; None writes none.
    """

    def __init__(self, facts: Mapping[str, Any], path: Path | None) -> None:
        self.facts, self.path = facts, path
        self.rows: list[dict[str, Any]] = []

    def check(self, name: str, value: float, *, least: float | None = None, most: float | None = None) -> None:
        """Add a result that is wrong below `least` or above `most`; NaN always is."""
        passed = (least is None or value >= least) and (most is None or value <= most) and value == value
        tolerance = f">= {least:g}" if least is not None else f"<= {most:g}"
        self._add(kind="check", name=name, value=value, tolerance=tolerance, passed=passed)

    def figure(self, name: str, value: float | str, unit: str = "") -> None:
        """Add a figure, such as a speed; it cannot be wrong."""
        self._add(kind="figure", name=name, value=value, unit=unit)

    def not_measured(self, name: str, why: str) -> None:
        """Add a figure or check that this machine, or this form of the check, cannot give."""
        self._add(kind="figure", name=name, value=NOT_MEASURED, unit=why)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Run a part; one that raises is a wrong result, and the next part still runs."""
        started = time.perf_counter()
        try:
            yield
        except Exception as error:  # noqa: BLE001 - what else is wrong on this machine is to be seen in the same hour
            traceback.print_exc()
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            self._add(kind="check", name=f"{name}: runs to its end", value=reason, tolerance="no error", passed=False)
        self.figure(f"{name}: took", time.perf_counter() - started, "s")
        self.write()

    @property
    def wrong(self) -> list[str]:
        """Names of the checks that failed."""
        return [row["name"] for row in self.rows if row.get("passed") is False]

    def write(self) -> None:
        """Write facts and rows as JSON."""
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            content = {**self.facts, "wrong": self.wrong, "rows": self.rows}
            self.path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")

    def table(self) -> str:
        """Return all rows as text, failed checks last."""
        return "\n".join(_line(row) for row in sorted(self.rows, key=lambda row: row.get("passed") is False))

    def _add(self, **row: Any) -> None:
        self.rows.append(row)
        print(_line(row), flush=True)


def _line(row: Mapping[str, Any]) -> str:
    value = f"{row['value']:.5g}" if isinstance(row["value"], float) else str(row["value"])
    if row["kind"] == "figure":
        return f"      {row['name']:70s} {value} {row['unit']}".rstrip()
    return f"{'ok' if row['passed'] else 'WRONG':5s} {row['name']:70s} {value} ({row['tolerance']})"
