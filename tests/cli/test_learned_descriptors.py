"""Learned descriptors from the command line to a verdict, each with a network made here."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from memdiff.cli import main

COUNT = 120
COPIES = 24


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Colour images: train, held-out, fresh samples, and samples of which a fifth are copies."""
    folder = tmp_path_factory.mktemp("sets")
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(3 * COUNT, 3, 8, 8, generator=generator)
    smooth = nn.functional.interpolate(coarse, (24, 24), mode="bicubic").clamp(0, 1)
    images = (255 * smooth).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    train, heldout, fresh = images.reshape(3, COUNT, 24, 24, 3)
    copies = np.concatenate([fresh[COPIES:], train[:COPIES]])
    arrays = {"train": train, "heldout": heldout, "fresh": fresh, "copies": copies}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return {name: str(folder / f"{name}.npy") for name in arrays}


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """A TorchScript network of a few random filters, at any size."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()
    )
    path = tmp_path_factory.mktemp("script") / "tiny.pt"
    torch.jit.save(torch.jit.script(module.eval()), path)
    return path


@pytest.fixture(scope="module")
def transformer(tmp_path_factory):
    """A ViT with random weights, as ``save_pretrained`` writes it with its preprocessing."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=24,
        patch_size=6,
    )
    folder = tmp_path_factory.mktemp("transformers") / "vit"
    transformers.ViTModel(config).save_pretrained(folder)
    stated = {"do_resize": True, "size": {"height": 24, "width": 24}, "resample": 2}
    stated |= {"do_rescale": True, "rescale_factor": 1 / 255}
    stated |= {"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(stated))
    return folder


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """An ONNX network for single images of 20 x 20 pixels: one layer of random filters."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    filters = np.random.default_rng(0).normal(size=(8, 3, 5, 5)).astype(np.float32)
    nodes = [
        onnx.helper.make_node("Conv", ["images", "filters"], ["maps"], strides=[5, 5]),
        onnx.helper.make_node("Relu", ["maps"], ["positive"]),
        onnx.helper.make_node("Flatten", ["positive"], ["features"]),
    ]
    made = onnx.helper.make_graph(
        nodes,
        "tiny",
        [onnx.helper.make_tensor_value_info("images", 1, [1, 3, 20, 20])],
        [onnx.helper.make_tensor_value_info("features", 1, [1, 128])],
        [onnx.numpy_helper.from_array(filters, "filters")],
    )
    model = onnx.helper.make_model(
        made, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
    )
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    onnx.save(model, path)
    return path


FORMS = {
    "sscd": ("script", "sscd:{}", "sscd"),
    "torchscript": ("script", "torchscript:{}:as-is", "torchscript:tiny"),
    "transformers": ("transformer", "transformers:{}", "transformers:vit"),
    "onnx": ("graph", "onnx:{}", "onnx:tiny"),
    "onnx-preset": ("graph", "onnx:{}:as-is", "onnx:tiny"),
}


def arguments(sets, samples, features, out):
    return (
        *("audit", "--generated", sets[samples], "--train", sets["train"]),
        *("--heldout", sets["heldout"], "--features", *features, "--out", str(out), "--quiet"),
    )


def run(capsys, *given):
    capsys.readouterr()  # what the fixtures printed
    with pytest.raises(SystemExit) as stopped:
        main(given)
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


@pytest.mark.parametrize("samples", ["copies", "fresh"])
@pytest.mark.parametrize("form", FORMS)
def test_from_the_command_line_to_a_verdict(request, sets, tmp_path, capsys, form, samples):
    """A fifth of copies is memorising, fresh samples are not: in features compared by cosine."""
    fixture, text, name = FORMS[form]
    features = text.format(request.getfixturevalue(fixture))
    code, out, err = run(capsys, *arguments(sets, samples, [features], tmp_path / "audit"))
    assert (code, err) == (0, "")
    report = json.loads((tmp_path / "audit" / "report.json").read_text())
    assert out.startswith(report["verdict"])
    assert (report["verdict"] == "memorizing") == (samples == "copies")
    (evidence,) = report["evidence"]
    assert (evidence["descriptor"], evidence["metric"]) == (name, "cosine")


def test_learned_descriptors_beside_pixels(sets, script, graph, tmp_path, capsys):
    """Metrics differ within one audit."""
    features = ["pixels", f"sscd:{script}", f"onnx:{graph}"]
    code, _, err = run(capsys, *arguments(sets, "copies", features, tmp_path))
    assert (code, err) == (0, "")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["verdict"] == "memorizing"
    metrics = [entry["metric"] for entry in report["evidence"]]
    assert metrics == ["euclidean", "cosine", "cosine"]


def test_no_measurement_of_an_audit_is_shut_out_by_its_metric(sets, graph, tmp_path, capsys):
    """Each is made, or left out of the panel: none ends in a refusal of the distances."""
    code, _, _ = run(capsys, *arguments(sets, "copies", [f"onnx:{graph}"], tmp_path))
    assert code == 0
    report = json.loads((tmp_path / "report.json").read_text())
    measured = {entry["title"]: entry for entry in report["evidence"][0]["measurements"]}
    assert "maximal cosine similarity" in measured and "calibrated L2" not in measured
    assert [title for title, entry in measured.items() if entry["result"] is None] == []
    assert measured["maximal cosine similarity"]["result"]["value"] >= COPIES / COUNT


def test_a_process_of_its_own_says_nothing_but_the_result(sets, graph, tmp_path):
    """Libraries that log when they are loaded do so in a fresh process only."""
    given = arguments(sets, "copies", [f"onnx:{graph}"], tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "memdiff", *given], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("memorizing")


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ("onnx", ("need a path", "onnx:FILE[:PRESET]")),
        ("onnx:absent.onnx", ("absent.onnx", "nothing is downloaded")),
        ("onnx:{damaged}", ("damaged.onnx", "cannot be loaded as an ONNX model")),
        ("onnx:{graph}:imagnet", ("unknown preset 'imagnet'", "sscd-288")),
        ("sscd:{graph}", ("tiny.onnx", "not a TorchScript file")),
        ("torchscript:{script}", ("how images are prepared", "torchscript:FILE:PRESET")),
        ("torchscript:{linear}:as-is", ("could not be run", "(120, 3, 24, 24)", "preset")),
        ("transformers:{transformer}:clip", ("224", "24")),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(request, sets, tmp_path, capsys, features, words):
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(request.getfixturevalue("graph").read_bytes()[:200])
    linear = tmp_path / "linear.pt"
    torch.jit.save(torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(7, 2))), linear)
    paths = {name: request.getfixturevalue(name) for name in ("script", "transformer", "graph")}
    text = features.format(**paths, damaged=damaged, linear=linear)
    code, _, err = run(capsys, *arguments(sets, "fresh", [text], tmp_path / "audit"))
    assert code == 2
    assert err.startswith("memdiff audit: ") and err.count("\n") == 1
    for word in words:
        assert word in err
