"""Networks in Python, TorchScript files and transformers folders, on real and on tiny weights."""

import builtins
import json
import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

from memdiff.data import load
from memdiff.features import (
    PREPROCESSING_PRESETS,
    Network,
    Preprocessing,
    TorchScript,
    TransformersModel,
)
from memdiff.neighbors import nearest

SMALL = replace(PREPROCESSING_PRESETS["imagenet"], resize=(64, 64), crop=None)


# EfficientNet with trained weights


def test_features_are_the_outputs_of_the_network(efficientnet, images):
    data = images(channels=3, height=20, width=20)
    rows = Network(efficientnet, name="efficientnet", preprocessing=SMALL).features(data)
    with torch.no_grad():
        expected = efficientnet(SMALL(data.x))
    assert rows.shape == (12, 1000)
    torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-4)


def test_trained_features_recognise_a_disturbed_copy(efficientnet):
    digits = load("digits").subset(slice(0, 40))
    generator = torch.Generator().manual_seed(0)
    noisy = digits.x + 0.05 * torch.randn(digits.x.shape, generator=generator)
    network = Network(efficientnet, name="efficientnet", preprocessing=SMALL)
    train = network.features(digits)
    found = nearest(network.features(replace(digits, x=noisy)), train, 1, metric=network.metric)
    assert found.indices[:, 0].tolist() == list(range(40))


def test_a_traced_file_gives_the_features_of_its_network(efficientnet, images, tmp_path):
    data = images(channels=1)  # grey: the preprocessing repeats the channel
    traced = torch.jit.trace(efficientnet, torch.zeros(2, 3, 64, 64))
    path = tmp_path / "efficientnet.pt"
    torch.jit.save(traced, path)
    script = TorchScript(path, preprocessing=SMALL)
    network = Network(efficientnet, name="efficientnet", preprocessing=SMALL)
    torch.testing.assert_close(
        script.features(data, batch_size=5), network.features(data), rtol=1e-4, atol=1e-4
    )
    moved = tmp_path / "elsewhere" / "copy.pt"
    moved.parent.mkdir()
    shutil.copy(path, moved)
    again = TorchScript(moved, preprocessing=SMALL, name="other")
    assert again.fingerprint == script.fingerprint
    assert again.settings["path"] == str(moved)
    changed = TorchScript(path, preprocessing=replace(SMALL, resize=(65, 64)))
    assert changed.fingerprint != script.fingerprint


# Networks in Python


