"""The solvers' numbers, against a NumPy loop in float64 and closed forms."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from grouped_conv_jax import optim

SHAPES = {
    "conv": {"weights": (3, 2, 2, 4, 2), "bias": (1, 1, 4, 2)},
    "dense": {"kernel": (5, 3), "bias": (3,)},
}
LEARN_RATE = {"conv": {"weights": 0.1, "bias": 2.0}, "dense": {"kernel": 1.0, "bias": 0.0}}
L2 = {"conv": {"weights": 3.0, "bias": 0.0}, "dense": {"kernel": 1.0, "bias": 0.5}}
LEAVES = [(layer, leaf) for layer, leaves in SHAPES.items() for leaf in leaves]
STEPS = 10
THRESHOLDS = {"l2norm": 6.0, "global-l2norm": 11.0, "absolute-value": 1.5}
# Falls in the fifth and in the eighth step.
PIECEWISE = optax.piecewise_constant_schedule(0.05, {4: 0.2, 7: 0.5})
RATES = [0.05] * 4 + [0.01] * 3 + [0.005] * 3

SOLVERS = {
    "sgdm": {"momentum": 0.8},
    "adam": {
        "gradient_decay_factor": 0.85,
        "squared_gradient_decay_factor": 0.99,
        "epsilon": 1e-3,
    },
    "rmsprop": {"squared_gradient_decay_factor": 0.95, "epsilon": 1e-3},
}


def schedule(count):
    # optax's schedule itself mixes integers and floats.
    with jax.numpy_dtype_promotion("standard"):
        return PIECEWISE(count)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def random_leaves(seed):
    rng = np.random.default_rng(seed)
    return {(a, b): rng.standard_normal(SHAPES[a][b]) for a, b in LEAVES}


def gradient(w, leaf, step):
    """Depends on the parameter and the step, and is now small, now large."""
    return (0.3 * w + random_leaves(100 + step)[leaf]) * (1 + step % 3)


def as_tree(leaves):
    tree = {layer: {} for layer in SHAPES}
    for (layer, leaf), value in leaves.items():
        tree[layer][leaf] = value
    return tree


def clip_reference(g, method, threshold):
    """Returns the clipped gradients, and for each leaf whether it was clipped."""
    if method == "absolute-value":
        return (
            {k: np.clip(v, -threshold, threshold) for k, v in g.items()},
            [bool((np.abs(v) > threshold).any()) for v in g.values()],
        )
    norm = {k: np.sqrt((v**2).sum()) for k, v in g.items()}
    if method == "global-l2norm":
        norm = dict.fromkeys(g, np.sqrt(sum((v**2).sum() for v in g.values())))
    return (
        {k: v * (threshold / norm[k] if norm[k] > threshold else 1.0) for k, v in g.items()},
        [bool(n > threshold) for n in norm.values()],
    )


def step_reference(solver, options, m, v, g, rate, t):
    """One leaf's new moments and update."""
    if solver == "sgdm":
        m = options["momentum"] * m - rate * g
        return m, v, m
    b2, epsilon = options["squared_gradient_decay_factor"], options["epsilon"]
    v = b2 * v + (1 - b2) * g**2
    if solver == "rmsprop":
        return m, v, -rate * g / (np.sqrt(v) + epsilon)
    b1 = options["gradient_decay_factor"]
    m = b1 * m + (1 - b1) * g
    correction = np.sqrt(1 - b2**t) / (1 - b1**t)
    return m, v, -rate * correction * m / (np.sqrt(v) + epsilon)


def run_reference(solver, options, rates, l2, method, threshold, with_factors):
    w = random_leaves(0)
    m = {k: np.zeros_like(p) for k, p in w.items()}
    v = {k: np.zeros_like(p) for k, p in w.items()}
    clipped, after_each_step = [], []
    for step, rate in enumerate(rates):
        g = {k: gradient(w[k], k, step) for k in LEAVES}
        for layer, leaf in LEAVES:
            factor = L2[layer][leaf] if with_factors else 1.0
            g[layer, leaf] = g[layer, leaf] + l2 * factor * w[layer, leaf]
        g, which = clip_reference(g, method, threshold)
        clipped += which
        for k in LEAVES:
            factor = LEARN_RATE[k[0]][k[1]] if with_factors else 1.0
            m[k], v[k], update = step_reference(
                solver, options, m[k], v[k], g[k], rate * factor, step + 1
            )
            w[k] = w[k] + update
        after_each_step.append(dict(w))
    return after_each_step, clipped


