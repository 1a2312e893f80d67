"""Structs in MATLAB's files, and the files that are written here."""

import os
import re

import h5py
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io
from mat_writers import BIAS, SAVERS, SIZES, WEIGHTS, damaged, save_6, save_7, write_73_header

from grouped_conv_jax.convert import load_mat, save_mat

NAMES = {"weights_name": "net.layer.Weights", "bias_name": "net.layer.Bias"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "layer.mat"


def save_struct_73(path, fields):
    with h5py.File(path, "w", userblock_size=512) as file:
        group = file.create_group("net")
        group.attrs["MATLAB_class"] = np.bytes_("struct")
        group = group.create_group("layer")
        group.attrs["MATLAB_class"] = np.bytes_("struct")
        for name, array in fields.items():
            dataset = group.create_dataset(name, data=array.T)
            dataset.attrs["MATLAB_class"] = np.bytes_("single")
    write_73_header(path)


def save_struct(version, path, fields):
    if version == "7.3":
        save_struct_73(path, fields)
    else:
        SAVERS[version](path, net={"name": "a", "layer": fields}, other=np.ones((2, 2)))


@pytest.mark.parametrize("version", SAVERS)
def test_dots_lead_into_structs(version, path):
    save_struct(version, path, {"Weights": WEIGHTS, "Stride": WEIGHTS[0], "Bias": BIAS})
    weights, bias = load_mat(path, *SIZES, **NAMES)
    np.testing.assert_array_equal(weights, WEIGHTS, strict=True)
    np.testing.assert_array_equal(bias, BIAS, strict=True)


@pytest.mark.parametrize("version", SAVERS)
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("net.layer.W", r"'layer' in 'net' in path='.*' lacks 'W'; it holds 'Bias', 'Weights'"),
        ("net.other.W", r"'net' in path='.*' lacks 'other'; it holds 'layer'"),
        ("nett.layer.W", r"path='.*' lacks 'nett'; it holds 'net'"),
        (
            "net.layer.Bias.W",
            r"'Bias' in 'layer' in 'net' in path='.*' must be a struct of one element to have "
            r"fields, got MATLAB class single of size \(1, 1, 4, 5\)",
        ),
        ("net.layer", r"'net.layer' in path='.*' must be a full array .* got MATLAB class struct"),
    ],
)
def test_a_wrong_way_into_structs_is_refused(version, name, message, path):
    fields = {"Bias": BIAS, "Weights": WEIGHTS}
    if version == "7.3":
        save_struct_73(path, fields)
    else:
        SAVERS[version](path, net={"layer": fields})
    with pytest.raises(ValueError, match=message):
        load_mat(path, *SIZES, weights_name=name, bias_name="net.layer.Bias")


def test_a_struct_of_several_elements_is_refused(path):
    save_6(path, net=np.zeros((1, 2), [("Weights", "O")]), Bias=BIAS)
    with pytest.raises(ValueError, match=r"must be a struct of one element .* of size \(1, 2\)"):
        load_mat(path, *SIZES, weights_name="net.Weights")


@pytest.mark.parametrize("save", [save_6, save_7])
def test_every_damaged_byte_of_a_struct_gives_numbers_or_a_value_error(save, path):
    save(path, s={"Weights": np.ones((1, 2)), "Bias": np.ones((1, 1))})
    content = path.read_bytes()
    refused = 0
    for changed in damaged(content):
        path.write_bytes(changed)
        try:
            weights, _ = load_mat(
                path, (1, 2), 1, 1, 1, weights_name="s.Weights", bias_name="s.Bias"
            )
        except ValueError:
            refused += 1
        else:
            assert weights.shape == (1, 2, 1, 1, 1)
    assert refused > len(content) - 124


