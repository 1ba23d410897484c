"""The command line as a user meets it: results, exit codes, one line for every mistake."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from memdiff.cli import main
from memdiff.data import load
from memdiff.generate import GenerationSettings, generate


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


def process(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "memdiff", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
    )


def test_sample_in_a_process(tmp_path):
    """The real thing: result on stdout, nothing but notes on stderr, files in place."""
    done = process(
        *("sample", "--train", "points20", "--regularizer", "tikhonov", "--strength", 0.1),
        *("--num", 7, "--out", "s.npz"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "7 samples of shape (2,) in s.npz (tikhonov, strength 0.1 (c, in squared units of the "
        "data))\n"
    )
    assert done.stderr == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.json", "s.npz"]
    missing = process("sample", "--train", "nowhere", "--out", "t.npz", cwd=tmp_path)
    assert (missing.returncode, missing.stdout, missing.stderr.count("\n")) == (2, "", 1)


def test_sample_equals_the_library_call(tmp_path, capsys):
    out = tmp_path / "s.npz"
    code, text, _ = run(
        capsys,
        *("sample", "--train", "digits", "--limit", 60, "--regularizer", "early-stop"),
        *("--strength", "scott", "--num", 5, "--seed", 3, "--out", out, "--json"),
    )
    assert code == 0
    settings = GenerationSettings("early-stop", "scott", num=5, seed=3)
    expected = generate(load("digits", limit=60), settings)
    with np.load(out) as content:
        np.testing.assert_array_equal(content["x"], expected.x.numpy())
    assert json.loads(text)["strength"] == expected.resolved["strength"]


def make_images(folder, sizes, value=100):
    folder.mkdir()
    for i, size in enumerate(sizes):
        Image.new("L", size, value + i).save(folder / f"{i}.png")
    return folder


def sources(tmp_path):
    """Every kind of training file that the design names, with a few points each."""
    import pandas
    import torch
    from safetensors.torch import save_file

    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x)
    torch.save(torch.from_numpy(x), tmp_path / "x.pt")
    save_file({"x": torch.from_numpy(x)}, tmp_path / "x.safetensors")
    frame = pandas.DataFrame(x, columns=["a", "b", "c"])
    frame.to_csv(tmp_path / "x.csv", index=False)
    frame.to_parquet(tmp_path / "x.parquet")
    files = [tmp_path / f"x.{kind}" for kind in ("npy", "npz", "pt", "safetensors", "csv")]
    folder = make_images(tmp_path / "images", [(8, 8)] * 3)
    return [*files, tmp_path / "x.parquet", folder, "rectangles"]


def test_sample_reads_every_kind_of_training_data(tmp_path, capsys):
    for source in sources(tmp_path):
        out = tmp_path / "out.npz"
        arguments = ("--train", source, "--num", 2, "--steps", 5, "--out", out, "--overwrite")
        code, _, err = run(capsys, "sample", *arguments)
        assert code == 0, (source, err)
        train = load(source)
        with np.load(out) as content:
            assert content["x"].shape == (2, *train.shape)


def bad_inputs(tmp_path):
    """(arguments after `sample`, words of the sentence)."""
    nan = tmp_path / "nan.npy"
    np.save(nan, np.array([[1.0, np.nan], [2.0, 3.0]]))
    one = tmp_path / "one.npy"
    np.save(one, np.ones((1, 2)))
    flat = tmp_path / "flat.npy"
    np.save(flat, np.float64(3.0))
    (tmp_path / "empty").mkdir()
    mixed = make_images(tmp_path / "mixed", [(8, 8), (9, 8)])
    broken = make_images(tmp_path / "broken", [(8, 8)])
    (broken / "9.png").write_bytes(b"\x89PNG not an image")
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    yield ["--train", tmp_path / "missing.npz"], "missing.npz"
    yield ["--train", nan], "NaN"
    yield ["--train", flat], "shape"
    yield ["--train", tmp_path / "empty"], "empty"
    yield ["--train", mixed], "1.png"
    yield ["--train", broken], "9.png"
    yield ["--train", text], "notes.txt"
    yield ["--train", one, "--regularizer", "tikhonov"], "at least two training points"
    good = ["--train", "points20"]
    yield [*good, "--regularizer", "ridge"], "--regularizer: expected none or tikhonov"
    yield [*good, "--regularizer", "tikhonov", "--strength", "-3"], "non-negative"
    yield [*good, "--regularizer", "tikhonov", "--strength", "much"], "number or auto"
    yield [*good, "--num", "0"], "--num must be at least 1"
    yield [*good, "--num", "ten"], "--num: expected int, got ten"
    yield [*good, "--limit", "ten"], "--limit: expected int or nothing, got ten"
    yield [*good, "--steps", "0"], "steps"
    yield [*good, "--t-end", "1e9"], "--t-end must"
    yield [*good, "--device", "cuda:99"], "device 'cuda:99' is not available"
    yield [*good, "--colour", "red"], "unrecognized arguments: --colour red"
    yield [*good, "--config", tmp_path / "none.yaml"], "none.yaml"
    yield [], "missing --train"


def test_bad_input_is_one_line_and_exit_code_2(tmp_path, capsys):
    kept = tmp_path / "kept.npz"
    kept.write_bytes(b"earlier result")
    for arguments, words in bad_inputs(tmp_path):
        code, out, err = run(capsys, "sample", *arguments, "--out", kept, "--overwrite")
        assert code == 2, (arguments, err)
        assert out == ""
        assert err.count("\n") == 1 and err.startswith("memdiff"), err
        assert words in err, (words, err)
        assert kept.read_bytes() == b"earlier result"
    assert not (tmp_path / "kept.partial").exists()


def test_out_must_be_an_npz(tmp_path, capsys):
    for out, words in ((tmp_path / "x.png", ".npz"), (tmp_path / "folder.npz", "folder")):
        if out.suffix == ".npz":
            out.mkdir()
        code, _, err = run(capsys, "sample", "--train", "points20", "--out", out)
        assert code == 2 and words in err and err.count("\n") == 1


def test_reproduce_refuses_bad_input(tmp_path, capsys):
    a_file = tmp_path / "file"
    a_file.write_text("x")
    for arguments, words in (
        (["--only", "nothing", "--out", tmp_path / "r"], "nothing"),
        (["--preset", "fast", "--out", tmp_path / "r"], "--preset: expected quick or paper"),
        (["--seed", "one", "--out", tmp_path / "r"], "--seed: expected int"),
        (["--out", a_file], "file"),
        (["--speed", "9", "--out", tmp_path / "r"], "--speed"),
        ([], "missing --out"),
    ):
        code, out, err = run(capsys, "reproduce", *arguments)
        assert code == 2, (arguments, err)
        assert out == "" and err.count("\n") == 1 and words in err, err
    assert a_file.read_text() == "x"


def test_config_file_and_print_config(tmp_path, capsys):
    code, printed, _ = run(
        capsys, "sample", "--train", "points20", "--out", tmp_path / "s.npz", "--num", 3,
        "--print_config",
    )  # fmt: skip
    assert code == 0 and "num: 3" in printed and "regularizer: none" in printed
    config = tmp_path / "options.yaml"
    config.write_text(printed)
    code, out, _ = run(capsys, "sample", "--config", config, "--num", 4)
    assert code == 0 and out.startswith("4 samples of shape (2,)")


def test_doctor(capsys):
    code, text, _ = run(capsys, "doctor")
    assert code == 0 and "devices" in text and "weights" in text
    code, text, _ = run(capsys, "doctor", "--json")
    found = json.loads(text)
    assert code == 0 and found["devices"][-1] == "cpu"
    assert found["extras"]["demo"]["install"] == "pip install 'memdiff[demo]'"


def test_every_command_explains_itself_with_an_example(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for command in ("reproduce", "audit", "sample", "doctor"):
        assert command in out
        code, help_text, _ = run(capsys, command, "--help")
        assert code == 0 and f"Example: memdiff {command}" in " ".join(help_text.split())


def test_interruption_is_said_and_has_its_own_code(monkeypatch, tmp_path, capsys):
    from memdiff.generate import generation

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(generation, "sample", stop)
    code, _, err = run(capsys, "sample", "--train", "points20", "--out", tmp_path / "s.npz")
    assert code == 130 and "interrupted" in err and err.count("\n") == 1


def test_import_is_light():
    """Every public name costs torch and no more; catches a heavy import at module level."""
    code = (
        "import sys; from memdiff import *; "
        "print([m for m in ('scipy', 'sklearn', 'matplotlib', 'PIL', 'jinja2', 'pandas', 'rich') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert Path(sys.executable).exists()
