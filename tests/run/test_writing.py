import hashlib
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memdiff.run.writing import replace_file, save_arrays, write_json
from memdiff.sources.hashing import sha256_of


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="half way"), replace_file(target) as temporary:
        temporary.write_text("ne")
        raise RuntimeError("half way")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_the_old_file_is_seen_until_the_block_ends(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with replace_file(target) as temporary:
        temporary.write_text("new")
        assert temporary.parent == target.parent and temporary.suffix == ".txt"
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_writing_nothing_is_an_error(tmp_path, refusal):
    empty = refusal("nothing was written", "a.txt", error=FileNotFoundError)
    with empty, replace_file(tmp_path / "a.txt"):
        pass
    with refusal("is a folder"), replace_file(tmp_path):
        pass


@pytest.mark.parametrize(
    ("asked", "expected"),
    [("a", "a.npz"), ("a.npz", "a.npz"), ("a.b", "a.b.npz"), ("sub/a.npz", "sub/a.npz")],
)
def test_save_arrays_ends_in_npz_and_keeps_every_bit(tmp_path, asked, expected):
    x = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    written = save_arrays(tmp_path / asked, x=x, file=np.arange(3), path=1.0, encoding="unit")
    assert written == tmp_path / expected
    with np.load(written, allow_pickle=False) as archive:
        assert archive["x"].tobytes() == x.numpy().tobytes()
        assert archive["x"].dtype == np.float64
        assert str(archive["encoding"]) == "unit"


def test_save_arrays_takes_bfloat16_and_gradients(tmp_path):
    x = torch.tensor([1.5, -2.0], dtype=torch.bfloat16, requires_grad=True)
    with np.load(save_arrays(tmp_path / "a", x=x)) as archive:
        assert archive["x"].tolist() == [1.5, -2.0]


def test_save_arrays_never_pickles(tmp_path, refusal):
    with refusal("'x'", "pickle"):
        save_arrays(tmp_path / "a", x=np.array([{}]))
    with refusal("empty"):
        save_arrays(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_write_json_round_trip(tmp_path):
    obj = {"n": np.int64(3), "x": torch.tensor([1.0, 2.5]), "path": tmp_path, "σ": None, "b": True}
    text = write_json(tmp_path / "a.json", obj).read_text(encoding="utf-8")
    plain = {"n": 3, "x": [1.0, 2.5], "path": str(tmp_path), "σ": None, "b": True}
    assert json.loads(text) == plain
    assert text.endswith("}\n") and "σ" in text


@pytest.mark.parametrize("bad", [float("nan"), np.float64("inf"), torch.tensor([float("nan")])])
def test_write_json_refuses_what_json_cannot_hold(tmp_path, bad, refusal):
    with refusal("a.json", "NaN"):
        write_json(tmp_path / "a.json", {"value": bad})
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(TypeError, match="object has no JSON form"):
        write_json(tmp_path / "a.json", {"value": object()})


def test_sha256_of_a_file_is_the_standard_one(tmp_path):
    (tmp_path / "a").write_bytes(b"memdiff" * 100_000)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"memdiff" * 100_000).hexdigest()


@given(
    shape=st.lists(st.integers(1, 5), min_size=0, max_size=4),
    seed=st.integers(0, 5),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bfloat16]),
)
def test_sha256_of_a_tensor_sees_values_not_strides(shape, seed, dtype):
    x = torch.randint(-9, 9, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    reversed_axes = list(range(x.ndim))[::-1]
    strided = x.permute(reversed_axes).contiguous().permute(reversed_axes)
    assert sha256_of(strided) == sha256_of(x)
    changed = x.clone()
    changed.reshape(-1)[-1] += 1
    assert sha256_of(changed) != sha256_of(x)
    assert sha256_of(x[None]) != sha256_of(x)


def test_sha256_of_a_tensor_does_not_depend_on_the_blocks():
    x = torch.arange(5_000_000, dtype=torch.float64)  # 40 MB, three blocks
    expected = hashlib.sha256(b"torch.float64 (5000000,)\n" + x.numpy().tobytes()).hexdigest()
    assert sha256_of(x) == expected
