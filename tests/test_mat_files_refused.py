"""Files that are no MATLAB files, are damaged, or hold something else than weights."""

import io
import os
import pathlib
import sys

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse
from mat_writers import (
    BIAS,
    SAVERS,
    SIZES,
    WEIGHTS,
    array_5,
    compressed_5,
    damaged,
    object_5,
    save_6,
    save_7,
    save_73,
    write_5,
    write_73_header,
)

from grouped_conv_jax.convert import load_mat


@pytest.fixture
def path(tmp_path):
    return tmp_path / "layer.mat"


def test_an_object_instead_of_an_array_is_named_with_its_class(path):
    write_5(path, object_5("Weights", "dlarray"), object_5("Bias", "dlarray"))
    message = r"'Weights' in path='.*' must be a full array of real numbers, got .*class dlarray"
    with pytest.raises(ValueError, match=message):
        load_mat(path, *SIZES)


@pytest.mark.parametrize(
    ("value", "matlab_class"),
    [
        (np.array(["abc", "def"], dtype=object), "cell"),
        ({"field": 1.0}, "struct"),
        ("weights", "char"),
        (scipy.sparse.csc_matrix(np.eye(3)), "sparse"),
        (WEIGHTS > 1, "logical"),
        (WEIGHTS * 1j, "complex single"),
        (
            scipy.io.matlab.MatlabObject(np.array([[(1.0,)]], dtype=[("f", "O")]), "inline"),
            "object",
        ),
    ],
)
@pytest.mark.parametrize("save", [save_6, save_7])
def test_version_5_to_7_other_classes_are_refused(save, value, matlab_class, path):
    save(path, Weights=value, Bias=BIAS)
    message = r"'Weights' in path='.*' must be a full array of real numbers, got MATLAB class "
    with pytest.raises(ValueError, match=message + matlab_class):
        load_mat(path, *SIZES)


def write_73_item(path, make):
    """A version 7.3 file with a good bias and what ``make`` makes under the name of the weights."""
    save_73(path, Bias=BIAS)
    with h5py.File(path, "r+") as file:
        make(file)


def dataset_73(array, matlab_class, **attributes):
    def make(file):
        dataset = file.create_dataset("Weights", data=array)
        dataset.attrs["MATLAB_class"] = np.bytes_(matlab_class)
        for name, value in attributes.items():
            dataset.attrs[name] = value

    return make


def cell_73(file):
    references = np.array([[file["Bias"].ref]], dtype=h5py.ref_dtype)
    dataset_73(references, "cell")(file)


def struct_73(file):
    file.create_group("Weights").attrs["MATLAB_class"] = np.bytes_("struct")


def sparse_73(file):
    group = file.create_group("Weights")
    group.attrs["MATLAB_class"] = np.bytes_("double")
    group.attrs["MATLAB_sparse"] = np.uint64(3)


COMPLEX = np.zeros(WEIGHTS.T.shape, dtype=[("real", "f4"), ("imag", "f4")])


@pytest.mark.parametrize(
    ("make", "matlab_class"),
    [
        (cell_73, "cell"),
        (struct_73, "struct"),
        (sparse_73, "sparse"),
        (dataset_73(np.zeros((7, 1), np.uint16), "char", MATLAB_int_decode=2), "char"),
        (dataset_73(WEIGHTS.T > 1, "logical", MATLAB_int_decode=1), "logical"),
        (dataset_73(np.zeros((6, 1), np.uint32), "dlarray", MATLAB_object_decode=3), "dlarray"),
        (dataset_73(COMPLEX, "single"), "complex single"),
    ],
)
def test_version_73_other_classes_are_refused(make, matlab_class, path):
    write_73_item(path, make)
    message = r"'Weights' in path='.*' must be a full array of real numbers, got MATLAB class "
    with pytest.raises(ValueError, match=message + matlab_class):
        load_mat(path, *SIZES)


@pytest.mark.parametrize("version", SAVERS)
@pytest.mark.parametrize("name", ["Weights", "Bias"])
def test_an_empty_array_means_a_layer_that_was_not_initialized(version, name, path):
    arrays = {"Weights": WEIGHTS, "Bias": BIAS}
    del arrays[name]
    if version == "7.3":
        save_73(path, **arrays)
        with h5py.File(path, "r+") as file:
            dataset = file.create_dataset(name, data=np.zeros(2, np.uint64))
            dataset.attrs["MATLAB_class"] = np.bytes_("double")
            dataset.attrs["MATLAB_empty"] = np.uint8(1)
    else:
        SAVERS[version](path, **arrays, **{name: np.zeros((0, 0))})
    message = rf"'{name}' in path='.*' must hold numbers, got \[\]: the layer was not initialized"
    with pytest.raises(ValueError, match=message):
        load_mat(path, *SIZES)


def test_version_73_a_type_that_contradicts_the_class_is_refused(path):
    write_73_item(path, dataset_73(WEIGHTS.T.astype(float), "single"))
    with pytest.raises(ValueError, match="class single and stored type float64 disagree"):
        load_mat(path, *SIZES)


@pytest.mark.parametrize("version", SAVERS)
def test_a_missing_name_is_named_with_those_there_are(version, path):
    SAVERS[version](path, Weights=WEIGHTS, bias=BIAS, other=np.zeros((1, 1)))
    with pytest.raises(
        ValueError, match=r"path='.*layer.mat' lacks 'Bias'; it holds 'Weights', 'bias', 'other'"
    ):
        load_mat(path, *SIZES)


