"""Demo cohorts with known truth. Every module here is a generator, unless its name begins with an underscore."""

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from demo.generator import Generator

PROTOCOL = "generator"  # the one other module, which defines generators


def generator_names() -> list[str]:
    """Return the names of the demo cohorts, which are those of their modules; nothing is imported."""
    files = [module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg]
    return sorted(name for name in files if name != PROTOCOL and not name.startswith("_"))


def load_generator(name: str) -> "Generator[Any]":
    """Import the module of a demo cohort and return its `GENERATOR`."""
    generator: Generator[Any] = importlib.import_module(f"demo.{name}").GENERATOR
    return generator
