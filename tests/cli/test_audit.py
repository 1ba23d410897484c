"""``memdiff audit`` as a user meets it: the library's result, the gate, one line for mistakes."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from memdiff.audit import audit
from memdiff.cli import main
from memdiff.data import load


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["audit", *(str(argument) for argument in arguments)])
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Files of vectors: train, held-out, samples with a fifth of copies, and fresh samples."""
    folder = tmp_path_factory.mktemp("sets")
    train, heldout, fresh = np.random.default_rng(0).normal(size=(3, 100, 4)).astype(np.float32)
    copies = np.concatenate([train[:20], fresh[20:]])
    arrays = {"train": train, "heldout": heldout, "fresh": fresh, "copies": copies}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return {name: folder / f"{name}.npy" for name in arrays}


def asked(sets, samples="copies"):
    return (
        *("--generated", sets[samples], "--train", sets["train"]),
        *("--heldout", sets["heldout"]),
    )


def without_run(text):
    result = json.loads(text)
    assert "command" in result.pop("provenance")
    return result


def test_same_result_as_the_library_call(sets, tmp_path, capsys):
    """Catches an option that is dropped or crossed on its way."""
    out = tmp_path / "out"
    options = {
        "features": ["pixels", "pca:2"],
        "level": 0.03,
        "resolution": 0.02,
        "false_discovery_rate": 0.2,
        "duplicate_tolerance": 0.03,
        "fail_above": 0.9,
        "seed": 5,
    }
    flags = []
    for name, value in options.items():
        flags += [f"--{name.replace('_', '-')}", *(value if isinstance(value, list) else [value])]
    code, text, err = run(capsys, *asked(sets), "--limit", 80, *flags, "--out", out)
    assert (code, err) == (0, "")
    expected = audit(
        generated=load(sets["copies"], limit=80),
        train=load(sets["train"], limit=80),
        heldout=load(sets["heldout"], limit=80),
        **options,
    )
    assert without_run((out / "report.json").read_text()) == without_run(expected.to_json())
    lines = text.splitlines()
    assert lines[0] == f"memorizing: {expected.decision.sentence}"
    assert lines[1:-1] == [f"- {one.finding} {one.action}" for one in expected.advice]
    assert lines[-1] == f"report: {out / 'report.html'}"
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "report.json"]


def test_invariance_cache_and_sampler_settings(tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 6, 6), dtype=np.uint8)
    np.save(tmp_path / "train.npy", images[0])
    np.save(tmp_path / "heldout.npy", images[1])
    np.save(tmp_path / "mirrored.npy", images[0, :30, :, ::-1])
    (tmp_path / "how.json").write_text('{"sampler": "heun", "steps": 12}')
    code, _, err = run(
        capsys,
        *("--generated", tmp_path / "mirrored.npy", "--train", tmp_path / "train.npy"),
        *("--heldout", tmp_path / "heldout.npy", "--out", tmp_path / "out"),
        *("--invariance", "flip", "--features", "dct:3", "--cache", tmp_path / "cache"),
        *("--sampler-settings", tmp_path / "how.json"),
    )
    assert code == 0, err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["verdict"] == "memorizing"
    assert {pair["variant"] for pair in report["pairs"] if pair["flagged"]} == {"flip"}
    assert report["provenance"]["sampler"] == {"sampler": "heun", "steps": 12}
    assert any((tmp_path / "cache").iterdir())


def test_gate_is_the_only_way_to_exit_code_1(sets, tmp_path, capsys):
    out = ("--out", tmp_path, "--overwrite")
    code, text, err = run(capsys, *asked(sets), *out)
    assert (code, err) == (0, "") and text.startswith("memorizing")
    code, text, err = run(capsys, *asked(sets), *out, "--fail-above", 0.05)
    assert code == 1 and text.startswith("memorizing")
    assert err.count("\n") == 1 and "gate failed" in err and "0.05" in err
    code, _, err = run(capsys, *asked(sets), *out, "--fail-above", 0.6)
    assert (code, err) == (0, "")
    code, text, err = run(capsys, *asked(sets, "fresh"), *out, "--fail-above", 0)
    assert (code, err) == (0, "") and not text.startswith("memorizing")


def test_json_on_standard_output_is_the_summary(sets, tmp_path, capsys):
    code, text, _ = run(
        capsys, *asked(sets), "--out", tmp_path, "--json", "--quiet", "--fail-above", 0.05
    )
    summary = json.loads(text)
    report = json.loads((tmp_path / "report.json").read_text())
    assert code == 1 and summary["gate"] == {"fail_above": 0.05, "failed": True}
    for key in ("schema", "verdict", "decision", "advice"):
        assert summary[key] == report[key]
    assert summary["flagged"] == sum(pair["flagged"] for pair in report["pairs"])
    assert summary["report"]["html"] == str(tmp_path / "report.html")


