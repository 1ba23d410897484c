"""Options that are settings of the library: their defaults and types are those of its dataclass.

A command lists the fields that it offers, with what ``--help`` says of each; :meth:`Settings.of`
makes the record again from what was given. So a default stands in one place, and an option that
its dataclass does not know cannot be offered.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal, get_type_hints

from jsonargparse import Namespace

from memdiff.cli.parser import Parser

__all__ = ["Option", "Settings"]


@dataclass(frozen=True)
class Option:
    """How a field is offered.

    Attributes:
        help: What it is, for a user.
        name: Name of the option, or empty for that of the field.
        also: Further names, with their dashes.
        metavar: What stands for its value in the usage, or None.
        choices: What it may be, or empty for all of its type.
        many: Whether it takes one or several texts, for a field that is a tuple.
    """

    help: str
    name: str = ""
    also: Sequence[str] = ()
    metavar: str | None = None
    choices: Sequence[str] = ()
    many: bool = False


class Settings:
    """The options of a command that are fields of one dataclass.

    Args:
        place: The dataclass, as ``"memdiff.generate.settings:GenerationSettings"``; its module
            must not import torch.
        options: How each field is offered; the fields that are left out keep their defaults.
    """

    def __init__(self, place: str, options: Mapping[str, Option]) -> None:
        module, _, name = place.partition(":")
        self.record = getattr(importlib.import_module(module), name)
        self.options = options

    def declare(self, parser: Parser) -> None:
        """Add the options to a parser.

        Raises:
            KeyError: If the dataclass has no such field.
        """
        types = get_type_hints(self.record)
        known = {field.name: field for field in fields(self.record)}
        for field_name, option in self.options.items():
            field = known[field_name]
            default: Any = field.default
            if field.default_factory is not MISSING:
                default = field.default_factory()
            flags = (self._flag(field_name), *option.also)
            kind = Literal[tuple(option.choices)] if option.choices else types[field_name]
            if kind is bool:
                parser.add_argument(*flags, action="store_true", help=option.help)
                continue
            more: dict[str, Any] = {} if option.metavar is None else {"metavar": option.metavar}
            if option.many:
                kind, default, more["nargs"] = str, list(default), "+"
            parser.add_argument(*flags, type=kind, default=default, help=option.help, **more)

    def of(self, given: Namespace, **others: Any) -> Any:  # noqa: ANN401
        """The record that was asked for.

        Args:
            given: The parsed options.
            **others: Values of fields that are no options, or were worked out.
        """
        values = {name: given[self._key(name)] for name in self.options}
        return self.record(**{**values, **others})

    def _flag(self, field: str) -> str:
        return "--" + (self.options[field].name or field).replace("_", "-")

    def _key(self, field: str) -> str:
        return (self.options[field].name or field).replace("-", "_")
