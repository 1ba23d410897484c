"""Options that say how data are read: the advice of a message can be followed to its end."""

import re
import shlex

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from memdiff.cli import main
from memdiff.cli.wording import as_options


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


@pytest.fixture
def digits(tmp_path):
    """Digits as a folder of PNG, floats in [0, 1], floats in [0, 255] and float TIFF in [0, 1]."""
    x = load_digits().images / 16
    (tmp_path / "png").mkdir()
    (tmp_path / "tif").mkdir()
    for i in range(150):
        Image.fromarray((255 * x[i]).round().astype(np.uint8)).save(tmp_path / f"png/{i}.png")
    for i in range(60):
        Image.fromarray(x[i].astype(np.float32)).save(tmp_path / f"tif/{i}.tif")
    np.savez(tmp_path / "unit.npz", x=x[200:300].astype(np.float32))
    np.save(tmp_path / "byte.npy", (255 * x[300:400]).astype(np.float32))
    wide = np.linspace(-1, 1, 120, dtype=np.float32).reshape(1, 10, 12)
    np.save(tmp_path / "wide.npy", np.concatenate([wide, -wide, wide / 2]))
    return tmp_path


def advice(sentence):
    """The options that a sentence names, as a shell would take them."""
    found = re.findall(r"(--[\w-]+(?: [^-][^ ,;]*)?)", sentence.rstrip(". \n"))
    return [word for option in found for word in shlex.split(option.rstrip("."))]


def audit(capsys, folder, *options, **sets):
    paths = [word for name, file in sets.items() for word in (f"--{name}", folder / file)]
    out = ("--out", folder / "audit", "--overwrite")
    return run(capsys, "audit", *paths, *out, "--quiet", *options)


def test_the_advice_about_ranges_is_followed_until_the_audit_runs(digits, capsys):
    sets = {"generated": "unit.npz", "train": "png", "heldout": "byte.npy"}
    options = ["--value-range"]
    for expected in ("generated=unit", "heldout=byte"):
        code, _, err = audit(capsys, digits, *(options if len(options) > 1 else ()), **sets)
        assert code == 2 and advice(err)[:2] == ["--value-range", expected], err
        options.append(expected)
    code, _, err = audit(capsys, digits, *options, **sets)
    assert code == 0, err


def test_one_range_is_that_of_all_array_files(digits, capsys):
    sets = {"generated": "unit.npz", "train": "png"}
    assert audit(capsys, digits, "--value-range", "unit", **sets)[0] == 0
    assert audit(capsys, digits, "--value-range", "0:1", **sets)[0] == 0
    code, _, err = audit(capsys, digits, "--value-range", "unit", heldout="byte.npy", **sets)
    assert code == 2 and "heldout" in err and "far outside --value-range unit" in err
    chosen = ("--value-range", "unit", "heldout=byte")
    assert audit(capsys, digits, *chosen, heldout="byte.npy", **sets)[0] == 0


def test_the_range_of_the_values_decides_the_distances(digits, capsys):
    """A copy is a copy through the range: the mapped values are those of the folder."""
    pixels = np.stack([np.array(Image.open(digits / f"png/{i}.png")) for i in range(40)])
    np.save(digits / "copies.npy", (pixels / 255).astype(np.float32))
    sets = {"generated": "copies.npy", "train": "png"}
    code, text, err = audit(capsys, digits, "--value-range", "unit", **sets)
    assert code == 0 and "40 of the 40 samples equal a training point" in text, (text, err)


def test_floating_point_images_have_a_range_too(digits, capsys):
    sets = {"generated": "png", "train": "tif"}
    code, _, err = audit(capsys, digits, **sets)
    assert code == 2 and advice(err)[:2] == ["--value-range", "train=unit"], err
    assert audit(capsys, digits, *advice(err)[:2], **sets)[0] == 0
    code, _, err = audit(capsys, digits, "--value-range", "generated=unit", **sets)
    assert code == 2 and "--value-range does not apply to generated" in err


