"""Processes that torchrun starts: one voice, the results of one process, and one end."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from memdiff.audit import audit
from memdiff.data import from_array
from memdiff.experiments import reproduce
from memdiff.generate import GenerationSettings, generate
from memdiff.run.ranks import RankError, Ranks, joined, launched

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
PLAIN = {
    name: value
    for name, value in os.environ.items()
    if name not in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
}


def start(command, cwd, timeout=60, **environment):
    return subprocess.Popen(
        command,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a stopped process goes on when the shell of its group ends
        env={**PLAIN, "OMP_NUM_THREADS": "1", "MEMDIFF_RANK_TIMEOUT": str(timeout), **environment},
    )


def torchrun(cwd, *arguments, **environment):
    process = start([*TORCHRUN, "-m", "memdiff", *arguments], cwd, **environment)
    out, err = process.communicate(timeout=180)
    return process.returncode, out, err


def said(err):
    """What memdiff printed among the reports of the launcher."""
    lines = err.splitlines()
    return [line for line in lines if line.startswith("memdiff") and line != "memdiff FAILED"]


def normal(num, dim=4, seed=0):
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed))


def test_a_process_alone_is_the_first_of_one():
    assert not launched({}) and not launched({"RANK": "0", "WORLD_SIZE": "2"})
    whole = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    assert launched(whole) and not launched({**whole, "WORLD_SIZE": "1"})
    ranks = joined()
    assert (ranks.rank, ranks.count, ranks.is_first) == (0, 1, True)
    assert ranks.texts("a") == ["a"] and list(ranks.take(3, "q")) == [0, 1, 2]
    with pytest.raises(ValueError, match="rank must lie in 0"):
        Ranks(2, 2)


@pytest.mark.parametrize(("total", "count"), [(10, 3), (2, 5), (0, 2), (7, 7), (100, 6)])
def test_parts_are_the_whole_in_order_and_equally_long(total, count):
    parts = [Ranks(rank, count).part(total) for rank in range(count)]
    assert [i for part in parts for i in part] == list(range(total))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_messages_between_ranks(in_ranks):
    def run(ranks):
        rows = torch.full((ranks.rank, 2), float(ranks.rank))
        return (
            ranks.concatenate(rows).tolist(),
            ranks.texts("é" * ranks.rank),
            float(ranks.sum(torch.tensor(1.0 + ranks.rank))),
        )

    for rows, texts, total in in_ranks(3, run):
        assert rows == [[1.0, 1.0], [2.0, 2.0], [2.0, 2.0]]
        assert texts == ["", "é", "éé"] and total == 6.0


def test_one_fate(in_ranks):
    def run(ranks):
        with ranks.one_fate():
            if ranks.rank == 1:
                raise FileNotFoundError("no such file")

    def caught(ranks):
        with pytest.raises((ValueError, OSError)) as error:
            run(ranks)
        return error.type, str(error.value)

    own, other = in_ranks(2, caught)[1], in_ranks(2, caught)[0]
    assert own == (FileNotFoundError, "no such file")
    assert other == (ValueError, "no such file (process 1)")


@pytest.mark.slow
def test_sample_draws_what_one_process_draws_and_says_it_once(tmp_path):
    np.save(tmp_path / "x.npy", normal(60).numpy())
    chosen = {"regularizer": "tikhonov", "num": 11, "batch_size": 6, "steps": 8, "seed": 2}
    options = "--regularizer tikhonov --num-samples 11 --batch-size 6 --steps 8 --seed 2 --json"
    code, out, err = torchrun(
        tmp_path, "sample", "--train", "x.npy", "--out", "y.npz", *options.split()
    )
    assert code == 0, err
    found = json.loads(out)  # one document
    alone = generate(from_array(normal(60).numpy()), GenerationSettings(**chosen))
    assert found["strength"] == pytest.approx(alone.resolved["strength"], rel=1e-9)
    torch.testing.assert_close(torch.from_numpy(np.load(tmp_path / "y.npz")["x"]), alone.x)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.npy", "y.json", "y.npz"]


@pytest.mark.slow
def test_audit_says_what_one_process_says(tmp_path):
    sets = {"generated": normal(41, 8, 3), "train": normal(80, 8, 1), "heldout": normal(70, 8, 2)}
    sets["generated"][:9] = sets["train"][:9]
    for name, x in sets.items():
        np.save(tmp_path / f"{name}.npy", x.numpy())
    options = [part for name in sets for part in (f"--{name}", f"{name}.npy")]
    code, out, err = torchrun(
        tmp_path, "audit", *options, "--out", "found", "--json", "--fail-above", "0.01"
    )
    alone = audit(**sets).to_dict()
    found = json.loads((tmp_path / "found" / "report.json").read_text())
    assert json.loads(out)["verdict"] == "memorizing"
    for key in ("verdict", "decision", "pairs", "descriptors"):
        if key in alone:
            wanted = json.loads(json.dumps(alone[key]))
            for one in [*wanted, *found[key]] if key == "pairs" else []:
                for name in [name for name in one if name.endswith("name")]:
                    del one[name]  # files have other names than tensors
            assert found[key] == wanted, key
    assert code != 0 and len(said(err)) == 1 and "gate failed" in said(err)[0]


@pytest.mark.slow
def test_reproduce_measures_what_one_process_measures(tmp_path):
    names = ["structured-points", "rectangles-closed-form"]
    code, out, err = torchrun(tmp_path, "reproduce", "--out", "found", "--json", "--only", *names)
    assert code == 0, err
    found, alone = json.loads(out), reproduce(only=names, out=tmp_path / "alone")
    assert (found["provenance"]["processes"], alone["provenance"]["processes"]) == (2, 1)
    assert found == json.loads((tmp_path / "found" / "results.json").read_text())
    for results in (found, alone):
        assert set(results["experiments"]) == set(names)
        for entry in results["experiments"].values():
            del entry["seconds"]
    assert found["experiments"] == alone["experiments"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["sample", "--train", "absent.npz", "--out", "y.npz"], "absent.npz"),
        (["sample", "--train", "digits", "--out", "y.npz", "--steps", "many"], "--steps"),
    ],
    ids=["input", "usage"],
)
def test_what_is_wrong_is_said_once_and_all_exit_with_2(tmp_path, arguments, sentence):
    code, out, err = torchrun(tmp_path, *arguments)
    assert code != 0 and out == ""
    assert len(said(err)) == 1 and sentence in said(err)[0]
    report = [line.split()[2] for line in err.splitlines() if "exitcode  :" in line]
    assert report == ["2", "2"]


def rank_of(pid):
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next((int(one[5:]) for one in environment if one.startswith(b"RANK=")), None)


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_a_killed_rank_ends_the_other_and_loses_no_finished_batch(tmp_path):
    np.save(tmp_path / "x.npy", normal(60).numpy())
    options = ["--train", "x.npy", "--out", "y.npz", "--num-samples", "40000", "--batch-size", "8"]
    process = start([*TORCHRUN, "-m", "memdiff", "sample", *options], tmp_path)
    kept = tmp_path / "y.partial"
    try:
        wait_for(lambda: kept.is_dir() and any(kept.glob("*-0.npz")))
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        victim = next(int(pid) for pid in children if rank_of(pid) == 1)
        os.kill(victim, signal.SIGKILL)
        begin = time.monotonic()
        _, err = process.communicate(timeout=90)
    finally:
        process.kill()
    assert process.returncode != 0 and time.monotonic() - begin < 60  # the stated time
    assert len(said(err)) == 1 and "the same command goes on" in said(err)[0]
    assert "/" not in said(err)[0]  # no place in somebody's source
    assert "exitcode  : 3" in err
    assert not (tmp_path / "y.npz").exists()
    first = np.load(next(kept.glob("*-0.npz")))["x"]
    settings = GenerationSettings(num=8, batch_size=8, regularizer="none")
    alone = generate(from_array(normal(60).numpy()), settings)
    torch.testing.assert_close(torch.from_numpy(first), alone.x)


WORKER = """
import os, signal, sys, time
from memdiff.cli.together import processes
with processes() as voice:
    print("ready", flush=True)
    if voice.ranks.rank == 1:
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
    if sys.argv[2] == "waits":
        voice.ranks.barrier()
    time.sleep(40)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("how", "does"), [("SIGSTOP", "waits"), ("SIGKILL", "works")])
def test_a_silent_rank_is_found_dead_without_a_launcher(tmp_path, how, does):
    """Nobody tells the other rank: it finds out by itself, waiting or working."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-c", WORKER, how, does]
    both = [start(command, tmp_path, timeout=2, RANK=str(rank), **place) for rank in range(2)]
    try:
        both[0].stdout.readline()
        begin = time.monotonic()
        _, err = both[0].communicate(timeout=30)
        assert time.monotonic() - begin < 15
    finally:
        for process in both:
            process.kill()
            process.wait()
    assert both[0].returncode == 3
    assert len(said(err)) == 1
    assert "rank 1 of the run has been silent for 2 s" in said(err)[0]


def test_a_broken_message_is_a_dead_rank(monkeypatch):
    import torch.distributed as dist

    def refuse(*_):
        raise RuntimeError("Connection closed by peer\nmore")

    monkeypatch.setattr(dist, "all_gather", refuse)
    with pytest.raises(RankError, match=r"has ended \(Connection closed by peer\)"):
        Ranks(0, 2).gather(torch.zeros(1))
