"""The parser: bad usage is one line."""

from __future__ import annotations

import re
import sys
from typing import NoReturn

from jsonargparse import ArgumentParser

__all__ = ["Parser"]


class Parser(ArgumentParser):
    """Bad usage is one line on standard error and exit code 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message in one line and exit."""
        program = self.prog.replace(" [options]", "")
        print(f"{program}: {_usage_sentence(message)} (see {program} --help)", file=sys.stderr)
        raise SystemExit(2)


def _usage_sentence(message: str) -> str:
    """The parser's message in one line, with options as the user writes them."""
    text = " ".join(message.split())
    required = re.fullmatch(r"the following arguments are required: (.+)", text)
    if required:
        names = [f"--{name.split('.')[-1].replace('_', '-')}" for name in required[1].split(", ")]
        return f"missing {' and '.join(names)}"
    value = re.fullmatch(r'Parser key "([\w.]+)": Expected a (.+?)\. Got value: (.*)', text)
    if value:
        name, expected, got = value.groups()
        choices = re.findall(r"'([^']*)'", expected)
        kind = (
            " or ".join(choices) if "Literal" in expected else choices[0] if choices else expected
        )
        return f"--{name.split('.')[-1].replace('_', '-')}: expected {kind}, got {got}"
    union = re.fullmatch(r'Parser key "([\w.]+)": Does not validate .* Given value: (.*)', text)
    if union:
        kinds = re.findall(r"<class '(\w+)'>", text.split("Errors:")[0])
        expected = " or ".join("nothing" if kind == "NoneType" else kind for kind in kinds)
        return (
            f"--{union[1].split('.')[-1].replace('_', '-')}: expected {expected}, got {union[2]}"
        )
    return text.replace("Parser key", "option")
