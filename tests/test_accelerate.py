"""``accelerate`` gives any program the fast path, and only where it is asked for."""

import concurrent.futures
import functools
import re
import threading

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import COMPILED_QUICKLY
from flax import nnx
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from grouped_conv_jax import accelerate, explain, grouped_conv2d

NUMBERS = ("NHWC", "HWIO", "NHWC")


def operands():
    random = np.random.default_rng(0)
    shapes = (2, 6, 5, 8), (3, 3, 2, 12)
    return tuple(jnp.asarray(random.standard_normal(shape)) for shape in shapes)


def convolve(x, w):
    """Plain lax, four groups."""
    return lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=NUMBERS, feature_group_count=4
    )


def gradients(f):
    return jax.grad(lambda x, w: jnp.sum(jnp.sin(f(x, w))), (0, 1))


def is_fast(f, *arguments):
    """Whether no convolution is left in the program of a function."""
    text = jax.jit(f).lower(*arguments).as_text()
    return "stablehlo.convolution" not in text


def assert_same(f, g, *arguments, tolerance=1e-5):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance),
        f(*arguments),
        g(*arguments),
    )


def within(f):
    """Called in the scope."""

    def call(*arguments):
        with accelerate():
            return f(*arguments)

    return call


class TestForms:
    @pytest.mark.parametrize("form", [accelerate, accelerate(), within], ids=["f", "()", "with"])
    def test_function_decorator_and_with_are_the_same(self, form):
        fast = form(convolve)
        assert is_fast(fast, *operands())
        assert not is_fast(convolve, *operands())
        assert_same(fast, convolve, *operands())

    def test_a_function_keeps_its_name_and_a_method_its_object(self):
        class Model:
            @accelerate
            def apply(self, x, w):
                """Applies."""
                return convolve(x, w)

        assert (Model.apply.__name__, Model.apply.__doc__) == ("apply", "Applies.")
        assert is_fast(Model().apply, *operands())

    def test_switched_off_within(self):
        @accelerate
        def both(x, w):
            with accelerate(enabled=False):
                y = convolve(x, w)
            return y, convolve(x, w)

        told = explain(both, *operands())
        assert [one.implementation for one in told] == ["lax", "native"]
        off = accelerate(convolve, enabled=False)
        assert not is_fast(off, *operands())
        assert not is_fast(gradients(off), *operands())
        # What is switched off stays off when it is differentiated in the scope of another.
        assert not is_fast(accelerate(gradients(off)), *operands())

    def test_lax_asked_for_by_name_stays_lax(self):
        x, w = operands()
        weights = w.reshape(3, 3, 2, 4, 3).swapaxes(-1, -2)
        named = functools.partial(grouped_conv2d, padding="same", implementation="lax")
        assert not is_fast(accelerate(gradients(named)), x, weights)

    def test_marking_twice_is_marking_once(self):
        programs = {
            jax.jit(f).lower(*operands()).as_text()
            for f in (accelerate(convolve), accelerate(accelerate(convolve)))
        }
        assert len(programs) == 1

    @pytest.mark.parametrize(
        ("arguments", "keywords", "message"),
        [
            ((3,), {}, r"accelerate takes a function, .* got 3"),
            ((nn.Conv,), {}, r"accelerate takes a function, .* got <class"),
            ((), {"enabled": 1}, r"enabled must be True or False, got 1"),
        ],
    )
    def test_bad_arguments_are_named(self, arguments, keywords, message):
        with pytest.raises(TypeError, match=message):
            accelerate(*arguments, **keywords)


def custom_derivative(f):
    @jax.custom_vjp
    def g(x, w):
        return f(x, w)

    g.defvjp(lambda x, w: (f(x, w), (x, w)), lambda kept, ct: jax.vjp(f, *kept)[1](2 * ct))
    return g


def custom_tangent(f):
    g = jax.custom_jvp(f)
    g.defjvp(lambda primals, tangents: jax.jvp(f, primals, tuple(2 * t for t in tangents)))
    return g


def scanned(f):
    def step(total, x):
        return total + f(x[None], operands()[1])[0], None

    return lambda x, w: lax.scan(step, f(x[:1], w)[0], x)[0]


