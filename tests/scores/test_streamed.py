"""Scores of training data on disk: the same as in memory, whatever the file looks like."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from memdiff.generate.families import TIKHONOV
from memdiff.generate.selection import leave_one_out_draws, select
from memdiff.kernel import Batch, Posterior
from memdiff.objectives import draw
from memdiff.processes import EDM, VP
from memdiff.samplers import Heun, sample
from memdiff.scores import EmpiricalScore, leave_one_out_likelihood, silverman_bandwidth
from memdiff.sources import Rows
from memdiff.sources import rows as rows_module

TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-11}


def _points(num: int = 3000, dim: int = 12) -> Tensor:
    """Clusters away from the origin, with exact and near duplicates."""
    generator = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn(20, dim, generator=generator) + 5
    x = centres[torch.arange(num) % 20] + 0.3 * torch.randn(num, dim, generator=generator)
    x[100], x[150] = x[7], x[7] + 1e-4
    return x


def _one_npy(x: Tensor, folder: Path) -> Rows:
    np.save(folder / "x.npy", x.numpy())
    return Rows.open(folder / "x.npy", "train")


def _shards(x: Tensor, folder: Path) -> Rows:
    paths = []
    for number, part in enumerate(x.split(777)):
        paths.append(folder / f"{number}.safetensors")
        save_file({"x": part.contiguous()}, paths[-1])
    return Rows.open(paths, "train")


def _mapped(x: Tensor, folder: Path) -> Rows:
    np.save(folder / "x.npy", x.numpy())
    return Rows(np.load(folder / "x.npy", mmap_mode="r"), "train")


def _assert_close(one: Posterior, other: Posterior, dtype: torch.dtype) -> None:
    tolerance = TOLERANCE[dtype]
    scale = float(other.mean.abs().max())
    for name in ("mean", "residual"):
        mine, theirs = getattr(one, name), getattr(other, name)
        assert torch.allclose(mine, theirs, rtol=tolerance, atol=tolerance * scale), name
    for name in ("log_density", "entropy", "top_weight", "effective_points"):
        mine, theirs = getattr(one, name), getattr(other, name)
        assert torch.allclose(mine, theirs, rtol=10 * tolerance, atol=10 * tolerance), name
    assert torch.equal(one.top_index, other.top_index)


@pytest.mark.parametrize("open_rows", [_one_npy, _shards, _mapped])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.uint8])
@pytest.mark.parametrize("span", [12 * 256, 2**22])
def test_every_route_equals_that_in_memory(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    open_rows: Callable[[Tensor, Path], Rows],
    dtype: torch.dtype,
    span: int,
) -> None:
    # From one candidate a query to all points, so that every route of the engine is taken.
    monkeypatch.setattr(rows_module, "SPAN_BYTES", span)
    x = _points()
    data = (20 * (x + 5)).clamp(0, 255).to(dtype) if dtype == torch.uint8 else x.to(dtype)
    loaded = EmpiricalScore(data, EDM())
    streamed = EmpiricalScore(open_rows(data, tmp_path), EDM())
    assert streamed.dtype == loaded.dtype and streamed.shape == loaded.shape
    spread = float(loaded.data.std())
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(40, 12, generator=generator, dtype=loaded.dtype)
    exclude = torch.arange(40) - 1
    for sigma in (1e-5, 0.01, 0.2, 1.0, 20.0):
        query = loaded.data[:40] + sigma * spread * noise
        arguments = (query, sigma * spread)
        # One query fewer than in the other call must change nothing either.
        for part in (slice(0, 40), slice(3, 39)):
            _assert_close(
                streamed.posterior(query[part], arguments[1], exclude=exclude[part]),
                loaded.posterior(query[part], arguments[1], exclude=exclude[part]),
                loaded.dtype,
            )


@pytest.mark.parametrize("limit", [2**12, 2**16, 2**26])
def test_blocks_change_nothing(tmp_path: Path, limit: int) -> None:
    x = _points()
    loaded = EmpiricalScore(x, VP())
    streamed = EmpiricalScore(_one_npy(x, tmp_path), VP(), memory_limit=limit)
    for t in (1e-4, 0.05, 0.9):
        query = x[:16] + 0.1
        _assert_close(streamed.posterior(query, t), loaded.posterior(query, t), torch.float32)


def test_weights_conditions_and_gradients(tmp_path: Path) -> None:
    x = _points(500)
    options = {
        "weights": torch.rand(500, generator=torch.Generator().manual_seed(2)),
        "conditions": torch.arange(500) % 3,
    }
    loaded = EmpiricalScore(x, EDM(), **options)
    streamed = EmpiricalScore(_shards(x, tmp_path), EDM(), **options)
    query, y = x[:9] + 0.1, torch.arange(9) % 3
    mine, theirs = (score.posterior(query, 0.3, y) for score in (streamed, loaded))
    _assert_close(mine, theirs, torch.float32)
    assert torch.allclose(streamed.weights(query, 0.3, y), loaded.weights(query, 0.3, y))
    gradients = []
    for score in (streamed, loaded):
        leaf = query.clone().requires_grad_()
        score.denoise(leaf, 0.3).square().sum().backward()
        gradients.append(leaf.grad)
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-4)


def test_points_of_any_shape(tmp_path: Path) -> None:
    x = _points(400).reshape(400, 3, 2, 2)
    streamed = EmpiricalScore(_one_npy(x, tmp_path), EDM())
    assert torch.allclose(
        streamed.denoise(x[:5] + 0.1, 0.2), EmpiricalScore(x, EDM()).denoise(x[:5] + 0.1, 0.2)
    )


def test_the_data_are_no_buffer(tmp_path: Path) -> None:
    x = _points(200)
    streamed = EmpiricalScore(_one_npy(x, tmp_path), EDM())
    query = x[:4] + 0.1
    before = streamed.denoise(query, 0.2)
    assert set(streamed.state_dict()) == {"log_prior"}
    other = EmpiricalScore(_one_npy(x, tmp_path), EDM(), weights=torch.arange(1.0, 201.0))
    streamed.load_state_dict(other.state_dict())
    assert not hasattr(streamed, "data")
    with pytest.raises(AttributeError, match="use source"):
        _ = streamed.data
    assert isinstance(streamed.source, Rows) and len(streamed.source) == 200
    other = EmpiricalScore(streamed.source, EDM())
    assert torch.equal(copy.deepcopy(other).denoise(query, 0.2), before)
    assert torch.equal(other.to("cpu").denoise(query, 0.2), before)
    other.double()
    assert other.dtype == torch.float64 and other.source.dtype == torch.float64
    expected = EmpiricalScore(x, EDM()).double().denoise(query.double(), 0.2)
    assert torch.allclose(other.denoise(query.double(), 0.2), expected, rtol=1e-12)


def test_what_makes_rows_is_taken(tmp_path: Path) -> None:
    x = _points(200)
    np.save(tmp_path / "x.npy", x.numpy())
    expected = EmpiricalScore(x, EDM()).denoise(x[:4] + 0.1, 0.2)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for data in (mapped, [mapped[:50], x[50:].numpy()], x.numpy(), [x[:50], x[50:]]):
        score = EmpiricalScore(data, EDM())
        assert torch.allclose(score.denoise(x[:4] + 0.1, 0.2), expected)
        # What is in memory anyway is a buffer as ever.
        on_disk = any(isinstance(one, np.memmap) for one in (data, data[0]))
        assert ("data" in score.state_dict()) != on_disk


def test_selection_draws_and_bandwidths(tmp_path: Path) -> None:
    x = _points(600)
    streamed, loaded = (EmpiricalScore(data, EDM()) for data in (_one_npy(x, tmp_path), x))
    assert silverman_bandwidth(streamed.source) == pytest.approx(silverman_bandwidth(x), rel=1e-9)
    curves = [leave_one_out_likelihood(score) for score in (streamed, loaded)]
    assert torch.allclose(curves[0].log_likelihood, curves[1].log_likelihood, rtol=1e-5)
    assert curves[0].best == pytest.approx(curves[1].best)
    generator = [torch.Generator().manual_seed(0) for _ in range(2)]
    assert torch.equal(
        draw(EDM(), streamed.source, 50, generator[0], times=1.0).x,
        draw(EDM(), x, 50, generator[1], times=1.0).x,
    )
    found = [
        select(TIKHONOV, score, draws=leave_one_out_draws(score, per_point=1), batch_size=300)
        for score in (streamed, loaded)
    ]
    assert torch.allclose(found[0].loss, found[1].loss, rtol=1e-4)
    assert found[0].index == found[1].index


def test_samples_equal_those_of_the_loaded_score(tmp_path: Path) -> None:
    x = _points(300) - 5
    streamed, loaded = (EmpiricalScore(data, EDM()) for data in (_shards(x, tmp_path), x))
    drawn = [sample(score, num=8, sampler=Heun(steps=12)).x for score in (streamed, loaded)]
    assert torch.allclose(drawn[0], drawn[1], rtol=1e-4, atol=1e-4)


def test_points_are_left_out_on_disk_as_in_memory(tmp_path: Path) -> None:
    x = _points(3000, 40) - 5
    streamed, loaded = (
        EmpiricalScore(data, EDM(), tolerance=1e-3) for data in (_shards(x, tmp_path), x)
    )
    query = x[:30] + 0.4 * torch.randn(30, 40, generator=torch.Generator().manual_seed(3))
    for sigma in (0.05, 0.4, 2.0):
        mine, theirs = (score.posterior(query, sigma) for score in (streamed, loaded))
        exact = EmpiricalScore(x.double(), EDM(), tolerance=0.0).posterior(query.double(), sigma)
        assert bool(((mine.mean - exact.mean).norm(dim=1) <= mine.error_bound).all())
        assert torch.allclose(mine.mean, theirs.mean, rtol=1e-2, atol=1e-2)


def truncation(score: EmpiricalScore) -> tuple[float, object]:
    with Batch().follow(None):
        return score.truncation()


def test_what_leaves_points_out_must_fit_into_memory(tmp_path: Path) -> None:
    x = _points(3000, 40)
    for limit, left_out in ((2**20, False), (2**26, True)):
        score = EmpiricalScore(_one_npy(x, tmp_path), EDM(), memory_limit=limit)
        assert (truncation(score)[1] is not None) == left_out
    asked = EmpiricalScore(_one_npy(x, tmp_path), EDM(), memory_limit=2**20, tolerance=1e-6)
    assert truncation(asked)[1] is not None and truncation(asked)[0] == 1e-6
    loaded = EmpiricalScore(x, EDM(), memory_limit=2**20)
    assert truncation(loaded)[1] is not None


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    x = _points(500)
    x[333, 4] = torch.nan
    with pytest.raises(ValueError, match=r"train must be finite, but 1 of 500 .* index 333"):
        EmpiricalScore(_shards(x, tmp_path), EDM())


def test_a_file_that_is_cut_while_in_use(tmp_path: Path) -> None:
    x = _points(20_000, 64)
    score = EmpiricalScore(_one_npy(x, tmp_path), EDM())
    score.denoise(x[:2], 0.5)
    path = tmp_path / "x.npy"
    path.write_bytes(path.read_bytes()[:1_000_000])
    with pytest.raises(ValueError, match=r"x\.npy.* it was truncated"):
        for _ in range(2):
            score.denoise(x[:2], 0.5)


_SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np, torch
from memdiff.processes import EDM
from memdiff.samplers import Heun, sample
from memdiff.scores import EmpiricalScore
from memdiff.sources import Rows

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))

def evaluate(data):
    score = EmpiricalScore(data, EDM(), memory_limit=2**24)
    sample(score, num=2, sampler=Heun(steps=2))
    for sigma in (0.01, 0.5, 20.0):
        x = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
        assert bool(torch.isfinite(score.posterior(x, sigma, exclude=torch.arange(4)).mean).all())

torch.set_num_threads(1)
evaluate(torch.randn(3000, 64))
how, path = sys.argv[1:]
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
if how == "file":
    evaluate(Rows.open(path))
elif how == "map":
    evaluate(np.load(path, mmap_mode="r"))
else:
    evaluate(torch.from_numpy(np.load(path)))
print(json.dumps(status("VmHWM") - before))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory by the kernel")
def test_memory_stays_below_the_stated_limit(tmp_path: Path) -> None:
    """A million points of 64 numbers: a file of 256 MB."""
    num = 1_000_000
    path = tmp_path / "train.npy"
    generator = torch.Generator().manual_seed(0)
    array = np.lib.format.open_memmap(path, "w+", np.float32, (num, 64))
    for start in range(0, num, 50_000):
        array[start : start + 50_000] = torch.randn(50_000, 64, generator=generator).numpy()
    array.flush()
    del array
    limit = 2**24 + 24 * num + 2**25
    used = {}
    for how in ("file", "map", "load"):
        command = [sys.executable, "-c", _SCRIPT, how, str(path)]
        # Now and then the allocator keeps pieces that it could have used again.
        for _ in range(2 if how != "load" else 1):
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            used[how] = min(json.loads(done.stdout), used.get(how, sys.maxsize))
            if used[how] < limit:
                break
    assert used["file"] < limit and used["map"] < limit, used
    # The limit tells the two apart: what loads the file is far above it.
    assert used["load"] > 2 * limit, used