@pytest.mark.parametrize("version", SAVERS)
@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"Weights": WEIGHTS.T, "Bias": BIAS},
            r"'Weights' in path='.*' must have size \(3, 2, 2, 4, 5\), trailing ones "
            r"optional, got \(5, 4, 2, 2, 3\)",
        ),
        (
            {"Weights": WEIGHTS, "Bias": BIAS.reshape(4, 5)},
            r"'Bias' in path='.*' must have size \(1, 1, 4, 5\), trailing ones optional, "
            r"got \(4, 5\)",
        ),
    ],
)
def test_a_wrong_size_is_refused(version, arrays, message, path):
    SAVERS[version](path, **arrays)
    with pytest.raises(ValueError, match=message):
        load_mat(path, *SIZES)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a MATLAB file",
        b"# Created by Octave 9.2.0\n# name: Weights\n" * 10,
        bytes(1000),
        b"\x89HDF\r\n\x1a\n" + bytes(1000),
        b"\x80\x04cos\nsystem\n(S'exit 1'\ntR." + bytes(200),
    ],
)
def test_another_kind_of_file_is_refused(content, path):
    path.write_bytes(content)
    message = r"path='.*layer.mat' must be a MATLAB file of version 5, 6, 7 or 7.3"
    with pytest.raises(ValueError, match=message):
        load_mat(path, *SIZES)


@pytest.mark.parametrize("version", SAVERS)
def test_every_truncation_is_refused(version, path):
    # Single axes and few numbers keep the file, and with it the number of truncations, small.
    SAVERS[version](path, Weights=np.ones((1, 2)), Bias=np.ones((1, 1)))
    content = path.read_bytes()
    load_mat(path, (1, 2), 1, 1, 1)
    for length in range(len(content) - 1, -1, -1):
        os.truncate(path, length)
        with pytest.raises(ValueError, match=r"path='.*layer.mat' (is truncated|lacks|must be)"):
            load_mat(path, (1, 2), 1, 1, 1)


@pytest.mark.parametrize("save", [save_6, save_7])
def test_every_damaged_byte_gives_numbers_of_the_right_size_or_a_value_error(save, path):
    save(path, Weights=np.ones((1, 2)), Bias=np.ones((1, 1)))
    content = path.read_bytes()
    refused = 0
    for changed in damaged(content):
        path.write_bytes(changed)
        try:
            weights, bias = load_mat(path, (1, 2), 1, 1, 1)
        except ValueError:
            refused += 1
        else:
            assert (weights.shape, bias.shape) == ((1, 2, 1, 1, 1), (1, 1, 1, 1))
    assert refused > len(content) - 124


def test_a_compressed_array_cannot_inflate_beyond_its_size(path):
    size, double = (1, 2), 6
    bomb = array_5("Weights", double, size, 9, bytes(1 << 24))
    write_5(path, compressed_5(bomb), compressed_5(array_5("Bias", double, (1, 1), 9, bytes(8))))
    with pytest.raises(ValueError, match="incomplete or larger than its size"):
        load_mat(path, size, 1, 1, 1)


@pytest.mark.parametrize("version", SAVERS)
def test_a_claimed_size_is_refused_before_memory_is_taken(version, path):
    claimed = (1 << 20, 1 << 20)
    if version == "7.3":
        with h5py.File(path, "w", userblock_size=512) as file:
            for name in ("Weights", "Bias"):
                dataset = file.create_dataset(name, claimed, np.float64, chunks=(64, 64))
                dataset.attrs["MATLAB_class"] = np.bytes_("double")
        write_73_header(path)
    else:
        arrays = [array_5(name, 6, claimed, 9, bytes(16)) for name in ("Weights", "Bias")]
        write_5(path, *(map(compressed_5, arrays) if version == "7" else arrays))
    with pytest.raises(ValueError, match=r"'Weights' .* got \(1048576, 1048576\)"):
        load_mat(path, *SIZES)


def test_a_missing_file_is_a_missing_file(path):
    with pytest.raises(FileNotFoundError, match=r"layer\.mat"):
        load_mat(path, *SIZES)


def test_the_suffix_is_not_guessed(tmp_path):
    save_6(tmp_path / "layer.mat", Weights=WEIGHTS, Bias=BIAS)
    with pytest.raises(FileNotFoundError):
        load_mat(tmp_path / "layer", *SIZES)


def test_version_73_without_h5py_says_what_to_install(path, monkeypatch):
    save_73(path, Weights=WEIGHTS, Bias=BIAS)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r'pip install "grouped_conv_jax\[mat\]"'):
        load_mat(path, *SIZES)


@pytest.mark.parametrize("given", [None, 5, io.BytesIO(b"")])
def test_a_path_of_another_kind_is_refused(given):
    with pytest.raises(TypeError, match="path must be a string or a path, got"):
        load_mat(given, *SIZES)


@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        ((0, 2, 4, 5), ValueError, "filter_size must be a positive integer"),
        ((3, 2.0, 4, 5), TypeError, "num_channels_per_group must be a positive integer, got 2.0"),
        ((3, 2, -4, 5), ValueError, "num_filters_per_group must be a positive integer, got -4"),
        ((3, 2, 4, "5"), TypeError, "num_groups must be a positive integer, got '5'"),
    ],
)
def test_bad_sizes_are_named(sizes, error, message):
    with pytest.raises(error, match=message):
        load_mat(pathlib.Path("unread.mat"), *sizes)


def test_one_name_for_both_is_refused():
    with pytest.raises(ValueError, match="weights_name and bias_name must differ, got 'W'"):
        load_mat("unread.mat", *SIZES, weights_name="W", bias_name="W")
