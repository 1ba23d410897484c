"""One process at a time, and the name of it for the others."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace

import pytest

from memdiff.run import lock
from memdiff.run.lock import Holder, locked

HOLD = """
import sys, time
from memdiff.run.lock import locked
with locked(sys.argv[1], "out"):
    print("held", flush=True)
    time.sleep(100)
"""


def hold(path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_second_process_says_who_holds_it(tmp_path):
    path = tmp_path / "run" / "lock"
    process = hold(path)
    try:
        with pytest.raises(ValueError) as refused, locked(path, tmp_path / "run"):
            pass
        said = str(refused.value)
        assert f"run' is being written by process {process.pid} on " in said
        assert "started 20" in said and "wait for it to end" in said
        assert path.is_file()
    finally:
        process.kill()
        process.wait()


def test_a_holder_on_another_machine_is_known_by_the_lock_alone(tmp_path):
    """Its number says nothing here."""
    path = tmp_path / "lock"
    process = hold(path)
    try:
        elsewhere = {**json.loads(path.read_text()), "host": "elsewhere"}
        path.write_text(json.dumps(elsewhere))
        with pytest.raises(ValueError, match="on elsewhere, started"), locked(path, "out"):
            pass
    finally:
        process.kill()
        process.wait()


def test_a_killed_holder_is_known_and_not_in_the_way(tmp_path):
    path = tmp_path / "lock"
    process = hold(path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert path.is_file()
    with locked(path, "out") as earlier:
        assert earlier is not None and earlier.pid == process.pid
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert not path.exists()
    with locked(path, "out") as earlier:
        assert earlier is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}', "\x00" * 40])
def test_a_damaged_lock_of_nobody_is_taken(tmp_path, content):
    path = tmp_path / "lock"
    path.write_text(content)
    with locked(path, "out") as earlier:
        assert earlier is None


def test_where_the_system_has_no_locks_the_identity_decides(tmp_path, monkeypatch):
    """A number that the system has given to another process is not the holder."""
    monkeypatch.setattr(lock, "_flock", lambda handle: True)
    path = tmp_path / "lock"
    parent = replace(Holder.this(), pid=os.getppid(), started=lock._started(os.getppid()))
    path.write_text(json.dumps(asdict(parent)))
    with pytest.raises(ValueError, match=f"process {os.getppid()} on"), locked(path, "out"):
        pass
    for stale in (
        replace(parent, started="2001-01-01T00:00:00.000+00:00"),
        replace(parent, pid=2**22 + 1),
    ):
        path.write_text(json.dumps(asdict(stale)))
        with locked(path, "out") as earlier:
            assert earlier == stale


def test_nothing_is_left_of_folders_that_were_made_for_it(tmp_path):
    with pytest.raises(RuntimeError), locked(tmp_path / "a" / "b" / "lock", "out"):
        raise RuntimeError
    assert not any(tmp_path.iterdir())
    with locked(tmp_path / "a" / "b" / "lock", "out"):
        (tmp_path / "a" / "kept").write_text("x")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["kept"]
