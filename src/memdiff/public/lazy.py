"""Public names that are imported when they are first used.

A package whose names come from modules that need torch costs nothing until one of them is asked
for: ``memdiff --help`` answers without torch.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["lazily"]


def lazily(
    package: str, names: Mapping[str, Sequence[str]], modules: Sequence[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package (PEP 562).

    Args:
        package: Full name of the package.
        names: Public names by the module that defines them.
        modules: Names of submodules that are attributes of the package without being imported.

    Returns:
        The two functions; the first imports what is asked for and keeps it, the second lists the
        public names, those of the submodules among them.
    """
    homes = {name: module for module, held in names.items() for name in held}

    def find(name: str) -> Any:  # noqa: ANN401
        if name in homes:
            found = getattr(importlib.import_module(homes[name]), name)
        elif name in modules:
            found = importlib.import_module(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, found)
        return found

    def listed() -> list[str]:
        return sorted({*homes, *modules})

    return find, listed
