"""Rows: one view of every storage, equal to the tensor that it stands for."""

from __future__ import annotations

import copy
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from memdiff.sources import ReadAhead, Rows
from memdiff.sources import rows as rows_module


def _in_memory(x: Tensor, folder: Path) -> Rows:
    return Rows(x)


def _one_file(x: Tensor, folder: Path) -> Rows:
    np.save(folder / "x.npy", x.numpy())
    return Rows.open(folder / "x.npy")


def _shards(x: Tensor, folder: Path) -> Rows:
    paths = []
    for number, part in enumerate(x.split(17)):
        paths.append(folder / f"{number}.npy")
        np.save(paths[-1], part.numpy())
    return Rows.open(paths)


def _mapped(x: Tensor, folder: Path) -> Rows:
    np.save(folder / "x.npy", x.numpy())
    return Rows(np.load(folder / "x.npy", mmap_mode="r"))


def _mixed(x: Tensor, folder: Path) -> Rows:
    np.save(folder / "x.npy", x[10:40].numpy())
    return Rows([x[:10], np.load(folder / "x.npy", mmap_mode="r"), x[40:].numpy()])


STORAGES = [_in_memory, _one_file, _shards, _mapped, _mixed]


@pytest.fixture(params=STORAGES, ids=lambda storage: storage.__name__)
def storage(request: pytest.FixtureRequest) -> Callable[[Tensor, Path], Rows]:
    return request.param