# Writing.


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "uint16", "int64"])
@pytest.mark.parametrize("as_array", [np.asarray, jnp.asarray])
def test_what_is_saved_is_read_by_others_and_here(dtype, as_array, path):
    weights, bias = WEIGHTS.astype(dtype), BIAS.astype(dtype)
    if as_array is jnp.asarray and dtype in ("float64", "int64"):
        weights, bias = weights.astype("float32"), bias.astype("float32")
    save_mat(path, as_array(weights), as_array(bias))
    loaded = scipy.io.loadmat(path)
    np.testing.assert_array_equal(loaded["Weights"], weights, strict=True)
    np.testing.assert_array_equal(loaded["Bias"], bias, strict=True)
    read_weights, read_bias = load_mat(path, *SIZES)
    np.testing.assert_array_equal(read_weights, weights, strict=True)
    np.testing.assert_array_equal(read_bias, bias, strict=True)


def test_dots_make_structs(path):
    save_mat(path, WEIGHTS, BIAS, **NAMES)
    layer = scipy.io.loadmat(path, simplify_cells=True)["net"]["layer"]
    np.testing.assert_array_equal(layer["Weights"], WEIGHTS)
    np.testing.assert_array_equal(layer["Bias"], BIAS.squeeze())
    weights, _ = load_mat(path, *SIZES, **NAMES)
    np.testing.assert_array_equal(weights, WEIGHTS)


def test_trailing_ones_are_dropped_as_matlab_does(path):
    save_mat(path, WEIGHTS[..., :1, :1], BIAS[..., :1, :1])
    sizes = {name: size for name, size, _ in scipy.io.whosmat(path)}
    assert sizes == {"Weights": (3, 2, 2), "Bias": (1, 1)}
    weights, bias = load_mat(path, (3, 2), 2, 1, 1)
    assert (weights.shape, bias.shape) == ((3, 2, 2, 1, 1), (1, 1, 1, 1))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"path": 3}, TypeError, "path must be a string or a path, got 3"),
        ({"weights": [1.0]}, TypeError, "weights must be an array of float32, float64 or integers"),
        ({"weights": WEIGHTS > 1}, TypeError, "or integers, got bool"),
        ({"weights": WEIGHTS.astype("float16")}, TypeError, "or integers, got float16"),
        ({"weights": WEIGHTS[..., 0]}, ValueError, "weights must have 5 axes, none of them empty"),
        ({"bias": BIAS[..., :0]}, ValueError, "bias must have 4 axes, none of them empty, got"),
        (
            {"bias": BIAS[..., :2]},
            ValueError,
            "bias must have shape (1, 1, filters_per_group, groups) = (1, 1, 4, 5) for weights of "
            "shape (3, 2, 2, 4, 5), got (1, 1, 4, 2)",
        ),
        (
            {"weights_name": "1x"},
            ValueError,
            "weights_name must be a valid name in MATLAB, got '1x'",
        ),
        ({"bias_name": "a..b"}, ValueError, "bias_name must be a valid name in MATLAB, got 'a..b'"),
        ({"bias_name": "B" * 64}, ValueError, "bias_name must be a valid name in MATLAB"),
        ({"bias_name": "Weights"}, ValueError, "weights_name and bias_name must differ"),
        ({"bias_name": "Weights.x"}, ValueError, "bias_name must not lead into an array"),
        (
            {"weights_name": "a.b", "bias_name": "a"},
            ValueError,
            "bias_name must not be a struct's name, got 'a'",
        ),
    ],
)
def test_what_cannot_be_saved_is_refused_and_nothing_is_written(changes, error, message, path):
    with pytest.raises(error, match=re.escape(message)):
        save_mat(**{"path": path, "weights": WEIGHTS, "bias": BIAS} | changes)
    assert os.listdir(path.parent) == []


def test_a_file_is_written_whole_or_not_at_all(path, monkeypatch):
    save_mat(path, WEIGHTS, BIAS)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("no space")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        save_mat(path, WEIGHTS + 1, BIAS)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["layer.mat"]
