"""Descriptors from the text of the command line."""

import json

import pytest
import torch
from torch import nn

from memdiff.features import (
    DCT,
    DESCRIPTOR_FORMS,
    PCA,
    PREPROCESSING_PRESETS,
    Downscaled,
    Pixels,
    TableColumns,
    Thumbnail,
    TorchScript,
    parse_descriptor,
)


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "model.pt"
    torch.jit.save(torch.jit.script(nn.Flatten()), path)
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pixels", Pixels()),
        (" table ", TableColumns()),
        ("downscaled:16", Downscaled(16)),
        ("pca:64", PCA(64)),
        ("dct:8", DCT(8)),
        ("thumbnail:8", Thumbnail(8)),
    ],
)
def test_text_gives_the_descriptor(text, expected):
    made = parse_descriptor(text)
    assert made.fingerprint == expected.fingerprint
    assert made.name == text.strip()


def test_sscd_has_the_preprocessing_of_its_authors_unless_told(script):
    made = parse_descriptor(f"sscd:{script}")
    assert isinstance(made, TorchScript)
    assert made.name == "sscd"
    assert made.metric == "cosine"
    assert made.preprocessing == PREPROCESSING_PRESETS["sscd-288"]
    told = parse_descriptor(f"sscd:{script}:sscd-wen")
    assert told.preprocessing == PREPROCESSING_PRESETS["sscd-wen"]


def test_torchscript_needs_a_preset(script, refusal):
    made = parse_descriptor(f"torchscript:{script}:clip")
    assert made.preprocessing == PREPROCESSING_PRESETS["clip"]
    assert made.name == "torchscript:model"
    with refusal("how images are prepared", "torchscript:FILE:PRESET", "imagenet"):
        parse_descriptor(f"torchscript:{script}")


def test_paths_may_hold_colons(tmp_path):
    path = tmp_path / "a:clip" / "model:1.pt"
    path.parent.mkdir()
    torch.jit.save(torch.jit.script(nn.Flatten()), path)
    assert parse_descriptor(f"sscd:{path}").path == path
    assert parse_descriptor(f"torchscript:{path}:clip").path == path


def test_transformers_folders_state_their_preprocessing_or_are_told(tmp_path, refusal):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "tiny"
    config = transformers.Dinov2Config(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=28
    )
    transformers.Dinov2Model(config).save_pretrained(folder)
    with refusal("preprocessor_config.json", "dinov2"):
        parse_descriptor(f"transformers:{folder}")
    told = parse_descriptor(f"transformers:{folder}:dinov2")
    assert told.preprocessing == PREPROCESSING_PRESETS["dinov2"]
    assert told.name == "transformers:tiny"
    stated = {"do_resize": True, "size": {"height": 28, "width": 28}, "resample": 3}
    stated |= {"do_rescale": True, "do_normalize": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(stated))
    assert parse_descriptor(f"transformers:{folder}").preprocessing.resize == (28, 28)


@pytest.mark.parametrize("text", ["", "resnet", "Pixels", "pixel", ":8", "pca64"])
def test_unknown_names_are_refused_with_what_exists(text, refusal):
    with refusal(repr(text), *DESCRIPTOR_FORMS):
        parse_descriptor(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pixels:8", ("no argument", "'pixels:8'")),
        ("table:", ("no argument",)),
        ("pca", ("number", "'pca:16'")),
        ("pca:0", ("number", "'pca:0'")),
        ("dct:8x8", ("number",)),
        ("downscaled:-4", ("number",)),
        ("dct:²", ("number",)),
        ("sscd", ("path", "sscd:FILE[:PRESET]")),
        ("torchscript:", ("path", "torchscript:FILE:PRESET")),
        ("onnx", ("path", "onnx:FILE[:PRESET]")),
        ("transformers:", ("path", "transformers:FOLDER[:PRESET]")),
    ],
)
def test_arguments_that_are_missing_or_wrong_are_refused(text, words, refusal):
    with refusal(*words):
        parse_descriptor(text)


def test_paths_that_do_not_exist_and_unknown_presets_are_refused(script, refusal):
    with refusal("'sscd'", "/absent.pt", error=FileNotFoundError):
        parse_descriptor("sscd:/absent.pt")
    with refusal("'onnx:absent'", "/absent.onnx", error=FileNotFoundError):
        parse_descriptor("onnx:/absent.onnx")
    with refusal("/absent", error=FileNotFoundError):
        parse_descriptor("transformers:/absent")
    with refusal("unknown preset 'imagnet'", "imagenet"):
        parse_descriptor(f"sscd:{script}:imagnet")
