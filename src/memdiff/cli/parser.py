"""The parser: bad usage is one line."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from memdiff.cli.terminal import shown

__all__ = ["Parser", "config_file"]


class Parser(ArgumentParser):
    """Bad usage is one line on standard error and exit code 2; options are written in full.

    Attributes:
        needed: Destinations of options that the help shows as required, although the command has
            a use without them.
        commands: Parsers of the commands by name.
        given: The arguments, for messages that do not say which of them is wrong.
    """

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(**{"allow_abbrev": False, **settings})
        self.needed: set[str] = set()
        self.commands: dict[str, Parser] = {}
        self.given: Sequence[str] = ()

    def required_group(self, title: str = "required") -> Any:  # noqa: ANN401
        """A group of options that the help shows before all others."""
        group = self.add_argument_group(title)
        self._action_groups = [group, *(one for one in self._action_groups if one is not group)]
        return group

    def format_usage(self) -> str:
        """The usage line."""
        with self._needed_is_required():
            return super().format_usage()

    def format_help(self, *settings: Any) -> str:  # noqa: ANN401
        """The help."""
        with self._needed_is_required():
            return super().format_help(*settings)

    @contextmanager
    def _needed_is_required(self) -> Iterator[None]:
        shown = [action for action in self._actions if action.dest in self.needed]
        for action in shown:
            action.required = True
        try:
            yield
        finally:
            for action in shown:
                action.required = False

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message in one line and exit."""
        command = re.search(r"(?:required: |key \")(\w+)\.", " ".join(message.split()))
        whose = self.commands.get(command[1], self) if command else self
        program = whose.prog
        message = self._with_file(message)
        sentence = f"{_usage_sentence(message)}{self._suggestion(message)}"
        print(shown(f"{program}: {sentence} (see {program} --help)"), file=sys.stderr)
        raise SystemExit(2)

    def _with_file(self, message: str) -> str:
        """Name the file of options that cannot be read."""
        file = config_file(self.given)
        if file is None:
            return message
        if "Unexpected config" in message:
            return f"option file {file!r} holds no options: expected lines such as 'seed: 1'"
        if "Problems parsing config" not in message:
            return message
        detail = " ".join(message.partition(":")[2].split()).replace('in "<unicode string>", ', "")
        return f"option file {file!r} is no YAML: {detail}"

    def _suggestion(self, message: str) -> str:
        """The options that an unknown one abbreviates."""
        unknown = re.search(r"[Uu]nrecognized arguments: (--[\w-]+)", message)
        if unknown is None:
            return ""
        parsers = (self, *self.commands.values())
        offered = {name for parser in parsers for name in parser._option_string_actions}
        meant = sorted(name for name in offered if name.startswith(unknown[1]))
        return f": options are written in full, {' or '.join(meant[:3])}" if meant else ""


def config_file(given: Sequence[str]) -> str | None:
    """The last file of options among arguments, or None."""
    files = [
        after if option == "--config" else option.partition("=")[2]
        for option, after in zip(given, (*given[1:], ""), strict=True)
        if option == "--config" or option.startswith("--config=")
    ]
    return files[-1] if files else None


def _usage_sentence(message: str) -> str:
    """The parser's message in one line, with options as the user writes them."""
    text = " ".join(message.split())
    if "--print_completion: invalid choice: 'shtab" in text:
        return "completion in the shell needs shtab: pip install shtab"
    required = re.fullmatch(r"the following arguments are required: (.+)", text)
    if required:
        names = [f"--{name.split('.')[-1].replace('_', '-')}" for name in required[1].split(", ")]
        return f"missing {' and '.join(names)}"
    value = re.fullmatch(r'Parser key "([\w.]+)": Expected a (.+?)\. Got value: ?(.*)', text)
    if value:
        name, expected, got = value.groups()
        choices = re.findall(r"'([^']*)'", expected)
        kind = (
            " or ".join(choices) if "Literal" in expected else choices[0] if choices else expected
        )
        return (
            f"--{name.split('.')[-1].replace('_', '-')}: expected {kind}, got {got or 'nothing'}"
        )
    union = re.fullmatch(r'Parser key "([\w.]+)": Does not validate .* Given value: ?(.*)', text)
    if union:
        kinds = re.findall(r"<class '(\w+)'>", text.split("Errors:")[0])
        literals = re.search(r"Literal\[([^\]]*)\]", text.split("Errors:")[0])
        if literals:
            kinds = re.findall(r"'([^']*)'", literals[1])
        expected = " or ".join("nothing" if kind == "NoneType" else kind for kind in kinds)
        return (
            f"--{union[1].split('.')[-1].replace('_', '-')}: expected {expected}, got "
            f"{union[2] or repr('')}"
        )
    return text.replace("Parser key", "option")
