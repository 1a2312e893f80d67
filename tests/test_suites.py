"""The suites hold what they say."""

import jax
import jax.numpy as jnp
import pytest

from grouped_conv_jax.benchmarks.cases import BATCH, Case
from grouped_conv_jax.benchmarks.network_linen import LinenNetwork
from grouped_conv_jax.benchmarks.networks import IMAGE_SIZE, NETWORKS
from grouped_conv_jax.benchmarks.suites import SUITES, collect
from grouped_conv_jax.operation._call import convolve
from grouped_conv_jax.operation._description import Role

OF_OTHER_BATCHES = ("reported", "per-sample", "sequences-and-videos")


@pytest.mark.parametrize("name", SUITES)
def test_suite_holds_distinct_grouped_convolutions(name):
    cases = SUITES[name]
    assert len(set(cases)) == len(cases)
    assert len({str(case) for case in cases}) == len(cases)
    for case in cases:
        assert case.groups > 1
        assert case.channels % case.groups == case.filters % case.groups == 0
        assert len(case.image) == len(case.filter_size) == len(case.stride) == len(case.padding)
        assert name in OF_OTHER_BATCHES or case.batch == BATCH


@pytest.mark.parametrize("name", SUITES)
def test_every_case_of_suite_convolves_to_its_shape(name):
    for case in SUITES[name]:
        x, filters = (
            jax.ShapeDtypeStruct(case.shape(operand), jnp.float32)
            for operand in Role.FORWARD.operands
        )
        for implementation in (None, "lax"):
            y = jax.eval_shape(
                lambda x, w, i=implementation, c=case: convolve(x, w, c.convolution, i), x, filters
            )
            assert y.shape == case.shape(Role.FORWARD)
        if name == "per-sample":
            # The size of the filters whose gradients they are.
            assert case.convolution.outputs in ((1, 1), (3, 3), (5, 5))
            continue
        # Padding keeps the size, and a stride divides it, rounding up.
        expected = [-(-size // step) for size, step in zip(case.image, case.stride, strict=True)]
        assert list(case.convolution.outputs) == expected


@pytest.mark.parametrize(
    ("suite", "network"), [("mobilenet-v2", "mobilenet-v2"), ("resnext-50-32x4d", "resnext-50")]
)
def test_suite_holds_the_grouped_convolutions_of_its_network(suite, network):
    found = set()

    def recording(x, filters, window_strides, padding, **rest):
        if rest["feature_group_count"] > 1:
            found.add(
                Case(
                    x.shape[0],
                    x.shape[1:3],
                    x.shape[3],
                    filters.shape[3],
                    filters.shape[:2],
                    rest["feature_group_count"],
                    tuple(window_strides),
                    tuple(rest["rhs_dilation"]),
                    tuple(map(tuple, padding)),
                )
            )
        return jax.lax.conv_general_dilated(x, filters, window_strides, padding, **rest)

    images = jax.ShapeDtypeStruct((BATCH, IMAGE_SIZE, IMAGE_SIZE, 3), jnp.float32)
    model = LinenNetwork(NETWORKS[network], recording)
    jax.eval_shape(model.init, jax.random.key(0), images)
    assert found == set(SUITES[suite])


def test_collect_names_every_suite_that_holds_a_case():
    cases = collect(["mobilenet-v2", "efficientnet-b0"])
    shared = set(SUITES["mobilenet-v2"]) & set(SUITES["efficientnet-b0"])
    assert shared
    assert len(cases) == len(SUITES["mobilenet-v2"]) + len(SUITES["efficientnet-b0"]) - len(shared)
    for case, names in cases.items():
        assert (names == ["mobilenet-v2", "efficientnet-b0"]) == (case in shared)


def test_collect_changes_the_batch_alone():
    (first, *_) = collect(["alexnet"], batch=2)
    assert first.batch == 2
    assert first.shape(Role.FORWARD) == (2, 27, 27, 256)


def test_case_is_described_by_what_is_unusual_about_it():
    assert str(SUITES["mobilenet-v2"][1]) == "8x112x112x96 k3 s2 depthwise"
    assert str(SUITES["alexnet"][0]) == "8x27x27x96->256 k5 g2"
    strided = Case(2, (8, 7), 4, 4, (3, 3), 2, (2, 3), (1, 1), ((0, 1), (1, 1)))
    assert str(strided) == "2x8x7x4->4 k3 s2x3 p0,1,1,1 g2"
    assert str(SUITES["large-kernel"][0]) == "8x56x56x64 k7 d3 depthwise"


def test_case_counts_operations_and_elements():
    # The second convolution of AlexNet: 48 channels a group.
    case = SUITES["alexnet"][0]
    assert case.operations == 2 * 8 * 27 * 27 * 256 * 5 * 5 * 48
    assert case.elements == 8 * 27 * 27 * (96 + 256) + 5 * 5 * 48 * 256
    assert case.terms(Role.FORWARD) == 5 * 5 * 48
    assert case.terms(Role.INPUT_GRADIENT) == 5 * 5 * 128
    assert case.terms(Role.FILTER_GRADIENT) == 8 * 27 * 27
