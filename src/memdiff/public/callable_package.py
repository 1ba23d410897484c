"""A package that is called like its function: ``memdiff.audit(...)``, ``memdiff.audit.decide``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

__all__ = ["call_by"]


def call_by(package: str, function: str) -> None:
    """Make an imported package callable; it stays a package.

    Args:
        package: Its full name.
        function: The name in it of what a call of it calls, found at the first call. Its
            signature and documentation are those of the call.
    """

    class CallablePackage(ModuleType):
        def __call__(self, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401
            return self.__wrapped__(*arguments, **named)

        @property
        def __wrapped__(self) -> Callable[..., Any]:
            found: Callable[..., Any] = getattr(self, function)
            return found

    sys.modules[package].__class__ = CallablePackage
