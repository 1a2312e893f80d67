"""``bench --compile-for``: what a compiler estimates is kept and shown, and never called measured.

The compiler of the tests is the one for CPUs, which estimates no cycles; a number stands in.
"""

import argparse
import dataclasses

import jax
import jax.numpy as jnp
import pytest

from grouped_conv_jax.benchmarks import estimates, report, results
from grouped_conv_jax.benchmarks.harness import Settings
from grouped_conv_jax.benchmarks.networks import NETWORKS
from grouped_conv_jax.commands import bench
from grouped_conv_jax.commands._errors import CommandError

SHAPE = ["--shape", "1,16,16,4", "--groups", "2", "--compile-for", "v5e"]


def run(*words):
    parser = argparse.ArgumentParser(prog="bench", allow_abbrev=False)
    bench.add_arguments(parser)
    return bench.run(parser.parse_args([str(word) for word in words]))


class Compiled:
    """A program with the lines that libtpu writes, shortened."""

    def __init__(self, *cycles):
        self._lines = [
            f'%copy = f32[8]{{0}} copy(%x), backend_config={{"estimated_cycles":"{n}","a":["1"]}}'
            for n in cycles
        ]

    def as_text(self):
        return "\n".join(self._lines)

    def cost_analysis(self):
        return {"flops": 12.0, "bytes accessed": 34.0}


@pytest.fixture(name="lowered")
def _lowered(monkeypatch):
    monkeypatch.setattr(estimates, "_device", lambda _: jax.devices("cpu")[0])
    # Ours takes the first program, lax the second.
    programs = iter(3 * [Compiled(40, 10), Compiled(100, 50)])
    lowered = []

    def compile_one(function, *arguments):
        lowered.append(jax.jit(function).lower(*arguments).as_text())
        return next(programs), {"compile_seconds": 0.5, "temporary_bytes": 6}

    monkeypatch.setattr(estimates.contenders, "compile_jax", compile_one)
    monkeypatch.setattr(estimates.machine, "versions", lambda: {"jax": "1.2.3", "libtpu": "0.0.1"})
    return lowered


def test_cycles_of_all_instructions_are_added():
    assert estimates.costs(Compiled(3, 4)) == {"estimated_cycles": 7, "flops": 12, "bytes": 34}


def test_a_program_without_cycles_is_a_failure():
    compiled = jax.jit(jnp.sin).lower(1.0).compile()
    with pytest.raises(ValueError, match="holds no estimated cycles"):
        estimates.costs(compiled)


@pytest.mark.usefixtures("lowered")
def test_estimates_are_kept_and_shown_as_such(tmp_path, capsys):
    path, picture = tmp_path / "v5e.json", tmp_path / "plot.png"
    assert run(*SHAPE, "--dtype", "bfloat16", "--json", path, "--plot", picture) == 0
    shown = capsys.readouterr()
    head, _, table, first, *_ = shown.out.splitlines()
    assert head.startswith("Estimated by the compiler, not measured: cycles of ")
    assert head.endswith("; bfloat16; JAX 1.2.3, libtpu 0.0.1.")
    assert "ours cycles  lax cycles" in table
    assert first.split("  ")[0] == "1x16x16x4->4 k3 g2"
    assert "3.00\u00d7" in first
    assert "ms" not in table.split()
    assert "forward: ours 50.0 cycles, lax 150 cycles" in shown.err
    assert picture.read_bytes().startswith(b"\x89PNG")
    kept = results.from_json(path.read_text())
    assert kept["machine"]["estimated"]
    assert kept["machine"]["platform"] == "tpu"
    ours, lax, *others = kept["measurements"]
    assert len(others) == 4
    assert (ours["contender"], lax["contender"]) == ("ours", "lax")
    assert (ours["estimated_cycles"], lax["estimated_cycles"]) == (50, 150)
    assert "estimated" in ours["reason"]
    assert {"flops", "bytes", "temporary_bytes", "compile_seconds"} <= ours.keys()
    assert not any("milliseconds" in record for record in kept["measurements"])
    assert run("--from-json", path, "--markdown", "-") == 0
    assert capsys.readouterr().out.startswith("Estimated by the compiler, not measured")


def test_training_steps_are_compiled_in_one_dtype(lowered, monkeypatch):
    network = NETWORKS["resnext-50"]
    small = dataclasses.replace(network, blocks=network.blocks[:1], features=256)
    monkeypatch.setitem(estimates.NETWORKS, "resnext-50", small)
    settings = Settings(dtype="bfloat16")
    # Flax computes statistics of 16-bit numbers in float32, and adds them up as they come.
    with jax.numpy_dtype_promotion("standard"):
        document = estimates.estimate({}, ["resnext-50"], settings, "v5e", batch=2, image_size=32)
    ours, lax = document["networks"]
    assert (ours["contender"], lax["contender"]) == ("ours", "lax")
    assert (ours["variant"], ours["batch"], ours["image_size"]) == ("linen", 2, 32)
    assert ours["estimated_cycles"] == 50
    for program in lowered:
        assert "tensor<2x32x32x3xbf16>" in program
        assert "xf32>, tensor" not in program.partition("func.func public")[2].partition(") ->")[0]
    lines = report.to_text(document).splitlines()
    assert lines[2].startswith("program")
    assert lines[3].split()[:2] == ["resnext-50", "linen"]
    assert lines[-1].split()[-3:] == ["in", "Linen", "3.00\u00d7"]


@pytest.mark.usefixtures("lowered")
def test_what_is_left_to_lax_is_compiled_once(tmp_path):
    path = tmp_path / "v5e.json"
    depthwise = ["--shape", "1,16,16,4", "--compile-for", "v5e", "--role", "forward"]
    run(*depthwise, "--json", path)
    ours, lax = results.from_json(path.read_text())["measurements"]
    assert (ours["variant"], lax["variant"]) == ("lax", "lax")
    assert ours["estimated_cycles"] == lax["estimated_cycles"] == 50
    assert "a sum of single products" in ours["reason"]
    assert lax["reason"] == "asked for by name"


@pytest.mark.usefixtures("lowered")
def test_the_implementation_that_is_asked_for_is_compiled(tmp_path):
    path = tmp_path / "v5e.json"
    run(*SHAPE, "--implementation", "blocks", "--role", "forward", "--json", path)
    ours, lax = results.from_json(path.read_text())["measurements"]
    assert (ours["variant"], lax["variant"]) == ("blocks", "lax")


def test_a_compiler_that_is_not_there_is_named(monkeypatch):
    def fail(*_):
        raise RuntimeError("no libtpu.so\nmore")

    monkeypatch.setattr(estimates.topologies, "get_topology_desc", fail)
    with pytest.raises(CommandError) as caught:
        run(*SHAPE)
    assert str(caught.value) == (
        '--compile-for v5e: needs `pip install "jax[tpu]"` (RuntimeError: no libtpu.so)'
    )
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rounds", "2"], "--rounds is for a device"),
        (["--one-thread"], "--one-thread is for a device"),
        (["--against", "torch"], "--against torch is for a device"),
    ],
)
def test_options_of_a_clock_are_refused(words, message):
    with pytest.raises(CommandError, match=message):
        run(*SHAPE, *words)


def test_options_offer_every_target():
    assert tuple(estimates.TARGETS) == bench._TARGETS