def test_report_opens_offline(sets, tmp_path, capsys):
    run(capsys, *asked(sets), "--out", tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert "default-src 'none'" in text
    outside = [
        t for t in re.findall(r'(?:src|href)="([^"]*)"', text) if t[:5] not in ("data:", "")
    ]
    assert all(t.startswith(("#", "https://arxiv.org/abs/")) for t in outside)


def make_folder(folder, count, size=(6, 6), seed=0):
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def test_size_applies_to_the_folder_and_not_to_the_array_of_samples(tmp_path, capsys):
    folder = make_folder(tmp_path / "train", 20, (12, 12))
    samples = np.random.default_rng(1).integers(0, 256, (20, 6, 6), dtype=np.uint8)
    np.save(tmp_path / "samples.npy", samples)
    arguments = ("--generated", tmp_path / "samples.npy", "--train", folder, "--out", tmp_path)
    code, _, err = run(capsys, *arguments, "--size", 6)
    assert code == 0, err
    code, _, err = run(capsys, *arguments, "--overwrite")
    assert code == 2 and "(1, 6, 6)" in err and "(1, 12, 12)" in err


def bad_inputs(folder, sets):
    """(arguments, words of the sentence)."""
    rng = np.random.default_rng(0)
    train, generated = ("--train", sets["train"]), ("--generated", sets["fresh"])
    arrays = {
        "nan": np.array([[1.0, np.nan, 0, 0], [2.0, 3.0, 0, 0]]),
        "one": np.ones((1, 4)),
        "same": np.ones((9, 4)),
        "wide": np.ones((9, 5)),
        "bytes": rng.integers(0, 256, (9, 6, 6), dtype=np.uint8),
        "unit": rng.random((9, 1, 6, 6)),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    (folder / "empty").mkdir()
    broken = make_folder(folder / "broken", 3)
    (broken / "9.png").write_bytes(b"\x89PNG not an image")
    (folder / "list.json").write_text("[1]")
    (folder / "text.json").write_text("steps: 3")
    yield [*generated, "--train", folder / "missing.npz"], "missing.npz"
    yield ["--generated", folder / "missing.npz", *train], "generated: no file"
    yield [*generated, *train, "--heldout", folder / "missing.npz"], "heldout: no file"
    yield ["--generated", folder / "nan.npy", *train], "NaN"
    yield [*generated, "--train", folder / "one.npy"], "at least 2"
    yield [*generated, "--train", folder / "same.npy"], "two different training points"
    yield [*generated, "--train", folder / "empty"], "empty folder"
    yield ["--generated", folder / "wide.npy", *train], "shape (5,)"
    yield [*generated, "--train", broken], "9.png"
    yield (
        ["--generated", folder / "unit.npy", "--train", folder / "bytes.npy"],
        "generated (",  # and the ranges of both
    )
    yield ["--generated", folder / "bytes.npy", *train], "images but"
    good = [*generated, *train]
    yield [*good, "--features", "resnet"], "unknown features 'resnet'"
    yield [*good, "--features", "pixels", "pixels"], "distinct"
    yield [*good, "--features", f"sscd:{folder}/none.pt"], "none.pt"
    yield [*good, "--invariance", "mirror"], "mirror"
    yield [*good, "--invariance", "flip"], "invariance needs images"
    yield [*good, "--level", "1.5"], "level must lie between 0 and 1"
    yield [*good, "--level", "low"], "--level: expected float, got low"
    yield [*good, "--fail-above", "2"], "--fail-above must"
    yield [*good, "--device", "cuda:99"], "cuda:99"
    yield [*good, "--size", "8"], "--size does not apply"
    yield [*good, "--sampler-settings", folder / "none.json"], "none.json"
    yield [*good, "--sampler-settings", folder / "text.json"], "no JSON"
    yield [*good, "--sampler-settings", folder / "list.json"], "must be a JSON object"
    yield [*good, "--colour", "red"], "unrecognized arguments: --colour red"
    yield [*generated], "missing --train"


def test_bad_input_is_one_line_and_exit_code_2_and_leaves_the_old_report(sets, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.json").write_text("earlier result")
    for arguments, words in bad_inputs(tmp_path, sets):
        code, text, err = run(capsys, *arguments, "--out", out, "--overwrite")
        assert code == 2, (arguments, err)
        assert text == "" and err.count("\n") == 1 and err.startswith("memdiff"), err
        assert words in err, (words, err)
    assert (out / "report.json").read_text() == "earlier result"
    assert [path.name for path in out.iterdir()] == ["report.json"]
    code, _, err = run(capsys, *asked(sets), "--out", sets["train"])
    assert code == 2 and "train.npy" in err and err.count("\n") == 1


def test_mismatched_ranges_say_which_set_is_which(tmp_path, capsys):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "a.npy", rng.integers(0, 256, (9, 1, 6, 6), dtype=np.uint8))
    np.save(tmp_path / "b.npy", rng.random((9, 1, 6, 6)) * 255)
    code, _, err = run(
        capsys,
        *("--generated", tmp_path / "b.npy", "--train", tmp_path / "a.npy", "--out", tmp_path),
    )
    assert code == 2 and "generated" in err and "train" in err and "255" in err


def test_warnings_are_lines_and_not_tracebacks(sets, tmp_path, capsys, monkeypatch):
    import warnings

    from memdiff.audit import examination

    whole = examination.prepare

    def noisy(*arguments, **options):
        warnings.warn("the likelihood is odd", stacklevel=1)
        return whole(*arguments, **options)

    monkeypatch.setattr(examination, "prepare", noisy)
    code, _, err = run(capsys, *asked(sets), "--out", tmp_path)
    assert (code, err) == (0, "memdiff audit: warning: the likelihood is odd\n")


def test_help_has_an_example(capsys):
    code, text, _ = run(capsys, "--help")
    assert code == 0 and "Example: memdiff audit --generated" in " ".join(text.split())
