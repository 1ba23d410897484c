"""A package that is called like its function: ``memdiff.audit(...)``, ``memdiff.audit.decide``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

__all__ = ["call_by"]


def call_by(package: str, function: Callable[..., Any]) -> None:
    """Make an imported package callable; it stays a package.

    Args:
        package: Its full name.
        function: What a call of it calls. Its signature and documentation are those of the call.
    """

    class CallablePackage(ModuleType):
        def __call__(self, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401
            return function(*arguments, **named)

        @property
        def __wrapped__(self) -> Callable[..., Any]:
            return function

    CallablePackage.__call__.__doc__ = function.__doc__
    sys.modules[package].__class__ = CallablePackage
