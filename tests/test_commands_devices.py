"""``train`` over several devices and processes: the same numbers as on one device."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_runs import OPTIONS, finished  # noqa: F401

from grouped_conv_jax import linen
from grouped_conv_jax.commands import _data, _networks, main
from grouped_conv_jax.commands._devices import Devices
from grouped_conv_jax.commands._learner import Learner
from grouped_conv_jax.commands._options import Options

PROCESSES = 2
# A batch of 10 images is not a multiple of 8 devices, and 25 images are not one of 10.
BATCH, IMAGES = 10, np.arange(25)


@pytest.fixture(name="base")
def _base(finished):  # noqa: F811
    return finished


def trained(devices=None):
    options = Options.begin({"batch_size": BATCH})
    network = _networks.build("linen", (8, 8, 1), 10)
    learner = Learner(network, _data.load_digits(), options, 3, devices)
    state = learner.begin(seed=0)
    for start in range(0, len(IMAGES), BATCH):
        state = learner.step(state, IMAGES[start : start + BATCH])
    return state


@pytest.mark.parametrize("api", ["linen", "nnx"])
def test_a_partial_batch_is_a_step_on_its_images_alone(api):
    """Against a step of the module on as many images, without any filling."""
    data, options = _data.load_digits(), Options.begin({"batch_size": 8, "solver": "sgdm"})
    learner = Learner(_networks.build(api, (8, 8, 1), 10), data, options, 1)
    before, few = learner.begin(seed=0), np.arange(5)
    after = learner.step(before, few)
    images = jnp.asarray(data.images[few] / 255, jnp.float32)
    model = linen.SeparableNetwork(10)

    def loss(params):
        variables = {"params": params, "batch_stats": before.batch_stats}
        logits, changed = model.apply(
            variables, images, True, method="logits", mutable=["batch_stats"]
        )
        shares = jax.nn.log_softmax(logits)[few, data.labels[few]]
        return -shares.mean(), (changed["batch_stats"], logits)

    (mean, (batch_stats, logits)), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        before.params
    )
    # The first step of sgdm with L2 regularization: the rate times the gradient.
    for name, factor in (("weights", 1), ("bias", 0)):
        old, gradient = before.params["pointwise"][name], gradients["pointwise"][name]
        expected = old - 0.05 * factor * (gradient + 1e-4 * old)
        np.testing.assert_allclose(after.params["pointwise"][name], expected, atol=1e-6)
    for got, wanted in zip(
        jax.tree.leaves(after.batch_stats), jax.tree.leaves(batch_stats), strict=True
    ):
        np.testing.assert_allclose(got, wanted, atol=1e-6)
    right = (logits.argmax(-1) == data.labels[few]).sum()
    np.testing.assert_allclose(after.totals, [5 * mean, right], rtol=1e-5)


def test_eight_devices_compute_what_one_computes():
    eight, one = trained(), trained(Devices(jax.devices()[:1]))
    assert all(len(leaf.devices()) == 8 for leaf in jax.tree.leaves(eight))
    for got, expected in zip(jax.tree.leaves(eight), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_every_device_has_a_part_of_the_batch():
    devices = Devices()
    batch = devices.spread(np.arange(32).reshape(16, 2))
    assert len(batch.addressable_shards) == 8
    for place, shard in enumerate(batch.addressable_shards):
        np.testing.assert_array_equal(shard.data, np.arange(32).reshape(8, 2, 2)[place])


def start_all(out, *options, images=()):
    """Starts the processes, with two devices each; each may have images of its own."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    command = [sys.executable, "-u", "-m", "grouped_conv_jax", "train", "--no-huge-pages"]
    command += ["--out", str(out), "--coordinator", address, "--processes", str(PROCESSES)]
    return [
        subprocess.Popen(
            [*command, "--process-id", str(i), *options, *own],
            env=os.environ | {"JAX_NUM_CPU_DEVICES": "2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i, own in enumerate([["--data", str(folder)] for folder in images] or [[]] * PROCESSES)
    ]


def end_of(processes):
    """Exit status and output of each."""
    try:
        printed = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    # Gloo, which carries the messages between CPUs, speaks for itself.
    return [
        (process.returncode, *(re.sub(r"\[Gloo\].*\n", "", text) for text in texts))
        for process, texts in zip(processes, printed, strict=True)
    ]


@pytest.mark.slow
def test_two_processes_stop_together_resume_and_reach_what_one_reaches(base, tmp_path):
    out = tmp_path / "run"
    first, second = start_all(out, *OPTIONS, images=[base / "images"] * PROCESSES)
    for line in first.stdout:
        if line == "compiling\n":
            second.send_signal(signal.SIGTERM)
            break
    (status, _, error), (other, silence, nothing) = end_of([first, second])
    assert (status, other) == (143, 143), error + nothing
    assert f"train --resume --out {out}" in error
    # One process writes and speaks.
    assert silence == ""
    assert "interrupted" not in nothing
    assert len(os.listdir(out / "checkpoint")) == 1
    (status, printed, error), (other, silence, nothing) = end_of(
        start_all(out, "--resume", "--epochs", "3")
    )
    assert (status, other) == (0, 0), error + nothing
    assert (silence, nothing) == ("", "")
    assert "epoch 3/3" in printed
    # The same numbers, in other places of the sums.
    got, expected = (
        np.genfromtxt(run / "metrics.csv", delimiter=",", skip_header=1)
        for run in (out, base / "run")
    )
    np.testing.assert_allclose(got, expected[:3], rtol=1e-5, atol=1e-5)
    assert main(["predict", "--model", str(out), str(base / "images" / "left" / "00.png")]) == 0


def test_other_images_in_one_process_end_both(base, tmp_path):
    other, out = shutil.copytree(base / "images", tmp_path / "images"), tmp_path / "run"
    (other / "left" / "00.png").write_bytes((other / "right" / "00.png").read_bytes())
    (status, _, first), (other_status, _, second) = end_of(
        start_all(out, *OPTIONS, images=[base / "images", other])
    )
    assert (status, other_status) == (2, 2)
    assert "another process failed" in first
    assert "--data must hold the same images for all processes" in second
    assert not out.exists()
