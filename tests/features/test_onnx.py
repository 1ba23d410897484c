"""ONNX models: what they state about their input, against the same filters in torch."""

import builtins
import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from memdiff.data import from_array
from memdiff.features import (
    PREPROCESSING_PRESETS,
    OnnxModel,
    Preprocessing,
    TorchScript,
    onnx_model,
    parse_descriptor,
)

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

FLOAT, HALF, BYTE, INT = 1, 10, 2, 7
SIDE = 12


def filters(channels):
    return np.random.default_rng(channels).normal(size=(4, channels, 3, 3)).astype(np.float32)


def reference(prepared):
    """The network that :func:`write` writes, in torch."""
    maps = nn.functional.conv2d(prepared, torch.from_numpy(filters(prepared.shape[1])), stride=2)
    return maps.relu().mean((2, 3))


@pytest.fixture
def write(tmp_path):
    """Factory of models: random filters, their means over the image as ``(B, 4)``."""

    def make(
        shape=("B", 3, SIDE, SIDE),
        *,
        channels=3,
        dtype=FLOAT,
        outputs=("features",),
        more_inputs=(),
        name="model.onnx",
        **options,
    ):
        node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
        last = shape[1] not in (1, 3, "C")
        first = "transposed" if last else "images"
        nodes = [node("Transpose", ["images"], ["transposed"], perm=[0, 3, 1, 2])] if last else []
        kind = {FLOAT: np.float32, HALF: np.float16}[dtype]
        nodes += [
            node("Conv", [first, "filters"], ["maps"], strides=[2, 2]),
            node("Relu", ["maps"], ["positive"]),
            node("GlobalAveragePool", ["positive"], ["pooled"]),
            node("Flatten", ["pooled"], ["features"]),
            node("ArgMax", ["features"], ["winner"], axis=1, keepdims=1),
        ]
        kinds = {
            "maps": (dtype, (shape[0], 4, None, None)),
            "pooled": (dtype, (shape[0], 4, 1, 1)),
            "features": (dtype, (shape[0], 4)),
            "winner": (INT, (shape[0], 1)),
        }
        graph = onnx.helper.make_graph(
            nodes,
            "filters",
            [value("images", dtype, shape), *(value(n, FLOAT, (1,)) for n in more_inputs)],
            [value(output, *kinds[output]) for output in outputs],
            [onnx.numpy_helper.from_array(filters(channels).astype(kind), "filters")],
        )
        model = onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
        )
        onnx.save(model, tmp_path / name, **options)
        return tmp_path / name

    return make


def expected_features(model, data):
    return reference(model.preprocessing(data.x))


@pytest.mark.parametrize("batch", ["B", 1, 5])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("dtype", "digits"), [(FLOAT, 1e-5), (HALF, 2e-3)])
def test_features_are_those_of_the_same_network_in_torch(
    write, images, batch, last, dtype, digits
):
    """Any layout, type and batch: 12 images do not divide by 5."""
    shape = (batch, SIDE, SIDE, 3) if last else (batch, 3, SIDE, SIDE)
    model = OnnxModel(write(shape, dtype=dtype))
    data = images(channels=3)
    rows = model.features(data, batch_size=7)
    assert rows.dtype == torch.float32 and rows.shape == (12, 4)
    torch.testing.assert_close(rows, expected_features(model, data), rtol=digits, atol=digits)


def test_the_same_features_as_from_torchscript(write, images, tmp_path):
    """At sizes that the model leaves free both are prepared as SSCD is."""

    class Filters(nn.Module):
        def __init__(self):
            super().__init__()
            self.filters = nn.Parameter(torch.from_numpy(filters(3)))

        def forward(self, x):
            return torch.conv2d(x, self.filters, stride=[2, 2]).relu().mean(dim=[2, 3])

    torch.jit.save(torch.jit.script(Filters()), tmp_path / "model.pt")
    data = images(count=4, channels=3, height=10, width=15)
    script = parse_descriptor(f"sscd:{tmp_path / 'model.pt'}")
    model = parse_descriptor(f"onnx:{write(('B', 3, 'H', 'W'))}")
    assert isinstance(script, TorchScript) and isinstance(model, OnnxModel)
    assert model.preprocessing == script.preprocessing
    torch.testing.assert_close(model.features(data), script.features(data), rtol=1e-4, atol=1e-5)


