"""A corpus of bad inputs: an exit code, one sentence, no traceback, nothing changed on disk."""

import errno
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from memdiff.cli import main
from memdiff.cli.terminal import FAULT_EXIT

SMALL = (
    *("--width", "8", "--batch-size", "7", "--monitor-every", "4", "--monitor-samples", "4"),
    *("--sampler-steps", "3", "--audit-samples", "0"),
)


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


def contents(folder):
    return {
        os.fsencode(path): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def header(shape, dtype="<f4"):
    stream = io.BytesIO()
    entry = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, entry)
    return stream.getvalue()


def declared(folder):
    """Small files that say of themselves that they are large."""
    for name, shape in (("declared", (10**12, 4)), ("negative", (-4, 4))):
        with zipfile.ZipFile(folder / f"{name}.npz", "w") as archive:
            archive.writestr("x.npy", header(shape) + bytes(64))
        (folder / f"{name}.npy").write_bytes(header(shape) + bytes(64))
    entry = {"x": {"dtype": "F32", "shape": [10**12, 4], "data_offsets": [0, 16 * 10**12]}}
    text = json.dumps(entry).encode()
    (folder / "declared.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(64))
    (folder / "long.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")


def damaged(folder):
    """Files that are not what their names say."""
    (folder / "empty.npz").write_bytes(b"")
    (folder / "text.npz").write_text("hello")
    (folder / "text.safetensors").write_text("hello")
    (folder / "half.npz").write_bytes((folder / "good.npz").read_bytes()[:200])
    (folder / "half.npy").write_bytes((folder / "good.npy").read_bytes()[:200])
    (folder / "latin.csv").write_bytes("x,ville\n1,Orléans\n".encode("latin-1"))
    (folder / "text.parquet").write_text("hello")
    (folder / "objects.npy").write_bytes(b"")
    np.save(folder / "objects.npy", np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
    np.save(folder / "words.npy", np.array(["a", "b"]))
    np.save(folder / "complex.npy", np.ones((9, 2), dtype=np.complex64))
    (folder / "broken").mkdir()
    (folder / "broken" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    (folder / "evil\x1b[31m\x07").mkdir()
    (folder / os.fsdecode(b"caf\xe9")).mkdir()


def unusual(folder):
    """Folders with what is no file, tables that need a word, files of options that are none."""
    for name in ("pipe", "dangling"):
        shutil.copytree(folder / "images", folder / name)
    os.mkfifo(folder / "pipe" / "z.png")
    (folder / "dangling" / "z.png").symlink_to("nowhere.png")
    points = np.random.default_rng(0).normal(size=(40, 2))
    np.savez(folder / "vast.npz", x=1e300 * points)
    np.savez(folder / "few.npz", x=points[:3])
    rows = [f"{x:.3f},{y:.3f}" for x, y in points]
    (folder / "vast.csv").write_text("\n".join(["a,b", *rows, "1e308,1"]))
    (folder / "utf16.csv").write_bytes("\n".join(["a,b", *rows]).encode("utf-16"))
    (folder / "gaps.csv").write_text("\n".join(["a,b", *rows, "NA,1", "nan,2"]))
    ids = [f"{row},p{i}" for i, row in enumerate(rows)]
    (folder / "ids.csv").write_text("\n".join(["a,b,id", *ids[:20]]))
    (folder / "other_ids.csv").write_text("\n".join(["a,b,id", *ids[20:]]))
    (folder / "latin.yaml").write_bytes("key: caf\xe9\n".encode("latin-1"))
    (folder / "list.yaml").write_text("- 1\n")
    (folder / "empty.yaml").write_text("")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    points = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    np.save(folder / "good.npy", points)
    np.savez(folder / "good.npz", x=points)
    (folder / "images").mkdir()
    for i in range(12):
        Image.new("RGB", (8, 8), (20 * i, 3, 4)).save(folder / "images" / f"{i}.png")
    (folder / "settings.yaml").write_text("num: 3\ncolour: red\n")
    (folder / "broken.yaml").write_text("num: [3\n")
    (folder / "a_file").write_text("x")
    declared(folder)
    damaged(folder)
    unusual(folder)
    (folder / ".held.npz.lock").mkdir()
    return folder


SAMPLE = "sample --out o.npz"
AUDIT = "audit --generated good.npz --train good.npz --out report"
TRAIN = "train --out run"

BAD = [
    # Too large: refused before it is allocated.
    (f"{SAMPLE} --train declared.npz", r"train \(declared.npz\) takes 16 TB of memory"),
    (f"{SAMPLE} --train declared.npy", "truncated"),
    (f"{SAMPLE} --train declared.safetensors", "is truncated"),
    (f"{SAMPLE} --train long.safetensors", "damaged"),
    (f"{SAMPLE} --train negative.npz", "negative.npz"),
    (f"{SAMPLE} --train negative.npy", "negative.npy"),
    (f"{SAMPLE} --train good.npz --steps 100000000000", "steps=100000000000 takes 3.2 TB"),
    (f"{SAMPLE} --train good.npz --num 1000000000000000", "samples take 8 PB, and .* free in"),
    (f"{SAMPLE} --train good.npz --batch-size 0", "--batch-size"),
    (f"{SAMPLE} --train images --size 100000", "at 100000x100000 pixels takes 240 GB"),
    (f"{TRAIN} --train good.npz --width 100000000", "width=100000000.* takes 200 PB"),
    (f"{TRAIN} --train images --network unet --width 1000000", "takes 360 TB of memory"),
    (f"{TRAIN} --train good.npz --sampler-steps 100000000000", "steps=100000000000 takes"),
    (f"{TRAIN} --train good.npz --monitor-samples 1000000000000", "takes .* of memory"),
    (f"{TRAIN} --train good.npz --seeds 0:1e8", "are 100,000,000 runs.* give --yes"),
    (f"{TRAIN} --train good.npz --seeds 0:1e8 --yes", "takes 100 GB of memory"),
    (f"{TRAIN} --train good.npz --seeds 0:1e400", "must be a range"),
    # Damaged, or of another kind.
    (f"{SAMPLE} --train empty.npz", "empty.npz"),
    (f"{SAMPLE} --train text.npz", "text.npz"),
    (f"{SAMPLE} --train text.safetensors", "text.safetensors"),
    (f"{SAMPLE} --train half.npz", "half.npz"),
    (f"{SAMPLE} --train half.npy", "half.npy"),
    (
        f"{SAMPLE} --train latin.csv",
        r"latin.csv\) is no UTF-8, or is damaged: byte 0xe9 at .* iconv",
    ),
    (f"{SAMPLE} --train text.parquet", "text.parquet"),
    (f"{SAMPLE} --train objects.npy", "never loaded"),
    (f"{SAMPLE} --train words.npy", "expected numbers"),
    (f"{SAMPLE} --train complex.npy", "expected numbers"),
    (f"{SAMPLE} --train broken", "0.png"),
    (f"{SAMPLE} --train pipe", r"pipe/z.png\) is neither a file nor a folder"),
    (f"{SAMPLE} --train dangling", r"dangling/z.png\) is a link to nothing"),
    # Values.
    (f"{SAMPLE} --train vast.npz", r"vast.npz\) holds values as large as .*e\+300"),
    (f"{SAMPLE} --train vast.csv", r"vast.csv\) holds values as large as 1e\+308"),
    (f"{AUDIT} --heldout vast.npz", r"vast.npz\) holds values as large as .*e\+300"),
    (f"{SAMPLE} --train utf16.csv", "iconv -f utf-16 -t utf-8"),
    (f"{SAMPLE} --train gaps.csv", "'a' .* has 2 missing values.* --missing drop"),
    (
        f"{TRAIN} --train ids.csv --heldout other_ids.csv --quiet",
        "looks like an identifier: leave the column out of all tables",
    ),
    (f"{TRAIN} --train few.npz", "give held-out data, or a --heldout-share of 0"),
    # Names are shown, and not obeyed.
    (f"{SAMPLE} --train evil\x1b[31m\x07", r"evil\\x1b\[31m\\x07"),
    (f"{SAMPLE} --train {os.fsdecode(bytes([99, 97, 102, 233]))}", r"caf\\xe9"),
    (f"{SAMPLE} --train none\x1b[2J", r"none\\x1b\[2J"),
    (f"{SAMPLE} --train good.npz --\x1b[2J", r"--\\x1b\[2J"),
    # Options.
    (f"{SAMPLE} --tra good.npz", "options are written in full, --train"),
    (f"{SAMPLE} --train good.npz --config settings.yaml", "colour"),
    (f"{SAMPLE} --train good.npz --config broken.yaml", "broken.yaml"),
    (f"{SAMPLE} --train good.npz --config nowhere.yaml", "nowhere.yaml"),
    (f"{SAMPLE} --train good.npz --config latin.yaml", "sample: option file 'latin.yaml' .*UTF-8"),
    (f"{SAMPLE} --train good.npz --config good.npz", "sample: option file 'good.npz' .*UTF-8"),
    (f"{SAMPLE} --train good.npz --config list.yaml", "option file 'list.yaml' holds no options"),
    (f"{SAMPLE} --train good.npz --config empty.yaml", "file 'empty.yaml' holds no options"),
    (f"{SAMPLE} --train good.npz --num=", "--num: expected int, got nothing"),
    (f"{SAMPLE} --train good.npz --limit=", "--limit: expected int or nothing, got ''"),
    (f"{SAMPLE} --train images --mode CMYK", "--mode: expected L or RGB or RGBA, got CMYK"),
    (f"{SAMPLE} --train=", "--train is empty"),
    (f"{SAMPLE} --train good.npz --device cuda", "device 'cuda' is not available"),
    (f"{SAMPLE} --train good.npz --device meta", "device 'meta' is not available"),
    (f"{SAMPLE} --train good.npz --device gpu", "device 'gpu' is not available"),
    (
        f"{SAMPLE} --train good.npz --regularizer temperature --strength 0",
        "--strength must be positive",
    ),
    (f"{AUDIT} --seed -1", "--seed must be at least 0, got -1"),
    (f"{TRAIN} --train good.npz --seed -1", "--seed must be at least 0"),
    (f"{TRAIN} --train good.npz --seed 99999999999999999999999", "--seed must be below 2"),
    (f"{TRAIN} --train good.npz --time-limit 1e999", "--time-limit must be .*finite"),
    (f"{TRAIN} --train good.npz --monitor-samples 0", "--monitor-samples must be at least 2"),
    (f"{TRAIN} --train good.npz --sampler-steps 0", "--sampler-steps must be an integer"),
    (f"{TRAIN} --train good.npz --tikhonov -1", "--tikhonov must be"),
    (f"{TRAIN} --train good.npz --augment-shift 2", "--augment-shift must lie"),
    (f"{TRAIN} --train good.npz --augment-zoom 2", "--augment-zoom must lie"),
    (f"{TRAIN} --train good.npz --clip 0", "--clip must be positive.* leave it out not to clip"),
    ("doctor --points 5", "doctor: --points was given without --benchmark"),
    ("sample --train good.npz --out held.npz", ".held.npz.lock.* is no lock: remove it"),
    ("sample --train good.npz --out a_file/o.npz", "a_file"),
    ("sample --train good.npz --out images", "is a folder: give the name of a file"),
    ("sample --train good.npz --out", "expected one argument"),
    (f"{AUDIT} --features resnet", "resnet"),
    (f"{AUDIT} --heldout nowhere", "nowhere"),
    (f"{AUDIT} --cache a_file", "a_file"),
    (f"{AUDIT} --sampler-settings good.npz", "good.npz"),
    ("audit --generated good.npz --train good.npz --out a_file", "is a file"),
    ("train --train good.npz --out a_file", "is a file"),
    ("reproduce --out a_file", "is a file"),
    ("reproduce --out r --only nothing", "nothing"),
    ("nothing", "nothing"),
]


@pytest.mark.parametrize(("command", "said"), BAD, ids=[ascii(command) for command, _ in BAD])
def test_bad_input_is_one_sentence_and_changes_nothing(corpus, capsys, monkeypatch, command, said):
    import re

    monkeypatch.chdir(corpus)
    before = contents(corpus)
    code, text, error = run(capsys, *command.split(" "))
    assert (code, text, error.count("\n")) == (2, "", 1), error
    assert error.startswith("memdiff") and "Traceback" not in error
    assert re.search(said, error), error
    assert not any(ord(letter) < 32 and letter != "\n" for letter in error), ascii(error)
    assert contents(corpus) == before


@pytest.mark.parametrize(
    "command",
    [
        "sample --train good.npz --out o.npz --num 1000000 --steps 100000 --batch-size 100",
        f"{TRAIN} --train good.npz --steps 100000000000 {' '.join(SMALL)} --monitor-every 9999999",
    ],
    ids=["sample", "train"],
)
def test_work_of_years_is_asked_for(corpus, capsys, monkeypatch, command):
    monkeypatch.chdir(corpus)
    before = contents(corpus)
    code, text, error = run(capsys, *command.split())
    assert (code, text, error.count("\n")) == (2, "", 1), error
    assert "this takes about" in error and "give --yes" in error
    assert contents(corpus) == before


def test_without_permission_a_file_is_not_called_damaged(corpus, capsys, monkeypatch):
    """Root may read everything, so the refusal of the system is simulated."""
    monkeypatch.chdir(corpus)
    real = open

    def refuse(path, *arguments, **options):
        if str(path).endswith("good.npz"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr(io, "open", refuse)
    code, _, error = run(capsys, *f"{SAMPLE} --train good.npz".split())
    assert code == 2 and error.count("\n") == 1
    assert "good.npz) may not be read: permission denied" in error and "damaged" not in error


def test_a_full_disk_names_the_file(corpus, tmp_path, capsys, monkeypatch):
    from memdiff.run import writing

    monkeypatch.chdir(tmp_path)

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing, "_flush", full)
    code, _, error = run(
        capsys, "sample", "--train", corpus / "good.npz", "--num", 2, "--steps", 3, "--quiet",
        "--out", "o.npz",
    )  # fmt: skip
    assert (code, error) == (2, "memdiff sample: No space left on device: o.npz\n")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("closed", [1, 2])
def test_a_closed_stream_is_no_fault(corpus, tmp_path, closed):
    """`>&-` leaves Python without the stream."""
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" "$@" {closed}>&-', sys.executable, "-m", "memdiff", "sample",
         "--train", str(corpus / "good.npz"), "--num", "2", "--steps", "3", "--out", "o.npz"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and (tmp_path / "o.npz").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_standard_error_is_no_failed_gate(corpus, tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "memdiff", "sample", "--train", str(corpus / "good.npz"),
             "--num", "2", "--steps", "3", "--out", "o.npz"],
            stdout=subprocess.PIPE, stderr=full, cwd=tmp_path,
        )  # fmt: skip
    assert done.returncode == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_standard_output_is_one_sentence(corpus, tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "memdiff", "sample", "--train", str(corpus / "good.npz"),
             "--num", "2", "--steps", "3", "--out", "o.npz", "--quiet"],
            stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "No space left on device" in done.stderr


def test_a_fault_of_ours_is_not_a_gate(corpus, tmp_path, capsys, monkeypatch):
    from memdiff.generate import generation

    def broken(*arguments, **options):
        raise IndexError("list index out of range")

    monkeypatch.setattr(generation, "sample", broken)
    code, _, error = run(
        capsys, "sample", "--train", corpus / "good.npz", "--out", tmp_path / "o.npz"
    )
    assert code == FAULT_EXIT != 1
    assert "Traceback" in error  # it is what a report of the fault needs
    assert error.splitlines()[-1].startswith("memdiff sample: IndexError: list index out of range")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError("Unable to allocate 7.28 TiB for an array"), "7.28 TiB were asked for"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate "
                      "800000000000 bytes. Error code 12"), "800 GB were asked for"),
        (MemoryError(), "more were asked for"),
    ],
)  # fmt: skip
def test_memory_that_runs_out_is_one_sentence(corpus, tmp_path, capsys, monkeypatch, error, said):
    from memdiff.generate import generation

    def full(*arguments, **options):
        raise error

    monkeypatch.setattr(generation, "sample", full)
    code, _, text = run(
        capsys, "sample", "--train", corpus / "good.npz", "--out", tmp_path / "o.npz"
    )
    assert code == 2 and text.count("\n") == 1
    assert "there is not enough memory: " + said in text


