"""Every transformation of the primitive: lax's numbers, and no grouped lax convolution left."""

import functools

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import ad, batching, mlir

from grouped_conv_jax import _primitive, grouped_conv2d

KINDS = {"depthwise": (1, 1, 6), "merged": (3, 2, 2)}


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=list(KINDS))
def operands(request):
    channels, filters, groups = KINDS[request.param]
    generator = np.random.default_rng(0)
    x = jnp.asarray(generator.normal(size=(2, 6, 5, channels * groups)))
    weights = jnp.asarray(generator.normal(size=(3, 2, channels, filters, groups)))
    return x, weights


def convolve(x, weights, implementation=None):
    return grouped_conv2d(
        x, weights, stride=(2, 1), padding="same", dilation_factor=(1, 2),
        implementation=implementation,
    )  # fmt: skip


def loss(x, weights, implementation=None):
    return jnp.sum(jnp.sin(convolve(x, weights, implementation)))


def stack(array, n=3):
    return jnp.stack([array * (1 + i) for i in range(n)])


def reverse_over_forward(f):
    return jax.grad(lambda x, w: jax.jvp(f, (x, w), (jnp.cos(x), jnp.sin(w)))[1], (0, 1))


def forward_over_reverse(f):
    return lambda x, w: jax.jvp(jax.grad(f, (0, 1)), (x, w), (jnp.cos(x), jnp.sin(w)))[1]


def scanned(f):
    def run(x, w):
        return jax.lax.scan(lambda c, x: (c + f(x, w), f(x, 2 * w)), 0.0, stack(x))

    return jax.grad(lambda x, w: run(x, w)[0] + jnp.sum(run(x, w)[1]), (0, 1))


LOSS = {
    "grad": lambda f: jax.grad(f, (0, 1)),
    "jit of grad": lambda f: jax.jit(jax.grad(f, (0, 1))),
    "jvp": lambda f: lambda x, w: jax.jvp(f, (x, w), (jnp.cos(x), jnp.sin(w))),
    "jacfwd": lambda f: jax.jacfwd(f, 1),
    "jacrev": lambda f: jax.jacrev(f, (0, 1)),
    "hessian": lambda f: jax.hessian(f, 1),
    "jvp of grad": forward_over_reverse,
    "grad of jvp": reverse_over_forward,
    "grad of grad": lambda f: jax.grad(
        lambda x, w: sum(jnp.sum(g**2) for g in jax.grad(f, (0, 1))(x, w)), (0, 1)
    ),
    "checkpoint": lambda f: jax.grad(jax.checkpoint(f), (0, 1)),
    "linearize": lambda f: lambda x, w: jax.linearize(f, x, w)[1](x, w),
    "scan": scanned,
    "vmap over the input": lambda f: lambda x, w: jax.vmap(f, (0, None))(stack(x), w),
    "vmap over the weights": lambda f: lambda x, w: jax.vmap(f, (None, 0))(x, stack(w)),
    "vmap over both": lambda f: lambda x, w: jax.vmap(f)(stack(x), stack(w)),
    "vmap of vmap": lambda f: lambda x, w: jax.vmap(
        jax.vmap(f, (None, 1)), (0, None)
    )(stack(x), jnp.moveaxis(stack(w), 0, 1)),
    "per-sample gradients": lambda f: lambda x, w: jax.vmap(jax.grad(f, 1), (0, None))(x, w),
    "grad of vmap over the weights": lambda f: jax.grad(
        lambda x, w: jnp.sum(jax.vmap(f, (None, 0))(x, stack(w)) ** 2), (0, 1)
    ),
    "grad of vmap over both": lambda f: jax.grad(
        lambda x, w: jnp.sum(jax.vmap(f)(stack(x), stack(w)) ** 2), (0, 1)
    ),
}  # fmt: skip


def bound_in(jaxpr):
    """The names of all primitives, at any depth."""
    names = set()
    for equation in jaxpr.eqns:
        names.add(equation.primitive.name)
        for parameter in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns")
        ):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                names |= bound_in(inner)
    return names


@pytest.mark.parametrize("name", LOSS)
def test_transformation_gives_the_numbers_of_lax_on_the_fast_path(name, operands):
    transformed = LOSS[name](loss)
    expected = LOSS[name](functools.partial(loss, implementation="lax"))(*operands)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10),
        transformed(*operands),
        expected,
    )
    names = bound_in(jax.make_jaxpr(transformed)(*operands).jaxpr)
    assert "grouped_convolution" in names
    assert "conv_general_dilated" not in names


def test_linear_transpose_is_the_input_gradient(operands):
    x, weights = operands
    y = convolve(x, weights)
    for implementation in (None, "lax"):
        f = functools.partial(convolve, weights=weights, implementation=implementation)
        (result,) = jax.linear_transpose(f, x)(y)
        if implementation is None:
            ours = result
    np.testing.assert_allclose(ours, result, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("batched", [False, True])
def test_compiled_program_holds_no_grouped_convolution(batched, operands):
    x, weights = operands
    gradient = jax.grad(loss, (0, 1))
    if batched:
        gradient, x, weights = jax.vmap(gradient), stack(x), stack(weights)
    program = jax.jit(gradient).lower(x, weights).compile().as_text()
    assert "feature_group_count" not in program
    assert "batch_group_count" not in program


def test_exported_program_serves_every_platform_and_any_batch(operands):
    x, weights = operands
    shape = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("b"), *x.shape[1:]), x.dtype)
    exported = jax.export.export(jax.jit(jax.grad(loss, (0, 1))), platforms=("cpu", "cuda", "tpu"))(
        shape, weights
    )
    again = jax.export.deserialize(exported.serialize())
    for n in (1, 2):
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10),
            again.call(x[:n], weights),
            jax.grad(functools.partial(loss, implementation="lax"), (0, 1))(x[:n], weights),
        )


def test_ahead_of_time_shapes_and_nan_checks_work(operands):
    assert jax.eval_shape(convolve, *operands).shape == convolve(*operands).shape
    compiled = jax.jit(convolve).lower(*operands).compile()
    np.testing.assert_array_equal(compiled(*operands), jax.jit(convolve)(*operands))
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        convolve(operands[0] * jnp.nan, operands[1])


def test_shard_map_over_one_device_gives_the_same(operands):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec
    sharded = jax.shard_map(
        convolve, mesh=mesh, in_specs=(spec("data"), spec()), out_specs=spec("data")
    )
    np.testing.assert_allclose(sharded(*operands), convolve(*operands), rtol=1e-12)


def test_the_interfaces_below_jax_that_the_primitive_needs_are_there():
    message = "JAX changed what grouped_conv_jax/_primitive.py is built on"
    assert callable(jax.extend.core.Primitive), message
    assert callable(ad.defbilinear), message
    assert callable(mlir.register_lowering), message
    assert callable(mlir.lower_fun), message
    assert hasattr(batching, "primitive_batchers"), message
    assert isinstance(_primitive.primitive, jax.extend.core.Primitive), message
