"""Every transformation of JAX agrees with lax, whatever runs, and leaves lax no groups."""

import functools
import itertools
import re

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from cases import COMPILED_QUICKLY

from grouped_conv_jax import grouped_conv2d
from grouped_conv_jax.operation.implementations import REGISTRY

OTHERS = [name for name in REGISTRY if name not in ("lax", "native")]
S, B, GROUPS, CHANNELS, FILTERS = 5, 2, 3, 2, 2
IMAGE, KERNEL = (6, 5), (3, 2, CHANNELS, FILTERS, GROUPS)


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


def convolution(implementation):
    """A convolution with nothing even about it."""
    return functools.partial(
        grouped_conv2d,
        stride=(2, 1),
        dilation_factor=(1, 2),
        padding=(1, 2, 0, 1),
        implementation=implementation,
    )


def stacks():
    """``S`` batches and ``S`` weights."""
    random = np.random.default_rng(0)
    shapes = (S, B, *IMAGE, GROUPS * CHANNELS), (S, *KERNEL)
    return tuple(jnp.asarray(random.standard_normal(shape)) for shape in shapes)


def loss(conv):
    """A scalar whose derivatives of every order depend on both operands."""
    return lambda x, w: jnp.sum(jnp.sin(conv(x, w)))


def gradients(conv):
    return jax.grad(loss(conv), (0, 1))


def small(xs, ws):
    """Operands of one convolution, small enough for whole Jacobians."""
    return xs[0, :1, :4, :3], ws[0]


def checkpointed(policy):
    return lambda conv, xs, ws: jax.grad(jax.checkpoint(loss(conv), policy=policy), (0, 1))(
        xs[0], ws[0]
    )


def scanned(conv, xs, ws):
    def step(total, operands):
        y = conv(*operands)
        return total + y, jnp.sum(y)

    y = jax.eval_shape(conv, xs[0], ws[0])
    return jax.lax.scan(step, jnp.zeros(y.shape, y.dtype), (xs, ws))


def transposed(conv, xs, ws):
    y = conv(xs[0], ws[0])
    (x,) = jax.linear_transpose(lambda x: conv(x, ws[0]), xs[0])(y)
    (w,) = jax.linear_transpose(lambda w: conv(xs[0], w), ws[0])(y)
    return x, w


def linearized(conv, xs, ws):
    y, tangent = jax.linearize(conv, xs[0], ws[0])
    return y, tangent(xs[1], ws[1])


def vmapped(*axes, out_axes=0):
    """Nested ``vmap``, the innermost first, each along axes of input and weights."""

    def transform(f):
        for level in axes:
            f = jax.vmap(f, level, out_axes)
        return f

    return transform


policies = jax.checkpoint_policies
TRANSFORMATIONS = {
    "jit": lambda conv, xs, ws: conv(xs[0], ws[0]),
    "vmap over the input": lambda conv, xs, ws: vmapped((0, None))(conv)(xs, ws[0]),
    "vmap over the weights": lambda conv, xs, ws: vmapped((None, 0))(conv)(xs[0], ws),
    "vmap of one": lambda conv, xs, ws: vmapped((0, None))(gradients(conv))(xs[:1], ws[0]),
    "vmap of none": lambda conv, xs, ws: vmapped((None, 0))(gradients(conv))(xs[0], ws[:0]),
    "grad": lambda conv, xs, ws: gradients(conv)(xs[0], ws[0]),
    "vjp": lambda conv, xs, ws: jax.vjp(conv, xs[0], ws[0])[1](conv(xs[1], ws[1])),
    "jvp": lambda conv, xs, ws: jax.jvp(conv, (xs[0], ws[0]), (xs[1], ws[1])),
    "grad of jvp": lambda conv, xs, ws: gradients(
        lambda x, w: jax.jvp(conv, (x, w), (xs[1], ws[1]))[1]
    )(xs[0], ws[0]),
    "grad of grad": lambda conv, xs, ws: gradients(
        lambda x, w: jnp.concatenate([g.ravel() for g in gradients(conv)(x, w)])
    )(xs[0], ws[0]),
    "jacfwd": lambda conv, xs, ws: jax.jacfwd(conv, (0, 1))(*small(xs, ws)),
    "hessian": lambda conv, xs, ws: jax.hessian(loss(conv), (0, 1))(*small(xs, ws)),
    "linearize": linearized,
    "linear_transpose": transposed,
    "checkpoint": checkpointed(None),
    "checkpoint that saves products": checkpointed(policies.dots_saveable),
    "scan": scanned,
    "grad of scan": lambda conv, xs, ws: gradients(lambda xs, ws: scanned(conv, xs, ws)[0])(xs, ws),
    "cond": lambda conv, xs, ws: jax.lax.cond(
        xs[0, 0, 0, 0, 0] > 0, conv, lambda x, w: -conv(x, w), xs[0], ws[0]
    ),
    "vmap over both": lambda conv, xs, ws: vmapped((0, 0))(conv)(xs, ws),
    "vmap over both along inner axes": lambda conv, xs, ws: vmapped((-1, 3), out_axes=-2)(conv)(
        jnp.moveaxis(xs, 0, -1), jnp.moveaxis(ws, 0, 3)
    ),
    "vmap over both twice": lambda conv, xs, ws: vmapped((0, 0), (1, 1))(conv)(
        jnp.stack([xs, 2 * xs], 1), jnp.stack([ws, -ws], 1)
    ),
    "vmap of grad over both": lambda conv, xs, ws: vmapped((0, 0))(gradients(conv))(xs, ws),
    "vmap of grad over the input": lambda conv, xs, ws: vmapped((0, None))(gradients(conv))(
        xs, ws[0]
    ),
    "jvp of vmap of grad": lambda conv, xs, ws: jax.jvp(
        vmapped((0, 0))(gradients(conv)), (xs, ws), (jnp.cos(xs), jnp.cos(ws))
    ),
}


@functools.cache
def expected(name):
    """What lax computes."""
    compute = functools.partial(TRANSFORMATIONS[name], convolution("lax"))
    return jax.jit(compute, compiler_options=COMPILED_QUICKLY)(*stacks())


def primitives(jaxpr):
    """The names of all primitives, those within others too."""
    names = set()
    for equation in jaxpr.eqns:
        names.add(equation.primitive.name)
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            names |= primitives(inner)
    return names


# What is matched does not depend on what computes it; wider groups do, and loops.
OF_EVERY_IMPLEMENTATION = ("grad of grad", "grad of scan", "vmap of grad over both")


@pytest.mark.parametrize(
    ("name", "implementation"),
    [
        *((name, "native") for name in TRANSFORMATIONS),
        *itertools.product(OF_EVERY_IMPLEMENTATION, OTHERS),
    ],
)
def test_agrees_with_lax_and_leaves_it_no_groups(name, implementation):
    convolve = jax.jit(functools.partial(TRANSFORMATIONS[name], convolution(implementation)))
    traced = convolve.trace(*stacks())
    lowered = traced.lower()
    compiled = lowered.compile(COMPILED_QUICKLY)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10),
        compiled(*stacks()),
        expected(name),
    )
    # Of no operands lax makes no convolution.
    assert ("conv_general_dilated" in primitives(traced.jaxpr.jaxpr)) == (name != "vmap of none")
    for program in lowered.as_text(), compiled.as_text():
        counts = re.findall(r"(?:feature|batch)_group_count\s*=\s*(\d+)", program)
        assert set(counts) <= {"1"}
