"""Weights from MATLAB's files of every version come back as they were saved."""

import struct

import numpy as np
import pytest
from mat_writers import BIAS, SAVERS, SIZES, WEIGHTS, array_5, object_5, write_5

from grouped_conv_jax.convert import load_mat


def matlab_size(array):
    """MATLAB drops trailing ones down to two axes."""
    shape = list(array.shape)
    while len(shape) > 2 and shape[-1] == 1:
        shape.pop()
    return tuple(shape)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "layer.mat"


@pytest.mark.parametrize("version", SAVERS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int16"])
def test_arrays_come_back_as_saved(version, dtype, path):
    weights, bias = WEIGHTS.astype(dtype), BIAS.astype(dtype)
    SAVERS[version](path, Weights=weights, Bias=bias)
    for given in (path, str(path)):
        loaded_weights, loaded_bias = load_mat(given, *SIZES)
        assert (loaded_weights.dtype, loaded_bias.dtype) == (weights.dtype, bias.dtype)
        np.testing.assert_array_equal(loaded_weights, weights)
        np.testing.assert_array_equal(loaded_bias, bias)


@pytest.mark.parametrize("version", SAVERS)
@pytest.mark.parametrize(
    ("channels", "filters", "groups"), [(2, 4, 1), (2, 1, 1), (1, 1, 1), (1, 1, 3), (1, 4, 1)]
)
@pytest.mark.parametrize("filter_size", [(3, 2), (3, 1), (1, 1)])
def test_dropped_trailing_ones_are_restored(version, filter_size, channels, filters, groups, path):
    weights = np.random.default_rng(0).standard_normal((*filter_size, channels, filters, groups))
    bias = np.random.default_rng(1).standard_normal((1, 1, filters, groups))
    stored = {"Weights": weights, "Bias": bias}
    SAVERS[version](path, **{name: a.reshape(matlab_size(a)) for name, a in stored.items()})
    loaded_weights, loaded_bias = load_mat(path, filter_size, channels, filters, groups)
    np.testing.assert_array_equal(loaded_weights, weights, strict=True)
    np.testing.assert_array_equal(loaded_bias, bias, strict=True)


@pytest.mark.parametrize("version", SAVERS)
def test_other_names_and_other_arrays_in_the_file(version, path):
    SAVERS[version](path, w=WEIGHTS, notes=np.zeros((2, 2)), b=BIAS)
    weights, bias = load_mat(path, *SIZES, weights_name="w", bias_name="b")
    np.testing.assert_array_equal(weights, WEIGHTS)
    np.testing.assert_array_equal(bias, BIAS)


@pytest.mark.parametrize("order", ["<", ">"], ids=["little-endian", "big-endian"])
def test_doubles_that_matlab_stores_in_fewer_bytes_are_float64(order, path):
    double, uint8, int16 = 6, 2, 3
    values = np.arange(12, dtype=np.uint8)
    write_5(
        path,
        array_5("Weights", double, (3, 2, 2), uint8, values.tobytes(), order),
        array_5("Bias", double, (1, 1), int16, struct.pack(order + "h", -300), order),
        order=order,
    )
    weights, bias = load_mat(path, (3, 2), 2, 1, 1)
    assert weights.dtype == bias.dtype == np.dtype(float)
    np.testing.assert_array_equal(weights[..., 0, 0], values.reshape((3, 2, 2), order="F"))
    np.testing.assert_array_equal(bias, [[[[-300.0]]]])


def test_objects_beside_the_arrays_do_not_disturb(path):
    single = 7
    stored = [("Weights", WEIGHTS), ("Bias", BIAS)]
    arrays = [array_5(n, single, a.shape, single, a.tobytes(order="F")) for n, a in stored]
    write_5(path, object_5("layer", "nnet.cnn.layer.GroupedConvolution2DLayer"), *arrays)
    weights, bias = load_mat(path, *SIZES)
    np.testing.assert_array_equal(weights, WEIGHTS)
    np.testing.assert_array_equal(bias, BIAS)