def test_warnings_of_libraries_do_not_leak_and_quiet_is_quiet(
    corpus, tmp_path, capsys, monkeypatch
):
    import warnings

    from memdiff.generate import generation

    real = generation.sample

    def noisy(*arguments, **options):
        np.float64(1.0) / np.float64(0.0)
        warnings.warn_explicit(
            "old. (Triggered internally at x.cpp:1.)", UserWarning, generation.__file__, 1
        )
        warnings.warn_explicit("ours", UserWarning, generation.__file__, 1)
        return real(*arguments, **options)

    monkeypatch.setattr(generation, "sample", noisy)
    command = ("sample", "--train", corpus / "good.npz", "--num", 2, "--steps", 3)
    code, _, error = run(capsys, *command, "--out", tmp_path / "a.npz")
    assert code == 0
    assert [line.split(": ")[1:3] for line in error.splitlines()] == [
        ["warning", "ours"],
        ["note", "the unregularised empirical score returns training data; choose a --regularizer "
                 "for samples that do not."],
    ]  # fmt: skip
    code, _, error = run(capsys, *command, "--out", tmp_path / "b.npz", "--quiet")
    assert (code, error) == (0, "")


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    """A run of 12 steps."""
    folder = tmp_path_factory.mktemp("run") / "run"
    with pytest.raises(SystemExit):
        main(["train", "--train", str(corpus / "good.npz"), "--out", str(folder), "--steps", "12",
              *SMALL, "--quiet"])  # fmt: skip
    return folder


