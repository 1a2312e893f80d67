"""The parts of ``train``: schedule, solver, patience, files, what a terminal shows, pictures."""

import fcntl
import os
import pty
import struct
import sys
import termios

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_runs import EPOCHS, OPTIONS, draw_images, finished, one_device  # noqa: F401

from grouped_conv_jax import linen, optim
from grouped_conv_jax.commands import _data, _networks
from grouped_conv_jax.commands._learner import Learner, learning_rate_schedule, make_solver
from grouped_conv_jax.commands._options import Options
from grouped_conv_jax.commands._plots import draw_confusion, draw_curves, draw_filters
from grouped_conv_jax.commands._progress import Bar
from grouped_conv_jax.commands._run_directory import write
from grouped_conv_jax.commands._training import Training, best_epoch, steps_per_epoch


def test_piecewise_schedule_takes_a_tenth_every_ten_epochs():
    constant = learning_rate_schedule(Options.begin({"learning_rate": 0.5}), 7)
    piecewise = learning_rate_schedule(
        Options.begin({"learning_rate": 0.5, "schedule": "piecewise"}), 7
    )
    for epoch in range(25):
        for step in (7 * epoch, 7 * epoch + 6):
            assert float(constant(step)) == 0.5
            assert float(piecewise(step)) == pytest.approx(0.5 * 0.1 ** (epoch // 10))


@pytest.mark.parametrize("name", ["sgdm", "adam", "rmsprop"])
def test_solvers_are_those_of_optim_with_the_options_and_the_factors(name):
    given = {"solver": name, "l2": 0.25, "learning_rate": 0.125}
    arguments = {"l2_regularization": 0.25}
    if name == "sgdm":
        given["momentum"] = arguments["momentum"] = 0.75
    factors = optim.Factors(learn_rate={"a": 2.0, "b": 0.0}, l2={"a": 3.0, "b": 1.0})
    options = Options.begin(given)
    ours = make_solver(options, learning_rate_schedule(options, 1), factors)
    theirs = getattr(optim, name)(0.125, factors=factors, **arguments)
    params = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([3.0])}
    gradients = {"a": jnp.array([0.5, 0.25]), "b": jnp.array([1.0])}
    states = [ours.init(params), theirs.init(params)]
    for _ in range(2):
        (got, states[0]), (expected, states[1]) = (
            solver.update(gradients, state, params)
            for solver, state in zip((ours, theirs), states, strict=True)
        )
        jax.tree.map(np.testing.assert_array_equal, got, expected)
    assert got["b"] == 0


@pytest.mark.parametrize("api", ["linen", "nnx"])
def test_a_network_brings_the_factors_of_its_layers_and_freezes_cancelled_biases(api):
    model = linen.SeparableNetwork(10)
    image = jnp.zeros((1, 8, 8, 1))
    expected = linen.learnable_factors(model, jax.random.key(0), image)
    for name in ("convolution", "channel_wise", "pointwise"):
        expected.learn_rate[name]["bias"] = 0.0
    factors = _networks.build(api, (8, 8, 1), 10).factors
    for got, wanted in zip(factors, expected, strict=True):
        assert jax.tree.leaves(got) == jax.tree.leaves(wanted)


def test_factors_of_the_network_reach_the_solver():
    """A parameter whose learning-rate factor is 0 stays, the other learns."""
    data = _data.load_digits()
    network = _networks.Network(
        initialize=lambda _: ({"frozen": jnp.ones(10), "free": jnp.ones(10)}, {}),
        logits=lambda params, stats, images, _: (
            images.mean((1, 2)) * params["free"][None] + params["frozen"][None],
            stats,
        ),
        factors=optim.Factors(
            learn_rate={"frozen": 0.0, "free": 1.0}, l2={"frozen": 1.0, "free": 1.0}
        ),
    )
    learner = Learner(network, data, Options.begin({"batch_size": 8}), 1)
    after = learner.step(learner.begin(seed=0), np.arange(8))
    np.testing.assert_array_equal(after.params["frozen"], 1)
    assert (after.params["free"] != 1).any()


def history(*losses):
    return [{"epoch": i + 1, "validation_loss": loss} for i, loss in enumerate(losses)]


def test_patience_counts_epochs_since_the_lowest_validation_loss():
    parts = {"training": np.arange(100), "validation": np.arange(9)}
    options = Options.begin({"patience": 2, "epochs": 9})
    training = Training(None, parts, options)
    assert not training.is_over([])
    assert not training.is_over(history(3.0, 2.0, 2.5))
    assert training.is_over(history(3.0, 2.0, 2.5, 2.0))
    assert not training.is_over(history(3.0, 2.0, 2.5, 1.0))
    patient = Training(None, parts, Options.begin({"epochs": 4}))
    assert not patient.is_over(history(1.0, 2.0, 3.0))
    assert patient.is_over(history(1.0, 2.0, 3.0, 4.0))
    assert best_epoch(history(3.0, 2.0, 2.0)) == 2


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path, monkeypatch):
    write(tmp_path, "config.json", b"old")

    def fail(_):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="no space"):
        write(tmp_path, "config.json", b"new and longer")
    assert (tmp_path / "config.json").read_bytes() == b"old"


