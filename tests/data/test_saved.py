import sys

import numpy as np
import pytest
import torch
from PIL import Image

from memdiff.data import load

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)


def test_without_datasets_the_message_has_the_command(tmp_path, monkeypatch, refusal):
    (tmp_path / "state.json").write_text("{}")
    (tmp_path / "dataset_info.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with refusal("train", "pip install 'memdiff[datasets]'", error=ImportError):
        load(tmp_path, name="train")


@pytest.fixture
def hf():
    return pytest.importorskip("datasets")


def pictures(hf, **columns):
    features = {"image": hf.Image(), "label": hf.ClassLabel(names=["cat", "dog"])}
    content = {"image": [Image.fromarray(p) for p in PIXELS], "label": [0, 1, 1, 0]}
    return hf.Dataset.from_dict(content | columns, features=hf.Features(features))


def test_images_and_class_labels(hf, tmp_path):
    pictures(hf).save_to_disk(tmp_path / "set")
    data = load(tmp_path / "set")
    bytes_ = ((data.x + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(bytes_, PIXELS)
    assert data.labels.tolist() == [0, 1, 1, 0] and data.label_names == ("cat", "dog")
    cut = load(tmp_path / "set", limit=2, size=3, mode="L")
    assert cut.x.shape == (2, 1, 3, 3) and cut.labels.tolist() == [0, 1]


def test_splits_need_a_key(hf, tmp_path, refusal):
    hf.DatasetDict(train=pictures(hf), test=pictures(hf).select([2])).save_to_disk(tmp_path / "s")
    assert len(load(tmp_path / "s", key="test")) == 1
    with refusal("'train', 'test'", "key="):
        load(tmp_path / "s")
    with refusal("'valid'", "key="):
        load(tmp_path / "s", key="valid")
    pictures(hf).save_to_disk(tmp_path / "one")
    with refusal("no splits"):
        load(tmp_path / "one", key="train")


def test_vectors_and_arrays(hf, tmp_path):
    values = np.random.default_rng(0).normal(size=(5, 3))
    hf.Dataset.from_dict({"v": values.tolist()}).save_to_disk(tmp_path / "set")
    data = load(tmp_path / "set")
    assert data.kind == "vectors" and np.array_equal(data.x.numpy(), values)


def test_lists_of_text_are_refused(hf, tmp_path, refusal):
    hf.Dataset.from_dict({"v": [["a"], ["b"]]}).save_to_disk(tmp_path / "set")
    with refusal("column 'v'", "lists of numbers"):
        load(tmp_path / "set")


def test_tables(hf, tmp_path):
    features = hf.Features(
        {"age": hf.Value("int64"), "c": hf.ClassLabel(names=["z", "a"]), "t": hf.Value("string")}
    )
    content = {"age": [1, 2, 3], "c": [0, 1, 0], "t": ["u", "v", "u"]}
    hf.Dataset.from_dict(content, features=features).save_to_disk(tmp_path / "set")
    data = load(tmp_path / "set")
    named = dict(zip(data.columns, data.x.T.tolist(), strict=True))
    assert named == {"age": [1, 2, 3], "c": [1, 0, 1], "t": [0, 1, 0]}
    assert data.categories == {"c": ("a", "z"), "t": ("u", "v")}


def test_options_apply_to_what_the_folder_holds(hf, tmp_path, refusal):
    grey = np.random.default_rng(0).uniform(size=(4, 5, 5)).astype(np.float32)
    features = hf.Features({"v": hf.Array2D((5, 5), "float32")})
    arrays = hf.Dataset.from_dict({"v": grey}, features=features)
    arrays.save_to_disk(tmp_path / "arrays")
    data = load(tmp_path / "arrays", value_range=(0, 1))
    assert data.encoding == "signed"
    torch.testing.assert_close(data.x[:, 0], torch.from_numpy(2 * grey - 1))
    hf.Dataset.from_dict({"age": [1, None, 3]}).save_to_disk(tmp_path / "table")
    assert load(tmp_path / "table", missing="mean").x.flatten().tolist() == [1, 2, 3]
    pictures(hf).save_to_disk(tmp_path / "images")
    for folder, what, options in (
        ("arrays", "arrays", {"size": 3, "mode": "L", "missing": "drop", "categorical": ["v"]}),
        ("table", "a table", {"value_range": (0, 1), "layout": "channels_last", "size": 3}),
        ("images", "images", {"missing": "drop", "layout": "channels_first"}),
    ):
        for option, value in options.items():
            with refusal(f"{option}= does not apply", folder, f"holds {what}"):
                load(tmp_path / folder, **{option: value})
    with refusal("value_range= does not apply", "integers"):
        load(tmp_path / "images", value_range=(0, 1))


def test_damaged_and_ambiguous_folders_are_refused(hf, tmp_path, refusal):
    pictures(hf).save_to_disk(tmp_path / "set")
    for file in (tmp_path / "set").glob("*.arrow"):
        file.write_bytes(file.read_bytes()[:100])
    with refusal("train", "set", "damaged"):
        load(tmp_path / "set", name="train")
    hf.Dataset.from_dict({"u": [[1.0]], "v": [[1.0]]}).save_to_disk(tmp_path / "two")
    with refusal("'u', 'v'", "select_columns"):
        load(tmp_path / "two")
    hf.Dataset.from_dict({"u": [[1.0], [1.0, 2.0]]}).save_to_disk(tmp_path / "ragged")
    with refusal("ragged", "damaged"):
        load(tmp_path / "ragged")
