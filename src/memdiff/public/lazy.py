"""Public names that are imported when they are first used.

A package whose names come from modules that need torch costs nothing until one of them is asked
for: ``memdiff --help`` answers without torch. Its names are those that it imports for type
checkers, so that they are written once:

.. code-block:: python

    if TYPE_CHECKING:
        from memdiff.audit.advice import Advice

    __getattr__, __dir__ = lazily(__name__)
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["lazily"]


def lazily(
    package: str, modules: Sequence[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package (PEP 562).

    Args:
        package: Full name of the package, which is being imported.
        modules: Names of submodules that are attributes of the package without being imported.

    Returns:
        The two functions; the first imports what is asked for and keeps it, the second lists the
        public names, those of the submodules among them.
    """
    homes = _imported_for_types(package)

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
        return sorted({*vars(sys.modules[package]).get("__all__", homes), *modules})

    return find, listed


def _imported_for_types(package: str) -> dict[str, str]:
    """The module of each name that a package imports under ``TYPE_CHECKING``."""
    spec = sys.modules[package].__spec__
    source = spec.loader.get_source(package)  # type: ignore[union-attr]
    return {
        alias.name: node.module
        for block in ast.parse(source).body
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module is not None
        for alias in node.names
    }
