"""Where a result comes from."""

import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy
import pytest
import torch

from memdiff.run import provenance as module


def test_provenance_is_json_and_true():
    origin = module.provenance(seed=3, command="memdiff reproduce")
    assert json.loads(json.dumps(origin)) == origin
    assert origin["versions"]["torch"] == torch.__version__
    assert origin["versions"]["numpy"] == numpy.__version__
    assert (origin["seed"], origin["command"]) == (3, "memdiff reproduce")
    assert origin["threads"] == torch.get_num_threads()
    assert origin["processes"] == 1
    age = datetime.now(UTC) - datetime.fromisoformat(origin["date"])
    assert timedelta(0) <= age < timedelta(minutes=1)


def test_commit_is_that_of_the_checkout():
    root = Path(__file__).resolve().parents[2]
    commit = module.git_commit()
    head = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    assert commit is not None and commit.removesuffix("+changes") == head.stdout.strip()


def test_fingerprint_follows_names_and_contents(tmp_path, monkeypatch):
    package = tmp_path / "memdiff"
    package.mkdir(parents=True)
    monkeypatch.setattr(module, "__file__", str(package / "run" / "provenance.py"))
    seen = set()
    for name, content in (
        ("a.py", "x = 1"),
        ("a.py", "x = 2"),
        ("b.py", "x = 2"),
        ("c.json", "1"),
    ):
        (package / name).write_text(content)
        seen.add(module.package_fingerprint.__wrapped__())
    (package / "note.txt").write_text("not code")
    assert module.package_fingerprint.__wrapped__() in seen and len(seen) == 4


@pytest.mark.parametrize("program", ["/a/b/memdiff/__main__.py", "/usr/bin/memdiff"])
def test_a_command_is_named_as_its_user_does(monkeypatch, program):
    monkeypatch.setattr("sys.argv", [program, "audit", "--out", "a b"])
    assert module.command_line() == "memdiff audit --out 'a b'"
    assert module.provenance(seed=0)["command"] == module.command_line()
