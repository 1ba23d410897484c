"""The plan of the house: which room may import from which, held against the imports."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "memdiff"
THEORY = {"processes", "scores", "objectives", "samplers", "dynamics", "generate"}
EVIDENCE = {"data", "features", "report", "metrics", "audit"}


def planned():
    """The table of the README: room -> rooms that it may import from."""
    text = (ROOT / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)/` \|[^|]+\|([^|]*)\|$", text, re.MULTILINE)
    table = {room: set(re.findall(r"`(\w+)`", uses)) for room, uses in rows}
    for room, (_, uses) in zip(table, rows, strict=True):
        if uses.strip() == "everything":
            table[room] = set(table) - {room}
    return table


def modules():
    """Every module of the package: dotted name -> syntax tree."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = ("memdiff", *path.relative_to(SOURCE).with_suffix("").parts)
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text("utf-8"))
    return found


def imports(tree, known):
    """Modules of memdiff that a module imports, anywhere in it: lazily and for types too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            for alias in node.names if (node.module or "").split(".")[0] == "memdiff" else ():
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in known else node.module


@pytest.fixture(scope="module")
def edges():
    known = modules()
    return {
        name: {target for target in imports(tree, known) if target != name}
        for name, tree in known.items()
    }


def room(module):
    return module.split(".")[1] if "." in module else ""


def circles(graph):
    """Strongly connected components of more than one node (Tarjan)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in graph.get(node, ()):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            component = []
            while not component or component[-1] != node:
                component.append(stack.pop())
            if len(component) > 1:
                found.append(sorted(component))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def test_every_room_is_in_the_table_and_every_import_is_allowed(edges):
    table = planned()
    rooms = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert set(table) == rooms
    assert {path.name for path in SOURCE.glob("*.py")} == {"__init__.py", "__main__.py"}
    crossed = sorted(
        f"{name} imports {target}"
        for name, targets in edges.items()
        for target in targets
        if room(name) not in ("", "__main__", room(target))
        and room(target) not in table[room(name)]
    )
    assert not crossed


def test_no_library_code_imports_the_front_door(edges):
    """``memdiff`` itself re-exports all rooms: who imports it closes a circle."""
    assert not [name for name, targets in edges.items() if "memdiff" in targets]


def test_the_towers_know_nothing_of_each_other():
    table = planned()
    assert set(table) > THEORY | EVIDENCE
    for one in THEORY - {"generate"}:
        assert not table[one] & EVIDENCE, one
    assert table["generate"] & EVIDENCE == {"data"}
    for one in EVIDENCE:
        assert not table[one] & THEORY, one


def test_there_are_no_circles(edges):
    """Between rooms as planned, and between modules as imported."""
    assert not circles(planned())
    inside = {
        name: {target for target in targets if target != "memdiff"}
        for name, targets in edges.items()
    }
    assert not circles(inside)


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
