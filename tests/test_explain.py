"""``explain`` tells what runs, and why."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grouped_conv_jax import explain, grouped_conv2d
from grouped_conv_jax.operation import _choice
from grouped_conv_jax.operation._description import Convolution, Role
from grouped_conv_jax.operation.implementations import REGISTRY, native_library

ROLES = {"forward", "input_gradient", "filter_gradient"}
ARGUMENTS = {"stride": 2, "padding": "same", "dilation_factor": (1, 2), "data_format": "BCSS"}


def shapes(channels, filters, groups):
    """Input and weights, of which nothing but shapes is needed."""
    return (
        jax.ShapeDtypeStruct((3, channels * groups, 9, 8), jnp.float32),
        jax.ShapeDtypeStruct((3, 2, channels, filters, groups), jnp.float32),
    )


DEPTHWISE, GROUPED, DENSE = shapes(1, 1, 12), shapes(16, 8, 4), shapes(4, 6, 1)


@pytest.mark.parametrize("platform", _choice.PLATFORMS)
@pytest.mark.parametrize("operands", [DEPTHWISE, GROUPED], ids=["depthwise", "grouped"])
def test_tells_what_is_lowered_for_each_platform(operands, platform, monkeypatch):
    told = explain(*operands, platform=platform, **ARGUMENTS)
    lowered, choose = {}, _choice.choose

    def note(role, *arguments):
        lowered[role.name.lower()] = choose(role, *arguments)
        return lowered[role.name.lower()]

    monkeypatch.setattr(_choice, "choose", note)

    # A function of its own, that no earlier lowering is remembered for.
    def loss(x, weights):
        return jnp.sum(jnp.sin(grouped_conv2d(x, weights, **ARGUMENTS)))

    gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))
    if platform == "cpu":
        gradients.lower(*operands)
    else:
        jax.export.export(gradients, platforms=[platform])(*operands)
    assert told == lowered


def test_has_a_reason_for_each_role():
    told = explain(*DEPTHWISE, **ARGUMENTS)
    assert set(told) == ROLES
    for choice in told.values():
        assert choice == (choice.implementation, choice.reason)
        assert choice.implementation in REGISTRY
        assert choice.reason


def test_is_for_the_default_backend_unless_told_otherwise():
    assert jax.default_backend() == "cpu"
    assert explain(*GROUPED, **ARGUMENTS) == explain(*GROUPED, platform="cpu", **ARGUMENTS)


@pytest.mark.parametrize("platform", ["cuda", "rocm"])
def test_gpus_take_sums_over_the_taps_of_small_filters_alone(platform):
    x = jax.ShapeDtypeStruct((2, 32, 32, 8), jnp.float32)
    chosen = {
        size: explain(
            x, jax.ShapeDtypeStruct((size, size, 1, 1, 8), jnp.float32), platform=platform
        )
        for size in (3, 7, 9)
    }
    assert {size: told["forward"].implementation for size, told in chosen.items()} == {
        3: "taps",
        7: "taps",
        9: "lax",
    }


def on_tpu(batch, image, channels, filters, groups, size=3, **keywords):
    """The implementation of each role on a TPU, and the reasons."""
    x = jax.ShapeDtypeStruct((batch, image, image, channels * groups), jnp.bfloat16)
    weights = jax.ShapeDtypeStruct((size, size, channels, filters, groups), jnp.bfloat16)
    told = explain(x, weights, padding="same", platform="tpu", **keywords)
    return {role: choice.implementation for role, choice in told.items()}, {
        choice.reason for choice in told.values()
    }


@pytest.mark.parametrize("batch", [1, 8, 32, 64])
@pytest.mark.parametrize(
    "shape", [(56, 4, 4, 32), (14, 16, 16, 32), (28, 2, 2, 64), (28, 24, 24, 5), (56, 24, 24, 2)]
)
def test_a_tpu_merges_narrow_groups_by_estimates(batch, shape):
    chosen, reasons = on_tpu(batch, *shape)
    assert set(chosen.values()) == {"blocks"}
    assert all("estimated" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((128, 56, 4, 4, 32), "more than 64 images per device fill the lanes"),
        ((8, 56, 1, 1, 144), "a sum of single products"),
        (
            (8, 13, 192, 128, 2),
            "groups of 192 channels or filters are too wide to share a lane tile",
        ),
        ((8, 7, 32, 32, 32), "fewer than 128 pixels"),
        ((8, 14, 24, 24, 14), "14 groups divide into blocks of 48 lanes"),
    ],
)
def test_a_tpu_takes_lax_where_the_estimates_are_no_better(shape, reason):
    chosen, reasons = on_tpu(*shape)
    assert set(chosen.values()) == {"lax"}
    (told,) = reasons
    assert reason in told
    assert "estimated" in told


def test_a_tpu_merges_groups_with_a_multiplier_in_their_gradients():
    chosen, _ = on_tpu(8, 28, 1, 2, 96)
    assert chosen == {"forward": "lax", "input_gradient": "blocks", "filter_gradient": "blocks"}


def test_a_tpu_multiplies_1x1_filters_of_all_groups_at_once():
    chosen, reasons = on_tpu(8, 28, 80, 20, 3, size=1)
    assert set(chosen.values()) == {"blocks"}
    assert reasons == {"3 groups fill 240 lanes together (estimated)"}
    chosen, _ = on_tpu(8, 28, 80, 40, 3, size=1)
    assert chosen == {"forward": "blocks", "input_gradient": "blocks", "filter_gradient": "lax"}


@pytest.mark.parametrize(
    ("batch", "size", "channels", "groups", "implementation"),
    [
        (8, 14, 16, 32, "lax"),
        (32, 14, 16, 32, "blocks"),
        (8, 14, 8, 32, "blocks"),
        (8, 56, 24, 2, "lax"),
        (8, 56, 16, 32, "blocks"),
    ],
)
def test_a_tpu_merges_wider_groups_in_float32_where_there_is_enough_to_do(
    batch, size, channels, groups, implementation
):
    pad = (1, 1)
    convolution = Convolution((size, size), (3, 3), groups, (1, 1), (pad, pad), (1, 1))
    for dtype, expected in ((jnp.float32, implementation), (jnp.bfloat16, "blocks")):
        setting = _choice.Setting("tpu", False, batch, dtype)
        for role in Role:
            choice = _choice.choose(role, convolution, channels, channels, setting)
            assert choice.implementation == expected


def test_a_tpu_takes_lax_where_the_batch_is_a_symbol():
    setting = _choice.Setting("tpu", True, jax.export.symbolic_shape("b")[0], jnp.bfloat16)
    convolution = Convolution((56, 56), (3, 3), 32, (1, 1), ((1, 1), (1, 1)), (1, 1))
    choice = _choice.choose(Role.FORWARD, convolution, 4, 4, setting)
    assert choice == ("lax", "the batch is not known (estimated)")


def test_over_several_devices_the_batch_of_each_is_assumed_and_shards_are_not_merged():
    convolution = Convolution((14, 14), (3, 3), 32, (1, 1), ((1, 1), (1, 1)), (1, 1))
    setting = _choice.Setting("tpu", False, 256, jnp.bfloat16, 4)
    implementation, reason = _choice.choose(Role.FORWARD, convolution, 16, 16, setting)
    assert implementation == "blocks"
    assert reason.startswith("8 groups fill 128 lanes")
    assert "the batch per device is assumed" in reason
    large = setting._replace(batch=512)
    assert _choice.choose(Role.FORWARD, convolution, 16, 16, large).implementation == "lax"


def test_takes_arrays_of_numpy_and_jax_as_well():
    x, weights = np.ones((1, 5, 5, 4), np.float32), jnp.ones((3, 3, 1, 1, 4))
    assert set(explain(x, weights)) == ROLES


@pytest.mark.parametrize("name", ["taps", "blocks"])
def test_an_implementation_given_by_name_is_told_with_that_reason(name):
    told = explain(*DEPTHWISE, implementation=name, **ARGUMENTS)
    assert set(told.values()) == {(name, "asked for by name")}


@pytest.mark.parametrize("operands", [DENSE, DEPTHWISE], ids=["dense", "depthwise"])
def test_a_cpu_takes_the_native_kernels(operands):
    told = explain(*operands, platform="cpu", **ARGUMENTS)
    assert {choice.implementation for choice in told.values()} == {"native"}


def test_without_the_native_library_the_reason_is_told(monkeypatch):
    monkeypatch.setattr(native_library, "status", lambda: "it was not built")
    told = explain(*DEPTHWISE, platform="cpu", **ARGUMENTS)
    assert {choice.implementation for choice in told.values()} == {"taps"}
    assert all("it was not built" in choice.reason for choice in told.values())


@pytest.mark.parametrize(
    ("operands", "implementation"), [(DENSE, None), (DEPTHWISE, "lax")], ids=["dense", "by name"]
)
def test_tells_that_lax_computes_one_group_and_whatever_asks_for_it(operands, implementation):
    told = explain(*operands, implementation=implementation, platform="tpu", **ARGUMENTS)
    assert {choice.implementation for choice in told.values()} == {"lax"}
    assert all("one group" in c.reason or "by name" in c.reason for c in told.values())


def test_the_choice_depends_on_the_description_alone():
    x, weights = DEPTHWISE
    again = [jax.ShapeDtypeStruct(a.shape, jnp.bfloat16) for a in (x, weights)]
    larger = jax.ShapeDtypeStruct((100, *x.shape[1:]), x.dtype)
    assert explain(x, weights, **ARGUMENTS) == explain(*again, **ARGUMENTS)
    assert explain(x, weights, **ARGUMENTS) == explain(larger, weights, **ARGUMENTS)


class TestErrors:
    def test_an_unknown_platform(self):
        with pytest.raises(ValueError, match=r"platform must be one of 'cpu', .* got 'gpus'"):
            explain(*DEPTHWISE, platform="gpus", **ARGUMENTS)
        with pytest.raises(TypeError, match=r"platform must be one of 'cpu', .* got 3"):
            explain(*DEPTHWISE, platform=3, **ARGUMENTS)

    def test_an_implementation_that_cannot(self):
        with pytest.raises(NotImplementedError, match="implementation='taps' cannot"):
            explain(*GROUPED, implementation="taps", **ARGUMENTS)

    def test_those_of_the_convolution(self):
        convolve = functools.partial(explain, *DEPTHWISE)
        with pytest.raises(ValueError, match="stride must be a positive integer"):
            convolve(stride=0)
        with pytest.raises(ValueError, match="input channels"):
            convolve(data_format="BSSC")
        with pytest.raises(TypeError, match="strides"):
            convolve(strides=2)


def test_every_role_has_a_function_in_every_implementation():
    for name in REGISTRY:
        for role in Role:
            for platform in _choice.PLATFORMS:
                assert callable(_choice.Choice(name, "").function(role, platform))