def cut(path, end=""):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] + end.encode())


@pytest.mark.parametrize(
    ("damage", "said", "mend"),
    [
        (
            lambda folder: cut(folder / "state.safetensors"),
            r"state.safetensors' is damaged.* move the file away, .* starts from step 0",
            lambda folder: (folder / "state.safetensors").unlink(),
        ),
        (
            lambda folder: cut(folder / "metrics.jsonl", "\n"),
            r"line \d+ of '.*metrics.jsonl' is damaged.* remove that line",
            lambda folder: (folder / "metrics.jsonl").unlink(),
        ),
        (lambda folder: cut(folder / "config.json"), None, None),
        (
            lambda folder: [cut(folder / "config.json"), (folder / "state.safetensors").unlink()],
            r"config.json' is damaged, it is no whole JSON",
            lambda folder: shutil.rmtree(folder),
        ),
    ],
    ids=["state", "journal", "config", "config and state"],
)
def test_a_damaged_run_says_how_to_go_on(corpus, finished, tmp_path, capsys, damage, said, mend):
    """What the sentence says to do is done, and the same command then ends."""
    import re

    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    damage(folder)
    command = ("train", "--train", corpus / "good.npz", "--out", folder, "--steps", 16, *SMALL)
    if said is not None:
        before = contents(folder)
        code, text, error = run(capsys, *command)
        assert (code, text, error.count("\n")) == (2, "", 1), error
        assert re.search(said, error), error
        assert contents(folder) == before
        mend(folder)
    code, text, error = run(capsys, *command)
    assert code == 0 and "done: 16 steps" in text, error