def _points() -> Tensor:
    return torch.randn(103, 4, 2, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("span", [1, 32 * 8, 2**22])
def test_rows_equal_the_tensor(
    storage: Callable[[Tensor, Path], Rows],
    span: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rows_module, "SPAN_BYTES", span)
    x = _points()
    rows = storage(x, tmp_path)
    assert (rows.shape, rows.ndim, rows.dtype, rows.numel()) == (x.shape, 3, x.dtype, x.numel())
    for start, stop in ((0, 103), (0, 1), (102, 103), (15, 60), (40, 41), (3, 90)):
        assert torch.equal(rows.read(start, stop), x[start:stop].flatten(1))
        assert torch.equal(rows[start:stop], x[start:stop])
    index = torch.tensor([100, 2, 2, 55, 0])
    assert torch.equal(rows.gather(index), x[index].flatten(1))
    assert torch.equal(rows[index], x[index])
    assert torch.equal(rows[7], x[7]) and torch.equal(rows[-1], x[-1])
    assert torch.equal(rows[::-4], x.flip(0)[::4]) and torch.equal(rows[5:5], x[5:5])
    assert torch.equal(rows[x[:, 0, 0] > 0], x[x[:, 0, 0] > 0])
    assert torch.equal(torch.cat(list(rows.split(10))), x)
    assert torch.equal(rows.tensor(), x)
    assert torch.equal(torch.stack(list(rows)), x)
    with pytest.raises(IndexError, match="103 rows"):
        rows[103]


def test_mapped_and_selected_rows(storage: Callable[[Tensor, Path], Rows], tmp_path: Path) -> None:
    x = _points()
    rows = storage(x, tmp_path)
    index = torch.randperm(103, generator=torch.Generator().manual_seed(1))[:60]
    twice = rows.select(index).map(_doubled).select(torch.arange(0, 60, 2))
    assert torch.equal(twice.tensor(), 2 * x[index][::2].to(torch.float64))
    assert twice.dtype == torch.float64
    assert torch.equal(rows.flatten().tensor(), x.flatten(1))
    assert torch.equal(twice.map(torch.square).tensor(), 4 * x[index][::2].double().square())
    assert torch.equal(Rows(twice).read(3, 9), twice.read(3, 9))
    with pytest.raises(ValueError, match="selects no row"):
        rows.select(torch.empty(0, dtype=torch.int64))


def test_no_rows_are_no_rows(storage: Callable[[Tensor, Path], Rows], tmp_path: Path) -> None:
    """A function of points need not have an answer for none: the largest value of none, say."""
    rows = storage(_points(), tmp_path).map(lambda x: (x / x.max()).double())
    none = torch.empty(0, dtype=torch.int64)
    for found in (rows.gather(none), rows.read(5, 5), rows.flatten()[none]):
        assert found.shape == (0, rows.features) and found.dtype == torch.float64
    assert rows[none].shape == (0, *rows.row_shape)


def _doubled(x: Tensor) -> Tensor:
    return 2 * x.to(torch.float64)


def test_moments_of_ill_conditioned_data(
    storage: Callable[[Tensor, Path], Rows], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "BLOCK_BYTES", 1000)
    x = (_points() + 1e4).to(torch.float64)
    found = storage(x, tmp_path).moments()
    flat = x.flatten(1)
    assert torch.allclose(found.mean, flat.mean(0), rtol=1e-14)
    assert torch.allclose(found.scatter, 102 * flat.var(0), rtol=1e-9)
    assert torch.equal(found.smallest, flat.amin(0)) and torch.equal(found.largest, flat.amax(0))


def test_values_that_are_not_finite_are_counted(
    storage: Callable[[Tensor, Path], Rows], tmp_path: Path
) -> None:
    x = _points()
    x[64, 1, 1], x[80, 0, 0] = torch.nan, torch.inf
    with pytest.raises(ValueError, match=r"2 of 103 points .* the first at index 64"):
        storage(x, tmp_path).moments()


def test_rows_can_be_copied_and_sent(
    storage: Callable[[Tensor, Path], Rows], tmp_path: Path
) -> None:
    x = _points()
    rows = storage(x, tmp_path).map(_doubled)
    rows.read(0, 50)  # a thread may be on its way
    for other in (copy.deepcopy(rows), copy.copy(rows)):
        assert torch.equal(other.tensor(), 2 * x.double())
    if not isinstance(rows._storage._shards[0], np.ndarray):
        assert torch.equal(pickle.loads(pickle.dumps(rows)).tensor(), 2 * x.double())


def test_shards_must_agree(tmp_path: Path) -> None:
    for name, array in (
        ("a", np.ones((4, 3))),
        ("b", np.ones((4, 2))),
        ("c", np.ones((4, 3), "f4")),
    ):
        np.save(tmp_path / f"{name}.npy", array)
    for other in "bc":
        with pytest.raises(ValueError, match=rf"every shard of train .*{other}\.npy"):
            Rows.open([tmp_path / "a.npy", tmp_path / f"{other}.npy"], "train")
    with pytest.raises(ValueError, match="no shards"):
        Rows.open([], "train")
    np.save(tmp_path / "empty.npy", np.ones((0, 3)))
    with pytest.raises(ValueError, match=r"at least one row .* \(0, 3\)"):
        Rows.open(tmp_path / "empty.npy", "train")
    assert len(Rows.open([tmp_path / "empty.npy", tmp_path / "a.npy"])) == 4


def test_changes_in_a_copy_on_write_map_are_kept(tmp_path: Path) -> None:
    # Dropping the pages of a private mapping would bring the file's values back.
    np.save(tmp_path / "x.npy", np.zeros((5000, 8)))
    array = np.load(tmp_path / "x.npy", mmap_mode="c")
    array[7] = 1.0
    rows = Rows(array)
    assert float(rows.read(0, 5000).sum()) == 8.0
    assert float(rows.gather(torch.tensor([7])).sum()) == 8.0 and float(array.sum()) == 8.0


def test_the_next_span_is_read_in_the_background() -> None:
    log: list[tuple[int, bool]] = []
    arrived = threading.Event()

    def fill(start: int, out: Tensor) -> None:
        background = threading.current_thread() is not threading.main_thread()
        log.append((start, background))
        out.copy_(torch.arange(start, start + len(out)))
        if background:
            arrived.set()

    ahead = ReadAhead(fill, 10, (4,), torch.int64)
    blocks = []
    for _ in range(2):
        for start in (0, 4, 8):
            arrived.clear()
            blocks.append(ahead(start, min(start + 4, 10)))
            assert arrived.wait(5)
    assert log == [(0, False), *((start, True) for start in (4, 8, 0, 4, 8, 0))]
    # What was given out is not written over by what came later.
    assert torch.equal(torch.cat(blocks), torch.arange(10).repeat(2))


def _count(start: int, out: Tensor) -> None:
    out.copy_(torch.arange(start, start + len(out)))


def test_any_order_of_reading() -> None:
    ahead = ReadAhead(_count, 41, (4,), torch.int64)
    for start in torch.randint(0, 40, (300,), generator=torch.Generator().manual_seed(0)).tolist():
        stop = min(start + 1 + start % 9, 41)
        assert torch.equal(ahead(start, stop), torch.arange(start, stop))


def test_several_threads_read_one_source() -> None:
    ahead = ReadAhead(_count, 1000, (8,), torch.int64)
    wrong: list[int] = []

    def work(offset: int) -> None:
        for start in range(offset, 980, 3):
            if not torch.equal(ahead(start, start + 20), torch.arange(start, start + 20)):
                wrong.append(start)

    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_thread_ends_with_the_object() -> None:
    ahead = ReadAhead(_count, 41, (4,), torch.int64)
    before = set(threading.enumerate())
    ahead(0, 9)
    (worker,) = set(threading.enumerate()) - before
    del ahead
    worker.join(5)
    assert not worker.is_alive()


def test_an_error_in_the_background_arrives() -> None:
    def fill(start: int, out: Tensor) -> None:
        if start:
            raise ValueError("row 4 is damaged")

    ahead = ReadAhead(fill, 8, (4,), torch.int64)
    ahead(0, 4)
    for _ in range(2):
        with pytest.raises(ValueError, match="row 4 is damaged"):
            ahead(4, 8)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_while_a_span_is_on_its_way() -> None:
    started, go_on = threading.Event(), threading.Event()

    def fill(start: int, out: Tensor) -> None:
        if threading.current_thread() is not threading.main_thread():
            started.set()
            go_on.wait(10)
        out.copy_(torch.arange(start, start + len(out)))

    ahead = ReadAhead(fill, 8, (4,), torch.int64)
    ahead(0, 4)
    assert started.wait(5)
    child = os.fork()
    if not child:
        os._exit(0 if ahead(4, 8).tolist() == [4, 5, 6, 7] else 1)
    go_on.set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_part_of_a_file_is_read_ahead_too(tmp_path: Path) -> None:
    x = _points()
    part = _shards(x, tmp_path).select(torch.arange(20, 90))
    part.read(0, 10)
    assert part._ahead is not None and torch.equal(part.tensor(), x[20:90])
    inner = part.select(torch.arange(5, 50))
    assert torch.equal(inner.tensor(), x[25:70]) and inner._ahead is not None
    scattered = part.select(torch.tensor([5, 7, 8]))
    assert torch.equal(scattered.tensor(), x[[25, 27, 28]]) and scattered._ahead is None
    out = torch.empty(2, 8)
    scattered.read_into(1, out)
    assert torch.equal(out, x[[27, 28]].flatten(1))