def test_equal_images_have_equal_features_wherever_they_stand(write, images):
    data = images(channels=3)
    doubled = replace(data, x=torch.cat([data.x, data.x]), names=())
    for batch in ("B", 5):
        rows = OnnxModel(write((batch, 3, SIDE, SIDE))).features(doubled, batch_size=7)
        assert torch.equal(rows[:12], rows[12:])


# Size and channels


SSCD = PREPROCESSING_PRESETS["sscd-288"]


@pytest.mark.parametrize(
    ("shape", "preset", "expected"),
    [
        (("B", 3, 12, 20), None, replace(SSCD, resize=(12, 20))),
        (("B", 12, 20, 3), None, replace(SSCD, resize=(12, 20))),
        (("B", 3, 12, None), None, replace(SSCD, resize=(12, 12))),
        (("B", 3, "H", "W"), None, SSCD),
        (("B", "C", "H", "W"), None, SSCD),
        ((None, 3, 12, 20), "as-is", Preprocessing(resize=(12, 20))),
        (("B", 3, "H", "W"), "as-is", Preprocessing()),
        (("B", 3, 224, 224), "clip", PREPROCESSING_PRESETS["clip"]),
        (
            ("B", 3, 100, 100),
            "clip",
            replace(PREPROCESSING_PRESETS["clip"], resize=(100, 100), crop=None),
        ),
    ],
)
def test_size_and_layout_are_those_that_the_model_states(write, images, shape, preset, expected):
    path = write(shape)
    made = parse_descriptor(f"onnx:{path}" if preset is None else f"onnx:{path}:{preset}")
    assert made.preprocessing == expected
    assert made.features(images(count=2, channels=1)).shape == (2, 4)


def test_a_model_of_one_channel_takes_grey_images(write, images, refusal):
    path = write(("B", 1, SIDE, SIDE), channels=1)
    model = OnnxModel(path)
    assert model.preprocessing == Preprocessing(resize=(SIDE, SIDE), channels="grey")
    for data in (images(channels=1), images(channels=3)):
        rows = model.features(data)
        torch.testing.assert_close(rows, expected_features(model, data), rtol=1e-5, atol=1e-5)
    told = OnnxModel(path, preprocessing=PREPROCESSING_PRESETS["sscd-wen"])
    assert (told.preprocessing.channels, told.preprocessing.mean) == ("grey", (0.5,))
    with refusal("means of 3 channels", "1 channels and 12 x 12 pixels", "as-is"):
        OnnxModel(path, preprocessing=PREPROCESSING_PRESETS["clip"])


def test_images_of_other_channels_are_refused(write, images, refusal):
    kept = OnnxModel(write(), preprocessing=Preprocessing(channels="same"))
    with refusal("makes images of 1 channels and 12 x 12", "takes 3 channels", "preprocessing"):
        kept.features(images(channels=1))
    pixels = torch.zeros(4, 4, SIDE, SIDE)
    with refusal("4 channels"):
        OnnxModel(write()).features(from_array(pixels, name="train", layout="channels_first"))
    with refusal("3 channels or 1", "'B', 4, 12, 12"):
        OnnxModel(write(("B", 4, SIDE, SIDE), channels=4))


# Outputs


