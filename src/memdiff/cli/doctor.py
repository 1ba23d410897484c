"""``memdiff doctor``."""

from __future__ import annotations

import json

from jsonargparse import Namespace

from memdiff.cli.parser import Parser

__all__ = ["add_arguments", "run"]


def add_arguments(parser: Parser) -> None:
    """Declare no options."""


def run(options: Namespace) -> int:
    """Run the command; returns its exit code."""
    from memdiff.doctor import examine

    found = examine()
    if options.json:
        print(json.dumps(found, indent=1))
        return 0
    print("versions  " + ", ".join(f"{name} {v}" for name, v in found["versions"].items()))
    print(f"machine   {found['platform']}")
    print(
        f"cpu       {found['cpu']}, {found['cores']} cores, {found['threads']} threads in use, "
        f"{found['memory_gib']} GiB"
    )
    print(f"devices   {', '.join(found['devices'])}")
    for name, extra in found["extras"].items():
        state = "installed" if extra["installed"] else f"missing: {extra['install']}"
        print(f"extra     {name}: {extra['for']} - {state}")
    print(f"weights   {found['weights']}")
    return 0
