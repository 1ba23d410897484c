import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memdiff.data.arrays import from_array


def noise(*shape, low=0.0, high=1.0):
    return np.random.default_rng(0).uniform(low, high, shape).astype(np.float32)


def test_every_byte_comes_back_and_the_ends_are_exact():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    data = from_array(pixels)
    assert data.x.dtype == torch.float32 and data.encoding == "signed" and data.stored == "uint8"
    assert data.x.min() == -1.0 and data.x.max() == 1.0
    assert np.array_equal(((data.x[0] + 1) * 127.5).round().numpy().astype(np.uint8), pixels)


def test_sixteen_bits_are_kept():
    pixels = np.arange(65536, dtype=np.uint16).reshape(1, 256, 256)
    data = from_array(pixels)
    assert data.encoding == "signed" and data.stored == "uint16"
    assert np.array_equal(((data.x[0].double() + 1) * 32767.5).round().numpy(), pixels)


@pytest.mark.parametrize(
    ("values", "encoding"),
    [
        (noise(4, 8, 8), "unit"),
        (noise(4, 8, 8, low=-0.1, high=1.1), "unit"),
        (noise(4, 8, 8, low=-1), "signed"),
        (noise(4, 8, 8, low=-1.2, high=1.2), "signed"),
        (noise(4, 8, 8, high=255), "byte"),
        (noise(4, 8, 8, low=-4, high=4), "free"),
        (noise(4, 8, 8, high=4095), "free"),
    ],
)
def test_float_pixels_keep_their_values_and_say_their_range(values, encoding):
    data = from_array(values)
    assert data.encoding == encoding
    assert np.array_equal(data.x[:, 0].numpy(), values)


def test_a_few_wild_values_do_not_change_the_range():
    values = noise(100, 8, 8, low=-1)
    values[0, 0, 0] = 50.0
    assert from_array(values).encoding == "signed"


def test_the_range_of_a_large_set_is_not_read_off_its_border():
    values = np.zeros((1_000_001, 1, 2), dtype=np.float32)
    values[..., 1] = 200.0
    assert from_array(values).encoding == "byte"


@given(
    low=st.floats(-1e3, 1e3),
    width=st.floats(1e-3, 1e4),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_a_stated_range_goes_to_minus_one_and_one(low, width, dtype):
    high = low + width
    values = np.array([[[low, high, (low + high) / 2]]], dtype=dtype)
    data = from_array(values, value_range=(low, high))
    assert data.encoding == "signed"
    assert str(data.x.dtype) == f"torch.{np.dtype(dtype)}"
    tolerance = 8 * np.finfo(dtype).eps * max(abs(low), abs(high)) / width
    assert np.allclose(data.x.flatten().tolist(), [-1, 1, 0], rtol=0, atol=tolerance)


def test_a_range_that_is_there_already_keeps_every_bit():
    values = noise(2, 4, 4, low=-1)
    data = from_array(values, value_range=(-1, 1))
    assert np.array_equal(data.x[:, 0].numpy(), values)


def test_scaling_does_not_write_into_the_caller_s_array():
    values = noise(2, 4, 4)
    before = values.copy()
    from_array(values, value_range=(0, 1))
    assert np.array_equal(values, before)


@pytest.mark.parametrize("value_range", [(1, 0), (0, 0), (0, float("inf")), (float("nan"), 1)])
def test_a_range_that_is_none_is_refused(value_range, refusal):
    with refusal("value_range", "low < high"):
        from_array(noise(2, 4, 4), value_range=value_range)


def test_a_range_that_the_values_contradict_is_refused(refusal):
    with refusal("generated", "value_range=(0, 1)", "far outside"):
        from_array(noise(2, 4, 4, high=255), name="generated", value_range=(0, 1))
    with refusal("vectors", "value_range"):
        from_array(noise(2, 4), value_range=(0, 1))
    with refusal("not both"):
        from_array(noise(2, 4, 4), value_range=(0, 1), encoding="unit")


def test_binary_bytes_are_ambiguous(refusal):
    pixels = np.eye(4, dtype=np.uint8)[None]
    with refusal("binary", "value_range=(0, 1)"):
        from_array(pixels)
    assert from_array(pixels, value_range=(0, 1)).x.unique().tolist() == [-1.0, 1.0]
    assert from_array(pixels.astype(bool)).x.unique().tolist() == [-1.0, 1.0]


@pytest.mark.parametrize(
    ("shape", "expected", "kind"),
    [
        ((5,), (5, 1), "vectors"),
        ((5, 3), (5, 3), "vectors"),
        ((5, 8, 8), (5, 1, 8, 8), "images"),
        ((5, 3, 8, 8), (5, 3, 8, 8), "images"),
        ((5, 8, 8, 3), (5, 3, 8, 8), "images"),
        ((5, 6, 8, 4), (5, 4, 6, 8), "images"),
        ((5, 1, 4, 4), (5, 1, 4, 4), "images"),
        ((5, 4, 4, 1), (5, 1, 4, 4), "images"),
        ((5, 16, 4, 4), (5, 16, 4, 4), "images"),
        ((5, 1, 1, 1), (5, 1, 1, 1), "images"),
        ((5, 7, 3, 8, 8), (5, 7, 3, 8, 8), "video"),
        ((5, 7, 8, 8, 3), (5, 7, 3, 8, 8), "video"),
    ],
)
def test_the_shape_decides_kind_and_layout(shape, expected, kind):
    data = from_array(noise(*shape))
    assert (tuple(data.x.shape), data.kind) == (expected, kind)


def test_channels_last_moves_the_right_axis():
    values = noise(2, 5, 6, 3)
    assert np.array_equal(from_array(values).x.numpy(), values.transpose(0, 3, 1, 2))
    assert from_array(values).x.is_contiguous()
    as_first = from_array(values, layout="channels_first")
    assert np.array_equal(as_first.x.numpy(), values)


@pytest.mark.parametrize("shape", [(2, 3, 32, 3), (2, 3, 3, 3), (2, 5, 3, 9, 1)])
def test_an_ambiguous_layout_is_refused(shape, refusal):
    with refusal("layout='channels_first'", str(shape)):
        from_array(noise(*shape))
    assert from_array(noise(*shape), layout="channels_last").shape[-3] == shape[-1]


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (np.float64, torch.float64),
        (np.float32, torch.float32),
        (np.float16, torch.float32),
        (np.longdouble, torch.float64),
        (">f8", torch.float64),
        (np.int16, torch.float32),
        (np.uint8, torch.float32),
        (np.uint32, torch.float32),
        (np.uint64, torch.float32),
        (bool, torch.float32),
    ],
)
def test_vectors_keep_values_in_the_documented_dtype(dtype, expected):
    values = np.array([[0, 1], [1, 0]]).astype(dtype)
    data = from_array(values)
    assert data.x.dtype == expected
    assert np.array_equal(data.x.numpy(), values.astype(np.float64))


