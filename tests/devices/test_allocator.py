"""Freed memory stays within the process, if somebody wants it."""

import os
import subprocess
import sys

import pytest

from devices.allocator import _glibc

SCRIPT = """
import resource, sys
from devices.allocator import prepare_allocator, release_freed_memory

def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 1e6

kept, before = prepare_allocator(keep="asked" in sys.argv), resident_mb()
b"x" * 100_000_000
held = resident_mb() - before
release_freed_memory()
print(kept, held, resident_mb() - before)
"""


def measured(*words: str, **environment: str) -> tuple[bool, float, float]:
    """Whether freed memory is kept, and MB still held after 100 were freed, and after their release."""
    variables = {name: value for name, value in os.environ.items() if name != "KEEP_FREED_MEMORY"}
    said = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words], env=variables | environment, capture_output=True, text=True, check=True
    ).stdout.split()
    return said[0] == "True", float(said[1]), float(said[2])


needs_glibc = pytest.mark.skipif(_glibc() is None, reason="only glibc's allocator is set")


@needs_glibc
@pytest.mark.parametrize(("words", "variables"), [((), {"KEEP_FREED_MEMORY": "1"}), (("asked",), {})])
def test_freed_memory_is_kept_until_it_is_released(words: tuple[str, ...], variables: dict[str, str]) -> None:
    kept, held, released = measured(*words, **variables)
    assert kept
    assert held > 90
    assert released < 10


@needs_glibc
@pytest.mark.parametrize(("words", "variables"), [((), {}), (("asked",), {"KEEP_FREED_MEMORY": "0"})])
def test_otherwise_it_goes_back_at_once(words: tuple[str, ...], variables: dict[str, str]) -> None:
    kept, held, _ = measured(*words, **variables)
    assert not kept
    assert held < 10