def test_training_that_diverges_says_so(corpus, tmp_path, capsys):
    for number, rate in enumerate(("1e30", "1e5")):
        code, _, error = run(
            capsys, "train", "--train", corpus / "good.npz", "--out", tmp_path / str(number),
            "--steps", 20, "--lr", rate, *SMALL,
        )  # fmt: skip
        assert code == 2 and error.count("\n") == 1
        assert "training has diverged" in error and "lower the learning rate (--lr" in error


def test_a_name_that_is_no_utf8_does_not_cost_the_page(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for folder in ("train", "generated"):
        (tmp_path / folder).mkdir()
        for i in range(24):
            name = os.fsdecode(f"{i}".encode() + b"\xe9\x1b[31m.png")
            pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / name)
    shutil.copytree(tmp_path / "train", tmp_path / "generated", dirs_exist_ok=True)
    code, text, error = run(
        capsys, "audit", "--generated", tmp_path / "generated", "--train", tmp_path / "train",
        "--out", tmp_path / "report",
    )  # fmt: skip
    assert code == 0, error
    assert "\x1b" not in text + error
    page = (tmp_path / "report" / "report.html").read_text("utf-8")
    assert r"\xe9\x1b[31m.png" in page and "\x1b" not in page
    json.loads((tmp_path / "report" / "report.json").read_text("utf-8"))