def test_large_integers_do_not_merge():
    values = np.array([[2**24, 2**24 + 1]])
    assert from_array(values).x.dtype == torch.float64
    assert from_array(values).x[0].tolist() == values[0].tolist()
    assert from_array(values - 1).x.dtype == torch.float32


def test_bfloat16_and_gradients_are_taken():
    x = torch.tensor([[1.5, 2.0]], dtype=torch.bfloat16, requires_grad=True)
    data = from_array(x)
    assert data.x.dtype == torch.float32 and not data.x.requires_grad


def test_fortran_negative_strides_and_read_only_arrays():
    values = noise(6, 4)
    values.setflags(write=False)
    for view in (values, np.asfortranarray(values), values[::-1], values[:, ::2]):
        assert np.array_equal(from_array(view).x.numpy(), view)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("shape", [(6, 2), (6, 1, 4, 4)])
def test_values_that_are_not_finite_are_counted_and_located(bad, shape, refusal):
    values = noise(*shape)
    values[3].reshape(-1)[:2] = bad
    values[5].reshape(-1)[0] = bad
    with refusal("train", "3 NaN or infinite values in 2 of 6 points", "row 3"):
        from_array(values, name="train")


def test_rows_are_right_across_blocks(refusal):
    values = torch.zeros(9, 1 << 20)
    values[7, 5] = float("nan")
    with refusal("1 NaN", "1 of 9 points", "row 7"):
        from_array(values)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        (np.array(["a"]), "dtype <U1"),
        (np.array([None]), "dtype object"),
        (np.array([1j]), "complex"),
        (np.zeros((0, 3)), "(0, 3)"),
        (np.zeros((3, 0)), "(3, 0)"),
        (np.array(3.0), "()"),
        (np.zeros((1,) * 6), "5 dimensions"),
        (torch.zeros(2, 2).to_sparse(), "sparse"),
        (torch.zeros(2, 2, dtype=torch.complex64), "complex"),
        (np.array(["2020-01-01"], dtype="datetime64[D]"), "datetime64"),
    ],
)
def test_what_is_no_data_is_refused(values, word, refusal):
    with refusal("generated", word):
        from_array(values, name="generated")


def test_labels_and_conditions():
    x = noise(3, 2)
    assert from_array(x, labels=np.array([2, 0, 1], dtype=np.uint8)).labels.dtype == torch.int64
    assert from_array(x, labels=np.array([[2], [0], [1]])).labels.shape == (3,)
    assert from_array(x, labels=noise(3, 2)).labels.shape == (3, 2)
    assert from_array(x, labels=np.ones(3)).labels.dtype == torch.float64


def test_labels_that_do_not_fit_are_refused(refusal):
    x = noise(3, 2)
    with refusal("labels of data", "(2,)", "(3,)"):
        from_array(x, labels=np.array([0, 1]))
    with refusal("labels of data", "NaN", "row 1"):
        from_array(x, labels=np.array([0, np.nan, 1]))
    with refusal("labels of data", "dtype"):
        from_array(x, labels=np.array(["a", "b", "c"]))
