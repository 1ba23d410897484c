"""The commands on data that stay on disk: the same result, and one sentence for bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from jsonargparse import Namespace
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from memdiff.cli import main
from memdiff.cli.data_options import load_sets
from memdiff.data import StreamedDataset, load
from memdiff.sources import Rows


def _run(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as done:
        main(arguments)
    return int(done.value.code or 0)


@pytest.fixture
def train(tmp_path: Path) -> Path:
    """Images as bytes, in three shards."""
    random = np.random.default_rng(0)
    images = np.clip(128 + 12 * random.standard_normal((300, 6, 6)).cumsum(1), 0, 255)
    folder = tmp_path / "train"
    folder.mkdir()
    for number in range(3):
        part = images[100 * number : 100 * number + 100].astype(np.uint8)
        save_file({"x": torch.from_numpy(part)}, folder / f"{number}.safetensors")
    return folder


def _no_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object) -> Tensor:
        raise AssertionError("the whole set was loaded")

    monkeypatch.setattr(Rows, "tensor", refuse)
    monkeypatch.setattr(StreamedDataset, "in_memory", refuse)


def test_samples_of_a_set_that_points_are_left_out_of(tmp_path: Path) -> None:
    """From some thousand points in 64 dimensions on; the copies must be the same ones."""
    random = np.random.default_rng(1)
    images = random.integers(0, 255, (40, 8, 8))[random.integers(0, 40, 2100)]
    images = np.clip(images + random.normal(0, 20, images.shape), 0, 255).astype(np.uint8)
    np.save(tmp_path / "x.npy", images)
    found = []
    for above in ("0", "1000000000"):
        out = str(tmp_path / f"s{above}.npz")
        arguments = ["sample", "--train", str(tmp_path / "x.npy"), "--num", "6", "--quiet"]
        assert _run([*arguments, "--stream-above", above, "--out", out]) == 0
        found.append(np.load(out)["x"])
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)


def test_a_negative_limit_is_refused(train: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(train.parent / "s.npz")]
    assert _run(["sample", "--train", str(train), "--stream-above", "-3", *out]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "regularizer",
    [
        ["none"],
        ["tikhonov"],
        ["early-stop", "--strength", "likelihood"],
        ["empirical-bayes", "--strength", "-15"],
    ],
    ids=lambda options: options[0],
)
def test_samples_equal_those_of_the_loaded_set(
    train: Path, tmp_path: Path, regularizer: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--num", "6", "--steps", "8", "--regularizer", *regularizer, "--quiet"]
    command = ["sample", "--train", str(train), *options]
    assert _run([*command, "--out", str(tmp_path / "loaded.npz")]) == 0
    _no_loading(monkeypatch)
    streamed = [*command, "--stream-above", "0", "--out", str(tmp_path / "streamed.npz")]
    assert _run(streamed) == 0
    one, other = load(tmp_path / "streamed.npz"), load(tmp_path / "loaded.npz")
    assert one.encoding == other.encoding == "signed"
    assert torch.allclose(one.x, other.x, rtol=1e-4, atol=1e-4)
    records = [
        json.loads((tmp_path / f"{name}.json").read_text()) for name in ("streamed", "loaded")
    ]
    assert records[0]["train"] == records[1]["train"]
    mine, theirs = (record["resolved"]["strength"] for record in records)
    assert mine == (None if theirs is None else pytest.approx(theirs, rel=1e-6))


@pytest.mark.slow
def test_an_audit_equals_that_of_the_loaded_set(
    train: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    points = load(train).x
    noise = 0.2 * torch.randn(points.shape, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "heldout.npy", (points + noise).numpy())
    np.save(tmp_path / "generated.npy", points[:120].numpy())
    command = ["audit", "--generated", str(tmp_path / "generated.npy"), "--train"]
    options = ["--heldout", str(tmp_path / "heldout.npy"), "--quiet", "--json"]
    assert _run([*command, str(train), *options, "--out", str(tmp_path / "loaded")]) == 0
    loaded = json.loads(capsys.readouterr().out)
    _no_loading(monkeypatch)
    options += ["--stream-above", "0", "--out", str(tmp_path / "streamed")]
    assert _run([*command, str(train / "*.safetensors"), *options]) == 0
    streamed = json.loads(capsys.readouterr().out)
    assert streamed["verdict"] == loaded["verdict"] == "memorizing"
    assert streamed["flagged"] == loaded["flagged"]
    for key in ("copied", "copied_low", "copied_high"):
        if key in loaded["decision"]:
            assert streamed["decision"][key] == pytest.approx(loaded["decision"][key])
    assert (tmp_path / "streamed" / "report.html").is_file()


def _nan(folder: Path) -> None:
    x = np.zeros((500, 3), dtype=np.float32)
    x[250, 1] = np.nan
    np.save(folder / "0.npy", x)


def _truncated(folder: Path) -> None:
    np.save(folder / "0.npy", np.zeros((500, 3), dtype=np.float32))
    path = folder / "0.npy"
    path.write_bytes(path.read_bytes()[:3000])


def _shapes(folder: Path) -> None:
    np.save(folder / "0.npy", np.zeros((5, 3), dtype=np.float32))
    np.save(folder / "1.npy", np.zeros((5, 4), dtype=np.float32))


def _dtypes(folder: Path) -> None:
    np.save(folder / "0.npy", np.zeros((5, 3), dtype=np.float32))
    np.save(folder / "1.npy", np.zeros((5, 3), dtype=np.uint8))


def _empty(folder: Path) -> None:
    pass


def _dangling(folder: Path) -> None:
    np.save(folder / "0.npy", np.zeros((5, 3), dtype=np.float32))
    (folder / "1.npy").symlink_to(folder / "gone.npy")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_nan, ["1 of 500 points", "index 250"]),
        (_truncated, ["0.npy", "truncated"]),
        (_shapes, ["every shard", "1.npy", "(4,)"]),
        (_dtypes, ["every shard", "1.npy", "uint8"]),
        (_empty, ["empty folder"]),
        (_dangling, ["1.npy", "does not exist"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("above", ["0", "1000000000"])
def test_bad_shards_are_one_sentence(
    tmp_path: Path,
    spoil: object,
    words: list[str],
    above: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    spoil(folder)  # type: ignore[operator]
    out = ["--out", str(tmp_path / "out.npz"), "--stream-above", above, "--quiet"]
    assert _run(["sample", "--train", str(folder), *out]) == 2
    message = capsys.readouterr().err.strip()
    assert message.count("\n") == 0 and str(folder) in message
    for word in words:
        assert word in message, message
    assert not (tmp_path / "out.npz").exists()


def test_a_pattern_without_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sample", "--train", str(tmp_path / "*.npy"), "--out", str(tmp_path / "o.npz")]
    assert _run([*command, "--quiet"]) == 2
    assert "matches no file" in capsys.readouterr().err


def test_the_key_of_shards_reaches_them(train: Path, tmp_path: Path) -> None:
    for number in range(2):
        content = {"latents": torch.zeros(40, 2) + number, "other": torch.ones(40)}
        (train / f"{number}.safetensors").unlink()
        save_file(content, train / f"{number}.safetensors")
    (train / "2.safetensors").unlink()
    command = ["sample", "--train", str(train), "--key", "latents", "--num", "2", "--quiet"]
    assert _run([*command, "--steps", "3", "--out", str(tmp_path / "o.npz")]) == 0
    assert load(tmp_path / "o.npz").x.shape == (2, 2)


def test_options_reach_the_sets_that_they_apply_to(tmp_path: Path) -> None:
    for folder in ("shards", "pictures"):
        (tmp_path / folder).mkdir()
    content = {"latents": torch.zeros(4, 1, 6, 6), "other": torch.ones(4, 2)}
    save_file(content, tmp_path / "shards" / "0.safetensors")
    for number in range(3):
        Image.new("L", (9, 9), number).save(tmp_path / "pictures" / f"{number}.png")
    options = Namespace(limit=None, size=6, mode=None, key="latents", stream_above=0)
    sources = {"train": str(tmp_path / "shards"), "generated": str(tmp_path / "pictures")}
    sets = load_sets(options, sources)
    assert sets["train"].shape == sets["generated"].shape == (1, 6, 6)
    assert isinstance(sets["train"], StreamedDataset)