def _without_privileges(*arguments, cwd):
    """Run a command as root without the right to read everything, or as the user that we are."""
    command = [sys.executable, "-m", "memdiff", *map(str, arguments)]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root reads everything here")
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


@pytest.mark.parametrize(
    ("forbidden", "mode", "command", "said"),
    [
        ("locked", 0o000, f"{SAMPLE} --train locked", "Permission denied: locked\n"),
        ("locked", 0o000, f"{SAMPLE} --train locked/a.npz", "Permission denied: locked/a.npz\n"),
        (
            "locked",
            0o555,
            "sample --train good.npz --num 2 --steps 2 --out locked/o.npz",
            "Permission denied: locked\n",
        ),
        ("run/config.json", 0o000, f"{TRAIN} --train good.npz", "denied: run/config.json\n"),
    ],
)
def test_what_may_not_be_read_or_written_is_named(
    corpus, finished, tmp_path, forbidden, mode, command, said
):
    (tmp_path / "locked").mkdir()
    shutil.copy(corpus / "good.npz", tmp_path / "good.npz")
    shutil.copy(corpus / "good.npz", tmp_path / "locked" / "a.npz")
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "state.safetensors").unlink()
    path = tmp_path / forbidden
    path.chmod(mode)
    try:
        done = _without_privileges(*command.split(), cwd=tmp_path)
    finally:
        path.chmod(0o755)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert said in done.stderr