@pytest.mark.parametrize(
    ("outputs", "asked", "chosen"),
    [
        (("features",), None, "features"),
        (("winner", "maps", "features"), None, "features"),
        (("maps", "pooled"), None, "maps"),
        (("maps", "pooled"), "pooled", "pooled"),
    ],
)
def test_the_first_output_of_rows_is_taken_unless_told(write, images, outputs, asked, chosen):
    model = OnnxModel(write(outputs=outputs), output=asked)
    assert model.output == chosen
    assert model.parameters["output"] == chosen
    data = images(channels=3)
    rows = model.features(data)
    if chosen == "maps":
        assert rows.shape == (12, 4 * 5 * 5)
        rows = rows.reshape(12, 4, 25).relu().mean(2)
    torch.testing.assert_close(rows, expected_features(model, data), rtol=1e-5, atol=1e-5)


def test_outputs_that_are_no_features_are_refused(write, refusal):
    with refusal("must return floats", "tensor(int64)"):
        OnnxModel(write(outputs=("winner",)))
    with refusal("output", "'maps', 'features'", "'winner'"):
        OnnxModel(write(outputs=("maps", "features", "winner")), output="winner")


# Files


def test_fingerprints_follow_weights_output_and_preprocessing_but_not_the_place(write, tmp_path):
    path = write(outputs=("features", "pooled"))
    made = OnnxModel(path)
    moved = tmp_path / "elsewhere" / "other.onnx"
    moved.parent.mkdir()
    shutil.copy(path, moved)
    same = OnnxModel(moved, name="other")
    assert same.fingerprint == made.fingerprint
    assert same.settings["path"] == str(moved)
    model = onnx.load(path)
    weights = model.graph.initializer[0]
    weights.CopyFrom(onnx.numpy_helper.from_array(filters(3) + 1, "filters"))
    onnx.save(model, moved)
    others = [
        OnnxModel(moved),
        OnnxModel(path, output="pooled"),
        OnnxModel(path, preprocessing=Preprocessing()),
        OnnxModel(path, metric="euclidean"),
    ]
    assert len({made.fingerprint, *(one.fingerprint for one in others)}) == 5


@pytest.mark.parametrize("beside", ["weights.bin", "w" * 200])
def test_weights_in_a_file_beside_the_model_are_part_of_the_fingerprint(
    write, images, tmp_path, beside, refusal
):
    """As exporters write large models; the model's own file is then the same for all weights."""
    path = write(save_as_external_data=True, location=beside, size_threshold=0)
    model = OnnxModel(path)
    data = images(channels=3)
    torch.testing.assert_close(
        model.features(data), expected_features(model, data), rtol=1e-5, atol=1e-5
    )
    file = tmp_path / beside
    content = file.read_bytes()
    file.write_bytes((2 * np.frombuffer(content, np.float32)).tobytes())
    changed = OnnxModel(path)
    assert changed.fingerprint != model.fingerprint
    torch.testing.assert_close(changed.features(data), 2 * model.features(data))
    file.write_bytes(content)
    assert OnnxModel(path).fingerprint == model.fingerprint
    file.unlink()
    with refusal("cannot be loaded"):
        OnnxModel(path)