def over_shards(f):
    mesh = jax.make_mesh((2,), ("data",), (AxisType.Auto,), devices=jax.devices()[:2])
    return jax.shard_map(f, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data"))


def branched(f):
    return lambda x, w: lax.cond(jnp.sum(x) > 0, f, lambda x, w: -f(x, w), x, w)


TRANSFORMATIONS = {
    "jit": jax.jit,
    "grad": gradients,
    "second derivative": lambda f: gradients(lambda x, w: gradients(f)(x, w)[0]),
    "vmap of grad": lambda f: (
        lambda x, w: jax.vmap(gradients(f))(jnp.stack([x, -x]), jnp.stack([w, 2 * w]))
    ),
    "grad of scan": lambda f: gradients(scanned(f)),
    "remat": lambda f: gradients(jax.remat(f)),
    "custom_vjp": lambda f: gradients(custom_derivative(f)),
    "custom_jvp": lambda f: gradients(custom_tangent(f)),
    "linearize": lambda f: lambda x, w: jax.linearize(f, x, w)[1](x, w),
    "cond": branched,
    "shard_map": over_shards,
    "grad of shard_map": lambda f: gradients(over_shards(f)),
}


@pytest.mark.parametrize(
    ("side", "name"),
    [
        *(("outside", name) for name in TRANSFORMATIONS),
        *(("inside", name) for name in ("grad", "vmap of grad", "custom_vjp", "cond")),
    ],
)
def test_composes_with_every_transformation(side, name):
    transform = TRANSFORMATIONS[name]
    fast = transform(accelerate(convolve)) if side == "inside" else accelerate(transform(convolve))
    with jax.enable_x64(True):
        assert is_fast(fast, *operands())
        compiled = (
            jax.jit(f, compiler_options=COMPILED_QUICKLY) for f in (fast, transform(convolve))
        )
        assert_same(*compiled, *operands(), tolerance=1e-11)


@pytest.mark.parametrize("side", ["inside", "outside"])
def test_composes_with_export(side):
    f = jax.jit(accelerate(convolve)) if side == "inside" else jax.jit(convolve)
    with accelerate(enabled=side == "outside"):
        exported = jax.export.export(f, platforms=["cpu", "tpu"])(*operands())
    again = jax.export.deserialize(exported.serialize())
    assert_same(again.call, convolve, *operands())
    assert ("stablehlo.convolution" in exported.mlir_module()) == ("tpu" in again.platforms)


class TestCaches:
    @pytest.mark.parametrize("first", [True, False])
    def test_a_jitted_function_has_two_programs(self, first):
        traced = []

        def f(x, w):
            traced.append(None)
            return convolve(x, w)

        jitted = jax.jit(f)
        seen = {}
        for enabled in (first, not first, first, not first):
            with accelerate(enabled=enabled):
                text = jitted.lower(*operands()).as_text()
                jitted(*operands())
            assert seen.setdefault(enabled, text) == text
        assert "stablehlo.convolution" in seen[False]
        assert "stablehlo.convolution" not in seen[True]
        assert len(traced) == 2

    def test_a_derivative_taken_outside_is_that_of_the_scope(self):
        y, pull = accelerate(jax.vjp)(convolve, *operands())
        desired, plain = jax.vjp(convolve, *operands())
        assert_same(lambda: (y, pull(y)), lambda: (desired, plain(desired)))
        assert is_fast(pull, y)
        assert not is_fast(plain, y)

    def test_eager_calls(self):
        x, w = operands()
        plain = convolve(x, w), gradients(convolve)(x, w)
        with accelerate():
            fast = convolve(x, w), gradients(convolve)(x, w)
        assert_same(lambda: fast, lambda: plain)
        with accelerate():
            assert is_fast(convolve, x, w)
        np.testing.assert_array_equal(convolve(x, w), plain[0])


def test_threads_do_not_see_each_other_s_scope():
    entered, left = threading.Event(), threading.Event()

    def other():
        entered.wait(10)
        fast = is_fast(convolve, *operands())
        left.set()
        return fast

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        result = pool.submit(other)
        with accelerate():
            entered.set()
            left.wait(10)
            assert is_fast(convolve, *operands())
        assert not result.result()


def test_an_error_leaves_the_scope():
    with pytest.raises(ZeroDivisionError), accelerate():
        raise ZeroDivisionError
    assert not is_fast(convolve, *operands())


class TestModels:
    """That were made outside of the scope, and do not know of it."""

    X = np.random.default_rng(0).standard_normal((2, 8, 8, 6)).astype(np.float32)

    def check(self, loss, parameters):
        step = jax.value_and_grad(loss)
        assert_same(jax.jit(accelerate(step)), jax.jit(step), parameters)
        text = jax.jit(accelerate(step)).lower(parameters).as_text()
        assert not re.search(r"(feature|batch)_group_count = ([2-9]|\d\d)", text)

    def test_linen(self):
        model = nn.Sequential(
            [
                nn.Conv(12, (1, 1)),
                nn.Conv(12, (3, 3), 2, feature_group_count=12),
                nn.relu,
                nn.ConvTranspose(4, (3, 3)),
                nn.Conv(8, (3,), feature_group_count=4),
            ]
        )
        parameters = model.init(jax.random.key(0), self.X)
        self.check(lambda p: jnp.sum(jnp.sin(model.apply(p, self.X))), parameters)

    def test_nnx(self):
        rngs = nnx.Rngs(0)
        model = nnx.Sequential(
            nnx.Conv(6, 12, (1, 1), rngs=rngs),
            nnx.Conv(12, 24, (3, 3), 2, feature_group_count=12, rngs=rngs),
            nnx.relu,
            nnx.Conv(24, 8, (3, 3), feature_group_count=4, kernel_dilation=2, rngs=rngs),
        )
        definition, state = nnx.split(model)
        self.check(lambda s: jnp.sum(jnp.sin(nnx.merge(definition, s)(self.X))), state)

    def test_an_nnx_step(self):
        model = nnx.Conv(6, 12, (3, 3), feature_group_count=6, rngs=nnx.Rngs(0))

        @nnx.jit
        def gradient(model, x):
            return nnx.grad(lambda model: jnp.sum(model(x) ** 2))(model)

        plain = gradient(model, self.X)
        with accelerate():
            fast = gradient(model, self.X)
        assert_same(lambda: fast, lambda: plain)