def on_a_terminal(monkeypatch, columns, show):
    """What a terminal of so many columns gets."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(theirs, "w") as terminal:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", terminal)
            patch.setattr(sys, "stderr", terminal)
            show()
        terminal.flush()
        # The last thing shown, since what was written arrives in pieces.
        os.write(theirs, b"end")
        shown = b""
        while not shown.endswith(b"end"):
            shown += os.read(ours, 1 << 16)
    os.close(ours)
    return shown.removesuffix(b"end").decode()


def what_remains(line):
    """What a line shows after all that is written over it."""
    shown = ""
    for part in line.split("\r"):
        shown = part + shown[len(part) :]
    return shown.rstrip()


def rows(epochs):
    quantities = {"loss": 12.25, "accuracy": 1.0}
    for epoch in range(1, epochs + 1):
        scores = {f"{p}_{q}": v for p in ("training", "validation") for q, v in quantities.items()}
        yield {"epoch": float(epoch), **scores}


def test_a_terminal_of_50_columns_keeps_every_epoch_and_shows_a_bar_below(monkeypatch):
    def show():
        with Bar(epochs=100, steps_per_epoch=40, steps_taken=0) as bar:
            bar.compiling()
            for row in rows(2):
                bar.step()
                bar.epoch(row)

    shown = on_a_terminal(monkeypatch, 50, show)
    assert "\rcompiling   0%|" in shown
    assert "epoch   2/100   0%|" in shown
    assert "| 2/4000" in shown
    lines = shown.replace("\r\n", "\n").split("\n")
    assert all(len(part) <= 50 for line in lines for part in line.split("\r"))
    final = [what_remains(line) for line in lines]
    assert [line for line in final if line.startswith("epoch")] == [
        f"epoch   {epoch}/100  12.2500 100.00%  12.2500 100.00%" for epoch in (1, 2)
    ]
    assert any(line.split() == ["loss", "correct"] * 2 for line in final)


NAMES = ["$5", "$", "猫", "a class whose name is longer than what fits beside the picture"]


@pytest.mark.parametrize("classes", [["a", "b"], NAMES, [f"class {i}" for i in range(70)]])
def test_confusion_is_drawn_for_few_classes_many_and_strange_names(classes):
    truth = np.arange(len(classes))
    assert draw_confusion(truth, truth[::-1], classes).startswith(b"\x89PNG")


def test_curves_and_filters_are_drawn_for_one_epoch_and_zero_weights():
    row = dict.fromkeys(("training_loss", "validation_loss"), 0.0)
    row |= dict.fromkeys(("training_accuracy", "validation_accuracy"), 1.0) | {"epoch": 1}
    assert draw_curves([row], 1).startswith(b"\x89PNG")
    assert draw_filters({"layer": np.zeros((3, 2, 3, 2, 4))}).startswith(b"\x89PNG")


@pytest.mark.parametrize(("images", "steps"), [(8, 1), (9, 2), (15, 2), (16, 2), (28, 4)])
def test_the_last_partial_batch_counts(images, steps):
    split = {"training": np.arange(images)}
    assert steps_per_epoch(split, Options.begin({"batch_size": 8})) == steps