def run_solver(tx):
    params = jax.tree.map(jnp.asarray, as_tree(random_leaves(0)))
    state = tx.init(params)

    @jax.jit
    def step(params, state, noise, size):
        gradients = jax.tree.map(lambda w, n: (0.3 * w + n) * size, params, noise)
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    after_each_step = []
    for i in range(STEPS):
        noise = jax.tree.map(jnp.asarray, as_tree(random_leaves(100 + i)))
        params, state = step(params, state, noise, jnp.float64(1 + i % 3))
        after_each_step.append({(a, b): np.asarray(params[a][b]) for a, b in LEAVES})
    return after_each_step


def assert_steps_agree(actual, expected):
    for step, k in itertools.product(range(STEPS), LEAVES):
        np.testing.assert_allclose(actual[step][k], expected[step][k], rtol=1e-6, atol=0)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("method", THRESHOLDS)
@pytest.mark.usefixtures("x64")
def test_ten_steps_agree_with_a_numpy_loop(solver, method):
    options, l2, threshold = SOLVERS[solver], 0.02, THRESHOLDS[method]
    changing_rate = method == "l2norm"
    tx = getattr(optim, solver)(
        schedule if changing_rate else 0.05,
        **options,
        l2_regularization=l2,
        gradient_threshold=threshold,
        gradient_threshold_method=method,
        factors=optim.Factors(learn_rate=LEARN_RATE, l2=L2),
    )
    rates = RATES if changing_rate else [0.05] * STEPS
    expected, clipped = run_reference(solver, options, rates, l2, method, threshold, True)
    assert True in clipped
    if method != "absolute-value":
        assert False in clipped
    assert_steps_agree(run_solver(tx), expected)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.usefixtures("x64")
def test_the_defaults_are_those_of_the_contract(solver):
    options = {
        "sgdm": {"momentum": 0.9},
        "adam": {
            "gradient_decay_factor": 0.9,
            "squared_gradient_decay_factor": 0.999,
            "epsilon": 1e-8,
        },
        "rmsprop": {"squared_gradient_decay_factor": 0.9, "epsilon": 1e-8},
    }[solver]
    rate = 0.01 if solver == "sgdm" else 0.001
    expected, _ = run_reference(solver, options, [rate] * STEPS, 1e-4, "l2norm", np.inf, False)
    assert_steps_agree(run_solver(getattr(optim, solver)()), expected)


def test_the_rate_is_inside_the_velocity_of_sgdm():
    tx = optim.sgdm(
        lambda count: jnp.where(count < 1, 1.0, 0.0), momentum=0.5, l2_regularization=0.0
    )
    gradients = {"w": jnp.array([4.0])}
    state = tx.init(gradients)
    received = []
    for _ in range(3):
        updates, state = tx.update(gradients, state, gradients)
        received.append(updates["w"].item())
    # With the rate outside, as in optax.sgd, the second and third would be zero.
    assert received == [-4.0, -2.0, -1.0]


def test_adam_steps_by_the_rate_at_first_to_float32_precision():
    tx = optim.adam(1.0, epsilon=1e-30, l2_regularization=0.0)
    gradients = {"w": jnp.array([3.0, -0.02, 700.0])}
    updates, _ = tx.update(gradients, tx.init(gradients), gradients)
    np.testing.assert_allclose(updates["w"], [-1.0, 1.0, -1.0], rtol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_16_bit_parameters_step_as_float32_ones_rounded_once(solver, dtype):
    # 300 overflows when float16 squares it, and 1e-8 is zero there; bfloat16 rounds 0.999 to 1.
    values = {"w": jnp.array([300.0, -0.5, 0.0]), "b": jnp.array([0.25])}
    tx = getattr(optim, solver)(0.125, gradient_threshold=64.0)
    narrow = jax.tree.map(lambda x: x.astype(dtype), values)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), narrow)
    states = tx.init(narrow), tx.init(wide)
    for _ in range(3):
        updates, state = tx.update(narrow, states[0], narrow)
        expected, wide_state = tx.update(wide, states[1], wide)
        states = state, wide_state
        for name in values:
            assert updates[name].dtype == dtype
            np.testing.assert_array_equal(updates[name], expected[name].astype(dtype))
            assert np.isfinite(np.asarray(updates[name], np.float32)).all()
    floating = [x for x in jax.tree.leaves(states[0]) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert {x.dtype for x in floating} == {jnp.dtype(jnp.float32)}


def test_a_tree_of_16_and_32_bit_parameters_keeps_its_dtypes():
    params = {"a": jnp.array([3.0], jnp.bfloat16), "b": jnp.array([4.0])}
    tx = optim.sgdm(1.0, 0.0, gradient_threshold=1.0, gradient_threshold_method="global-l2norm")
    updates, _ = tx.update(params, tx.init(params), params)
    assert updates["a"].dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(updates["a"], np.float32), [-0.6], rtol=2**-8)
    np.testing.assert_allclose(updates["b"], [-0.8], rtol=1e-6)