def test_the_advice_about_sizes_is_followed(digits, capsys):
    sets = {"generated": "wide.npy", "train": "png"}
    code, _, err = audit(capsys, digits, **sets)
    assert code == 2 and advice(err) == ["--size", "10x12"], err
    assert audit(capsys, digits, "--size", "10x12", **sets)[0] == 0
    code, _, err = audit(capsys, digits, "--size", "10by12", **sets)
    assert code == 2 and "--size must be" in err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("uint", ["unit, byte, signed or LOW:HIGH", "generated=unit", "'uint'"]),
        ("1:2:3", ["LOW:HIGH", "'1:2:3'"]),
        ("heldout=unit", ["names no set", "generated, train"]),
        ("1:0", ["LOW:HIGH", "'1:0'"]),
        ("0:inf", ["LOW:HIGH", "'0:inf'"]),
    ],
)
def test_ranges_that_are_none(given, words, digits, capsys):
    sets = {"generated": "unit.npz", "train": "png"}
    code, text, err = audit(capsys, digits, "--value-range", given, **sets)
    assert (code, text) == (2, "") and err.count("\n") == 1
    assert all(word in err for word in words), err


def test_options_that_apply_to_no_set_are_refused(digits, capsys):
    (digits / "t.csv").write_text("a,b\n1,2\n3,5\n2,2\n")
    for source, option, words in (
        ("t.csv", ("--value-range", "unit"), ["--value-range does not apply", "a table"]),
        ("t.csv", ("--layout", "channels_last"), ["--layout does not apply", "a table"]),
        ("t.csv", ("--size", "8"), ["--size does not apply", "a table"]),
        ("png", ("--no-header",), ["--no-header does not apply", "a folder of images"]),
        ("png", ("--missing", "drop"), ["--missing does not apply", "a folder of images"]),
        ("png", ("--frames", "3"), ["--frames does not apply", "a folder of images"]),
        ("unit.npz", ("--categorical", "a"), ["--categorical does not apply", "an array file"]),
    ):
        out = digits / f"out{source[-4:]}"
        code, _, err = run(
            capsys, "sample", "--train", digits / source, "--out", out.with_suffix(".npz"), *option
        )
        assert code == 2 and err.count("\n") == 1
        assert all(word in err for word in words), err


def test_images_whose_channels_are_ambiguous(digits, capsys):
    np.save(digits / "odd.npy", np.random.default_rng(0).uniform(-1, 1, (20, 3, 5, 4)))
    how = ("sample", "--train", digits / "odd.npy", "--num", 2, "--out", digits / "o.npz")
    code, _, err = run(capsys, *how)
    assert code == 2 and advice(err)[:2] == ["--layout", "channels_first"], err
    assert run(capsys, *how, "--layout", "channels_last")[0] == 0
    with np.load(digits / "o.npz") as content:
        assert content["x"].shape == (2, 4, 3, 5)


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("pass mode='RGB' or mode='L' to drop it", "pass --mode RGB or --mode L to drop it"),
        ("pass key= with one of these names.", "pass --key with one of these names."),
        ("pass size=(H, W) to make them alike.", "pass --size HxW to make them alike."),
        ("load a with size=(10, 12).", "load a with --size 10x12."),
        ("pass categorical=('a b',).", "pass --categorical 'a b'."),
        ("pass frames=3 or remove it.", "pass --frames 3 or remove it."),
        ("pass value_range=(0, 16).", "pass --value-range 0:16."),
        ("it is not value_range=(0, 1); leave it.", "it is not --value-range unit; leave it."),
        ("pass value_range=(low, high).", "pass --value-range LOW:HIGH."),
        ("/tmp/size=3/mode='L'/a.csv is", "/tmp/size=3/mode='L'/a.csv is"),
        ("steps must be at least 1.", "--steps must be at least 1."),
        ("learning_rate must be positive.", "--lr must be positive."),
        ("give a positive heldout_share.", "give a positive --heldout-share."),
        ("give a positive other_share.", "give a positive other_share."),
        ("points must be at least 1.", "points must be at least 1."),
    ],
)
def test_arguments_are_named_as_options(sentence, expected):
    options = ["steps", "lr", "heldout_share"]
    assert as_options(sentence, options) == as_options(sentence, iter(options)) == expected


def test_a_command_names_its_own_options(digits, capsys):
    how = ("train", "--train", "points20", "--out", digits / "run", "--steps", "2")
    for option, words in (
        (("--lr", "-1"), ["--lr must be positive"]),
        (("--batch-size", "0"), ["--batch-size must be"]),
        (
            ("--stop-on-memorization", "--heldout-share", "0"),
            ["--stop-on-memorization needs", "positive --heldout-share."],
        ),
    ):
        code, _, err = run(capsys, *how, *option)
        assert code == 2 and all(word in err for word in words), err
