"""The compiled kernels on many threads, devices and processes at once."""

import itertools
import multiprocessing
import subprocess
import sys
import textwrap
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grouped_conv_jax import grouped_conv2d


def test_results_do_not_depend_on_how_many_threads_there_are():
    program = """
        import hashlib, os, sys
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[1])])
        import jax, numpy as np
        from grouped_conv_jax import grouped_conv2d
        x, w = (np.random.default_rng(0).standard_normal(shape).astype(np.float32)
                for shape in ((4, 30, 31, 48), (3, 3, 4, 4, 12)))
        step = jax.jit(jax.grad(
            lambda w, x: (grouped_conv2d(x, w, padding="same") ** 2).sum(), (0, 1)))
        for _ in range(3):
            digest = hashlib.sha256()
            for leaf in jax.tree.leaves(step(w, x)):
                digest.update(np.asarray(leaf).tobytes())
            print(digest.hexdigest())
    """
    digests = set()
    for threads in "1", "2":
        command = [sys.executable, "-c", textwrap.dedent(program), threads]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        digests |= set(done.stdout.split())
    assert len(digests) == 1


@pytest.mark.slow
def test_threads_that_run_and_compile_at_once_get_what_one_gets_alone():
    shapes = [((2, 20 + n, 21, 32), (3, 3, 1 + n % 3, 2, 32 // (1 + n % 3))) for n in range(6)]
    shapes = [((*x[:3], w[2] * w[4]), w) for x, w in shapes]
    random = np.random.default_rng(0)
    programs = []
    for x_shape, weights_shape in shapes:
        x, w = (jnp.float32(random.standard_normal(one)) for one in (x_shape, weights_shape))

        def loss(w, x):
            return jnp.sum(grouped_conv2d(x, w, padding=1) ** 2)

        programs.append((jax.jit(jax.grad(loss)), w, x))
    alone = [np.asarray(step(w, x)) for step, w, x in programs]
    end = time.monotonic() + 60
    wrong = []

    def run(first):
        for i in itertools.count(first):
            if time.monotonic() > end:
                return
            step, w, x = programs[i % len(programs)]
            if i % 7 == first:
                step = jax.jit(lambda w, x, step=step: step(w, x))  # compiled anew
            if not np.array_equal(step(w, x), alone[i % len(programs)]):
                wrong.append(i)

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong


def test_sharded_programs_of_eight_devices_run_at_once():
    program = """
        import threading
        import jax
        import jax.numpy as jnp
        import numpy as np
        from jax.sharding import PartitionSpec as P
        from grouped_conv_jax import grouped_conv2d

        jax.config.update("jax_num_cpu_devices", 8)
        mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
        random = np.random.default_rng(0)

        def gradient(w, x):
            loss = lambda w: jnp.sum(grouped_conv2d(x, w, padding=1) ** 2)
            return jax.lax.pmean(jax.grad(loss)(w), "batch")

        def step(groups):
            x = jnp.float32(random.standard_normal((16, 12, 13, 32)))
            w = jnp.float32(random.standard_normal((3, 3, 32 // groups, 2, groups)))
            sharded = jax.shard_map(
                gradient, mesh=mesh, in_specs=(P(), P("batch")), out_specs=P(), check_vma=False)
            return jax.jit(sharded), w, x

        steps = [step(groups) for groups in (1, 4, 16, 32)]
        alone = [np.asarray(f(w, x)) for f, w, x in steps]
        right = []

        def run(first):
            for i in range(first, first + 40):
                f, w, x = steps[i % 4]
                right.append(np.array_equal(f(w, x), alone[i % 4]))

        threads = [threading.Thread(target=run, args=(i,)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(right) == 240 and all(right)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=240)


def _worker(seed):
    x = jnp.float32(np.random.default_rng(seed).standard_normal((2, 9, 9, 32)))
    return np.asarray(jax.jit(grouped_conv2d)(x, jnp.ones((3, 3, 1, 1, 32))))


def test_workers_of_a_fork_server_compute_what_this_process_computes():
    context = multiprocessing.get_context("forkserver")
    with context.Pool(3) as pool:
        found = pool.map_async(_worker, range(6)).get(timeout=240)
    for seed, result in enumerate(found):
        np.testing.assert_array_equal(result, _worker(seed))
