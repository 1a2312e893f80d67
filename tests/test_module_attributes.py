"""Arguments and attributes of the Linen and the NNX module."""

import dataclasses
import inspect

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import grouped_conv_jax

LINEN, NNX = grouped_conv_jax.linen.GroupedConv2D, grouped_conv_jax.nnx.GroupedConv2D
FIELDS = (
    "filter_size",
    "num_filters_per_group",
    "num_groups",
    "stride",
    "dilation_factor",
    "padding",
    "padding_value",
    "num_channels_per_group",
    "use_bias",
    "weights_initializer",
    "bias_initializer",
    "initial_weights",
    "initial_bias",
    "weight_learn_rate_factor",
    "bias_learn_rate_factor",
    "weight_l2_factor",
    "bias_l2_factor",
    "data_format",
    "dtype",
    "param_dtype",
    "precision",
    "implementation",
)
DEFAULTS = {
    "stride": (1, 1),
    "dilation_factor": (1, 1),
    "padding": (0, 0, 0, 0),
    "padding_value": 0,
    "num_channels_per_group": "auto",
    "use_bias": True,
    "weight_learn_rate_factor": 1.0,
    "bias_learn_rate_factor": 1.0,
    "weight_l2_factor": 1.0,
    "bias_l2_factor": 0.0,
    "data_format": "BSSC",
    "dtype": None,
    "param_dtype": jnp.float32,
    "precision": None,
    "implementation": None,
}


def build_linen(*args, **kwargs):
    return LINEN(*args, **kwargs)


def build_nnx(*args, **kwargs):
    return NNX(4, *args, **kwargs, rngs=nnx.Rngs(0))


both_build = pytest.mark.parametrize("build", [build_linen, build_nnx])


class TestSignatures:
    def test_the_fields_of_the_linen_module(self):
        fields = tuple(field.name for field in dataclasses.fields(LINEN))
        assert fields == (*FIELDS, "parent", "name")

    def test_the_arguments_of_the_nnx_module(self):
        parameters = inspect.signature(NNX.__init__).parameters
        assert tuple(parameters) == ("self", "num_channels", *FIELDS, "rngs")
        assert parameters["rngs"].kind is inspect.Parameter.KEYWORD_ONLY

    @both_build
    def test_defaults(self, build):
        module = build(3, 2, 2)
        given = DEFAULTS | ({"num_channels_per_group": 2} if build is build_nnx else {})
        assert {name: getattr(module, name) for name in given} == given


@both_build
class TestAttributes:
    @pytest.mark.parametrize(
        ("padding", "mode", "size"),
        [
            ("same", "same", (0, 0, 0, 0)),
            ("SAME", "same", (0, 0, 0, 0)),
            ("valid", "manual", (0, 0, 0, 0)),
            (2, "manual", (2, 2, 2, 2)),
            ((1, 2), "manual", (1, 1, 2, 2)),
            ((1, 2, 3, 4), "manual", (1, 2, 3, 4)),
            (((1, 2), (3, 4)), "manual", (1, 2, 3, 4)),
        ],
    )
    def test_padding_mode_and_size_follow_from_padding(self, build, padding, mode, size):
        module = build(3, 1, 2, padding=padding)
        assert (module.padding_mode, module.padding_size) == (mode, size)

    def test_inputs_and_outputs(self, build):
        module = build(3, 1, 2)
        assert (module.num_inputs, module.input_names) == (1, ("in",))
        assert (module.num_outputs, module.output_names) == (1, ("out",))

    @pytest.mark.parametrize(
        "name",
        [
            "num_inputs",
            "input_names",
            "num_outputs",
            "output_names",
            "padding_mode",
            "padding_size",
        ],
    )
    def test_what_is_read_only_cannot_be_set(self, build, name):
        module = build(3, 1, 2)
        before = getattr(module, name)
        with pytest.raises(AttributeError):
            setattr(module, name, before)
        assert getattr(module, name) == before

    def test_hyperparameters_are_in_one_form_however_written(self, build):
        module = build(
            [3, np.int64(2)],
            np.int32(1),
            2,
            stride=np.array([2, 1]),
            padding=((1, 0), (0, 2)),
            padding_value="SymmetricIncludeEdge",
            weights_initializer="HE",
            data_format="NCHW",
            weight_l2_factor=np.float32(0.5),
        )
        assert module.filter_size == (3, 2)
        assert module.stride == (2, 1)
        assert module.padding == (1, 0, 0, 2)
        assert module.padding_value == "symmetric-include-edge"
        assert module.weights_initializer == "he"
        assert module.data_format == "BCSS"
        assert module.weight_l2_factor == 0.5
        assert all(type(size) is int for size in (*module.filter_size, *module.stride))
        assert type(module.weight_l2_factor) is float