def test_files_that_are_no_onnx_model_are_refused(write, tmp_path, refusal):
    with refusal("'onnx'", "absent.onnx", "nothing is downloaded", error=FileNotFoundError):
        OnnxModel(tmp_path / "absent.onnx")
    whole = write().read_bytes()
    weights = tmp_path / "weights.pt"
    torch.save(nn.Linear(2, 2).state_dict(), weights)
    for content in (b"", b"weights", bytes(100), whole[: len(whole) // 2], weights.read_bytes()):
        path = tmp_path / "damaged.onnx"
        path.write_bytes(content)
        with refusal(str(path), "cannot be loaded as an ONNX model"):
            OnnxModel(path)


def test_models_that_do_not_take_images_are_refused(write, tmp_path, refusal):
    with refusal("one input", "'images', 'mask'", "image branch"):
        OnnxModel(write(more_inputs=("mask",)))
    value = onnx.helper.make_tensor_value_info
    for dtype, shape in ((BYTE, ("B", 3, 12, 12)), (FLOAT, ("B", 100))):
        graph = onnx.helper.make_graph(
            [onnx.helper.make_node("Cast", ["x"], ["y"], to=FLOAT)],
            "cast",
            [value("x", dtype, shape)],
            [value("y", FLOAT, shape)],
        )
        model = onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
        )
        onnx.save(model, tmp_path / "cast.onnx")
        with refusal("must take floats (B, C, H, W) or (B, H, W, C)", str(list(shape))):
            OnnxModel(tmp_path / "cast.onnx")


def test_a_model_that_fails_on_a_size_says_so_in_one_line(write, images, refusal):
    path = write(("B", 3, "H", "W"))
    small = OnnxModel(path, preprocessing=Preprocessing(resize=(2, 2)))
    with refusal("could not be run", "(12, 3, 2, 2)", "preprocessing"):
        small.features(images(channels=3))


def test_arguments_of_another_type_are_refused(write, refusal):
    path = write()
    with refusal("preprocessing", "str", "PREPROCESSING_PRESETS"):
        OnnxModel(path, preprocessing="clip")
    with refusal("name"):
        OnnxModel(path, name="")
    with refusal("metric", "'l1'"):
        OnnxModel(path, metric="l1")


def test_without_onnxruntime_the_message_has_the_command(write, monkeypatch, refusal):
    path = write()
    original = builtins.__import__

    def refuse(name, *rest, **options):
        if name.startswith("onnxruntime"):
            raise ImportError(name)
        return original(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with refusal("pip install 'memdiff[onnx]'", error=ImportError):
        OnnxModel(path)


# Devices


class Elsewhere:
    """A session that says where it is, and computes here."""

    def __init__(self, session, providers):
        self.session, self.providers, self.runs = session, providers, 0

    def __getattr__(self, name):
        return getattr(self.session, name)

    def get_providers(self):
        return self.providers

    def run(self, *given):
        self.runs += 1
        return self.session.run(*given)


@pytest.fixture
def with_cuda(monkeypatch):
    """An onnxruntime that has a provider for CUDA, which starts or does not."""

    def make(starts):
        opened = []
        original = onnx_model._open

        def open_session(path, name, providers):
            session = Elsewhere(original(path, name, ["CPUExecutionProvider"]), [])
            asked = [one if isinstance(one, str) else one[0] for one in providers]
            session.providers = asked if starts else asked[-1:]
            opened.append((providers, session))
            return session

        monkeypatch.setattr(onnx_model, "_open", open_session)
        monkeypatch.setattr(
            "onnxruntime.get_available_providers",
            lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
        )
        return opened

    return make


def test_the_device_is_that_of_the_provider(write, images, with_cuda):
    opened = with_cuda(starts=True)
    model = OnnxModel(write())
    data = images(channels=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = model.features(data, device="cuda:1")
        model.features(data, device="cuda:1")
        here = model.features(data, device="cpu")
    assert torch.equal(rows, here)
    (home, session), (asked, other) = opened  # opened once each
    assert home == ["CPUExecutionProvider"]
    assert asked == [("CUDAExecutionProvider", {"device_id": "1"}), "CPUExecutionProvider"]
    assert (session.runs, other.runs) == (1, 2)


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "meta"])
@pytest.mark.parametrize("installed", [False, True])
def test_without_a_provider_the_cpu_computes_and_says_so(
    write, images, with_cuda, device, installed
):
    """As on every machine with a GPU and the plain package: the default device is then cuda:0."""
    if installed:
        with_cuda(starts=False)
    model = OnnxModel(write())
    data = images(channels=3)
    with pytest.warns(UserWarning, match=f"computed on the CPU.*device '{device}'"):
        rows = model.features(data, device=device)
    assert torch.equal(rows, model.features(data))


def test_devices_that_do_not_exist_are_refused(write, images, refusal):
    with refusal("'gpu'", "'cuda:1'"):
        OnnxModel(write()).features(images(channels=3), device="gpu")