class Probe(nn.Module):
    """Records how it is called; noisy in training mode."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.dropout = nn.Dropout(0.5)
        self.seen = []

    def forward(self, x):
        self.seen.append((self.training, torch.is_grad_enabled(), tuple(x.shape), x.dtype))
        return self.dropout(x * self.scale)


def test_networks_run_in_evaluation_mode_and_are_left_as_they_were(images):
    probe = Probe().train()
    probe.dropout.eval()
    network = Network(probe, name="probe", preprocessing=Preprocessing())
    rows = network.features(images(), batch_size=5)
    assert set(probe.seen) == {(False, False, (5, 3, 16, 16), torch.float32)}
    assert (probe.training, probe.dropout.training) == (True, False)
    assert torch.equal(rows, network.features(images()))
    assert not rows.requires_grad
    assert rows.shape == (12, 3 * 16 * 16)


def test_a_network_is_left_as_it_was_when_it_raises(images):
    class Failing(nn.Module):
        def forward(self, x):
            raise RuntimeError("inside")

    module = Failing().train()
    with pytest.raises(RuntimeError, match="inside"):
        Network(module, name="a", preprocessing=Preprocessing()).features(images())
    assert module.training


def test_the_fingerprint_follows_the_weights(images):
    probe = Probe()
    network = Network(probe, name="probe", preprocessing=Preprocessing())
    before = network.fingerprint
    network.features(images())
    assert network.fingerprint == before
    with torch.no_grad():
        probe.scale += 1
    assert network.fingerprint != before


def test_half_precision_outputs_become_float32(images):
    class Half(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)).half()

    rows = Network(Half(), name="half", preprocessing=Preprocessing()).features(images())
    assert rows.dtype == torch.float32


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (lambda x: {"a": x}, ("dict", "(B, e)")),
        (lambda x: x.mean(), ("shape ()",)),
        (lambda x: x[:1].flatten(1), ("(1, 768)", "12 images")),
        (lambda x: x.flatten(1).int(), ("int32",)),
    ],
)
def test_outputs_that_are_no_features_are_refused(images, refusal, output, words):
    class Wrong(nn.Module):
        def forward(self, x):
            return output(x)

    with refusal("'wrong'", *words):
        Network(Wrong(), name="wrong", preprocessing=Preprocessing()).features(images())


def test_pixels_of_unknown_range_are_refused(images, refusal):
    free = replace(images(), encoding="free")
    with refusal("'probe'", "train", "value_range=(low, high)"):
        Network(Probe(), name="probe", preprocessing=Preprocessing()).features(free)


def test_arguments_of_another_type_are_refused(refusal):
    with refusal("preprocessing", "NoneType", "PREPROCESSING_PRESETS"):
        Network(Probe(), name="a", preprocessing=None)
    with refusal("module", "function"):
        Network(lambda x: x, name="a", preprocessing=Preprocessing())
    with refusal("name"):
        Network(Probe(), name="", preprocessing=Preprocessing())
    with refusal("metric", "'l1'"):
        Network(Probe(), name="a", preprocessing=Preprocessing(), metric="l1")


# TorchScript


def test_files_that_are_no_torchscript_are_refused(tmp_path, refusal):
    with refusal("'torchscript'", "absent.pt", "nothing is downloaded", error=FileNotFoundError):
        TorchScript(tmp_path / "absent.pt", preprocessing=SMALL)
    text = tmp_path / "text.pt"
    text.write_text("weights")
    weights = tmp_path / "weights.pt"
    torch.save(nn.Linear(2, 2).state_dict(), weights)
    for path in (text, weights):
        with refusal(str(path), "torch.jit.save"):
            TorchScript(path, preprocessing=SMALL)


def test_scripts_frozen_for_inference_run(images, tmp_path):
    module = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten()).eval()
    frozen = torch.jit.freeze(torch.jit.script(module))
    torch.jit.save(frozen, tmp_path / "frozen.pt")
    rows = TorchScript(tmp_path / "frozen.pt", preprocessing=Preprocessing()).features(images())
    with torch.no_grad():
        expected = module(Preprocessing()(images().x))
    torch.testing.assert_close(rows, expected)


# transformers


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tiny models with random weights, as save_pretrained writes them."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    tiny = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 28,
        "patch_size": 14,
    }
    text = {**tiny, "vocab_size": 60, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    dinov2 = {key: value for key, value in tiny.items() if key != "intermediate_size"}
    clip = transformers.CLIPConfig(text_config=text, vision_config=tiny, projection_dim=8)
    models = {
        "dinov2": transformers.Dinov2Model(transformers.Dinov2Config(**dinov2)),
        "clip": transformers.CLIPModel(clip),
        "vit": transformers.ViTModel(transformers.ViTConfig(**tiny), add_pooling_layer=False),
        "resnet": transformers.ResNetModel(
            transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
        ),
    }
    root = tmp_path_factory.mktemp("models")
    for name, model in models.items():
        model.eval().save_pretrained(root / name)
    return root, models


PATCHES = replace(PREPROCESSING_PRESETS["dinov2"], resize=(28, 28), crop=None)


@pytest.mark.parametrize(
    ("name", "output", "width", "expected"),
    [
        ("dinov2", "pooled", 16, lambda m, x: m(x).pooler_output),
        ("dinov2", "class", 16, lambda m, x: m(x).last_hidden_state[:, 0]),
        ("dinov2", "mean", 16, lambda m, x: m(x).last_hidden_state.mean(1)),
        (
            "clip",
            "pooled",
            8,
            lambda m, x: m.visual_projection(m.vision_model(pixel_values=x).pooler_output),
        ),
        ("clip", "mean", 16, lambda m, x: m.vision_model(x).last_hidden_state.mean(1)),
        ("vit", "class", 16, lambda m, x: m(x).last_hidden_state[:, 0]),
        ("resnet", "pooled", 16, lambda m, x: m(x).pooler_output.flatten(1)),
        ("resnet", "mean", 16, lambda m, x: m(x).last_hidden_state.mean((2, 3))),
    ],
)
def test_folders_give_the_output_that_is_asked_for(folders, images, name, output, width, expected):
    root, models = folders
    data = images(channels=1)
    descriptor = TransformersModel(root / name, preprocessing=PATCHES, output=output)
    rows = descriptor.features(data, batch_size=5)
    assert rows.shape == (12, width)
    with torch.no_grad():
        reference = expected(models[name], PATCHES(data.x))
    torch.testing.assert_close(rows, reference, rtol=1e-4, atol=1e-5)


def test_fingerprints_follow_weights_config_and_output_but_not_the_place(folders, tmp_path):
    root, _ = folders
    made = TransformersModel(root / "dinov2", preprocessing=PATCHES)
    moved = tmp_path / "moved"
    shutil.copytree(root / "dinov2", moved)
    config = json.loads((moved / "config.json").read_text())
    config["transformers_version"] = "4.0.0"
    (moved / "config.json").write_text(json.dumps(config))
    same = TransformersModel(moved, preprocessing=PATCHES, name="other")
    assert same.fingerprint == made.fingerprint
    assert same.settings["path"] == str(moved)
    other = TransformersModel(moved, preprocessing=PATCHES, output="mean")
    (moved / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-3}))
    changed = TransformersModel(moved, preprocessing=PATCHES)
    assert len({made.fingerprint, other.fingerprint, changed.fingerprint}) == 3


def test_weights_that_would_be_random_are_refused(folders, refusal):
    root, _ = folders
    with refusal("'transformers'", "lacks 2 weights", "pooler.dense", "output='class'"):
        TransformersModel(root / "vit", preprocessing=PATCHES)


def test_folders_that_hold_no_model_are_refused(folders, tmp_path, refusal):
    root, _ = folders
    with refusal("absent", "nothing is downloaded", error=FileNotFoundError):
        TransformersModel(tmp_path / "absent", preprocessing=PATCHES)
    with refusal("config.json", str(tmp_path)):
        TransformersModel(tmp_path, preprocessing=PATCHES)
    (tmp_path / "config.json").write_text("{")
    with refusal("not valid JSON"):
        TransformersModel(tmp_path, preprocessing=PATCHES)
    shutil.copy(root / "dinov2" / "config.json", tmp_path / "config.json")
    with refusal("cannot be loaded", ".safetensors"):
        TransformersModel(tmp_path, preprocessing=PATCHES)
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with refusal("cannot be loaded", str(tmp_path)):
        TransformersModel(tmp_path, preprocessing=PATCHES)


def test_pickled_weights_are_not_read(folders, tmp_path, refusal):
    root, models = folders
    shutil.copy(root / "dinov2" / "config.json", tmp_path / "config.json")
    torch.save(models["dinov2"].state_dict(), tmp_path / "pytorch_model.bin")
    with refusal("cannot be loaded", "safetensors"):
        TransformersModel(tmp_path, preprocessing=PATCHES)


def test_outputs_that_a_model_lacks_are_refused(folders, images, refusal):
    root, _ = folders
    with refusal("ResNetModel", "no class token", "output='mean'"):
        TransformersModel(root / "resnet", preprocessing=PATCHES, output="class").features(
            images()
        )
    with refusal("output", "'cls'"):
        TransformersModel(root / "resnet", preprocessing=PATCHES, output="cls")


def test_without_transformers_the_message_has_the_command(tmp_path, monkeypatch, refusal):
    (tmp_path / "config.json").write_text("{}")
    original = builtins.__import__

    def refuse(name, *rest, **options):
        if name.startswith("transformers"):
            raise ImportError(name)
        return original(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with refusal("pip install 'memdiff[descriptors]'", error=ImportError):
        TransformersModel(tmp_path, preprocessing=PATCHES)
