"""The examples of docs/extending.md, applied to a copy of the package and used."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

USE = """
import json
import torch
import memdiff
from memdiff import EDM, EmpiricalScore
from memdiff.audit.panel import PANEL
from memdiff.cli import main
from memdiff.metrics.median_distance import median_distance
from memdiff.samplers.midpoint import Midpoint
from memdiff.generate.shrunk import Shrunk
from memdiff.testing import check_metric, check_sampler, check_score

check_sampler(Midpoint(), EDM())
data = torch.randn(40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
check_score(Shrunk(EmpiricalScore(data, EDM()), 0.5), x=data + 1, t=(0.5, 2.0))
fresh, train, heldout = torch.randn(3, 100, 8, generator=torch.Generator().manual_seed(0))
sets = {"generated": fresh, "train": train, "heldout": heldout}
check_metric(median_distance, **sets, value="low", scores="low")
found = memdiff.audit(**sets).evidence[0].measurements
assert {one.title: one for one in found}["median distance"].result.value > 0

def run(line):
    try:
        main(line.split())
    except SystemExit as error:
        assert error.code == 0, line

sample = "sample --train points20 --num 20 --quiet --out"
run(f"{sample} copies.npz --sampler midpoint --steps 200")
x, points = memdiff.load("copies.npz").x, memdiff.load("points20").x
assert torch.cdist(x.double(), points.double()).min(1).values.max() < 1e-3
run(f"{sample} shrunk.npz --regularizer shrunk --strength auto")
record = json.load(open("shrunk.json"))
assert record["resolved"]["parameter"] == "relative strength"
assert record["resolved"]["strength"] == record["selection"]["best"]
assert len(record["selection"]["candidates"]) == 11
"""


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the package with the three diffs."""
    folder = tmp_path_factory.mktemp("extended")
    shutil.copytree(
        ROOT / "src" / "memdiff", folder / "memdiff", ignore=shutil.ignore_patterns("__pycache__")
    )
    text = (ROOT / "docs" / "extending.md").read_text("utf-8")
    diffs = re.findall(r"^```diff\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(diffs) == 3
    for diff in diffs:
        command = ["git", "apply", "-C1", "-"]
        subprocess.run(command, input=diff, text=True, cwd=folder / "memdiff", check=True)
        files = re.findall(r"^\+\+\+ b/(\S+)$", diff, re.MULTILINE)
        assert len(files) == 2, "one file, and one place that registers it"
    return folder


def test_a_toy_sampler_a_toy_regulariser_and_a_toy_metric_are_known_everywhere(extended, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(extended), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", USE],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
