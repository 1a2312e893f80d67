"""Compares every implementation with lax and PyTorch on an NVIDIA GPU, within a time limit.

    python benchmarks/gpu.py --minutes 8

Runs, while time remains: numerical tests, 20 representative shapes, training steps of MobileNetV2
and ResNeXt-50, and the other 2-D convolutions of the suites. Writes each result to ``--out`` at
once, as a JSON line. Prints a Markdown summary of all results for this device in ``--out``, with a
proposed choice of implementations; ``--minutes 0`` only prints the summary and needs no GPU.

The numerical tests of float32 use ``precision="highest"``, since TF32 exceeds their limit. Timings
use the default precision, in which lax, blocks and PyTorch may multiply in TF32, but taps does not.
Programs compile in parallel while XLA tunes convolutions on the device; ``--workers 1`` compiles
them one at a time. Only compilations beyond their time limit may still run during timing.
"""

import argparse
import dataclasses
import importlib.util
import itertools
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

if importlib.util.find_spec("grouped_conv_jax") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import numpy as np
from gpu_cases import (
    DTYPES,
    LAYOUT,
    PER_SAMPLE,
    REPRESENTATIVE,
    ROLES,
    SAMPLED,
    SHAPES_AT_ONCE,
    SMALLEST,
    TESTED,
    Program,
    Record,
    Task,
)
from gpu_session import Session
from gpu_summary import read_rows, summary

from grouped_conv_jax.benchmarks import machine, reference, timing, training
from grouped_conv_jax.benchmarks.cases import Case
from grouped_conv_jax.benchmarks.contenders import Contender
from grouped_conv_jax.benchmarks.harness import Settings
from grouped_conv_jax.benchmarks.networks import CLASSES, NETWORKS
from grouped_conv_jax.benchmarks.suites import SUITES, collect


def verdict(result: np.ndarray, expected: np.ndarray, limit: float, against: str) -> Record:
    """Returns the largest error of up to 2**21 elements, relative to the root mean square."""
    step = expected.size >> 20 | 1
    own, right = (np.ravel(array)[::step].astype(np.float64) for array in (result, expected))
    error = timing.rounded(float(np.max(np.abs(own - right)) / np.sqrt(np.mean(right**2))))
    # NaN fails this comparison too.
    wrong = {} if error <= limit else {"failure": f"wrong: error {error:.1e}, above {limit:.1e}"}
    return {"error": error, "against": against} | wrong


def check_numbers(session: Session, cases: Sequence[Case]) -> None:
    """Compares jit, vjp and vmap(vjp) of every implementation, and lax, with NumPy in float64."""
    roles = (*ROLES, PER_SAMPLE)
    tasks = [Task(*parts) for parts in itertools.product(cases, roles, DTYPES)]
    for task, programs in session.compile(tasks, highest=True, share=0.25).items():
        operands = task.operands()
        case, role, folded = task.folded(*(array.astype(np.float64) for array in operands))
        exact = task.unfolded(reference.compute(role, *folded, case.convolution))
        for name, program in programs.items():
            fields: Record = {"implementation": name, "note": program.problem()}
            try:
                if not program.problem():
                    result = np.asarray(program.contender(operands).run())
                    fields |= verdict(result, exact, task.limit(highest=True), "float64")
            except Exception as failure:
                fields["failure"] = timing.describe(failure)
            session.record("numbers", **task.record(), **fields)


def measure_shapes(session: Session, shapes: Sequence[tuple[Case, tuple[str, ...]]]) -> None:
    """Compiles some roles of some cases, then times them one by one."""
    tasks = [
        Task(dataclasses.replace(case, batch=session.options.batch), role, dtype)
        for case, roles in shapes
        for role, dtype in itertools.product(roles, DTYPES)
    ]
    with ThreadPoolExecutor(2) as pool:
        prepared = [pool.submit(prepare_operands, session, task) for task in tasks]
        programs = session.compile(tasks, highest=False, share=1.0)
    for task, setup in zip(tasks, prepared, strict=True):
        name = f"{task.case}, {task.role}, {task.dtype}"
        session.attempt(name, measure_task, task, programs[task], setup, reserve=0.0)


def prepare_operands(session: Session, task: Task) -> tuple[list[Any], dict[str, Any]]:
    """Moves operands to the device; returns JAX's arrays, and PyTorch's contender or failure."""
    operands, rivals = task.operands(), dict[str, Any]()
    try:
        if session.torch:
            made = session.torch.prepare(*task.folded(*operands), LAYOUT)
            own = made.to_numpy
            rivals = {LAYOUT: dataclasses.replace(made, to_numpy=lambda y: task.unfolded(own(y)))}
    except Exception as failure:
        rivals = {LAYOUT: timing.describe(failure)}
    return [jax.device_put(array) for array in operands], rivals


def measure_task(
    session: Session,
    task: Task,
    programs: dict[str, Program],
    setup: Future[tuple[list[Any], dict[str, Any]]],
) -> None:
    """Compares every contender's result with lax's, then times the successful contenders."""
    operands, rivals = setup.result()
    records: dict[str, Record] = {}
    contenders: dict[str, Any] = {}
    for name, program in programs.items():
        same = [other for other, one in programs.items() if one.owner is program.owner]
        note = f"one program: {', '.join(same)}" if same[1:] else None
        records[name] = {"compile_seconds": program.owner.seconds, "note": note}
        contenders[name] = program.problem() or program.contender(operands)
    expected: np.ndarray | None = None
    for name, contender in (contenders | rivals).items():
        contenders[name], record = contender, records.setdefault(name, {})
        if isinstance(contender, str):
            record["note"] = contenders.pop(name)
            continue
        try:
            result = contender.to_numpy(contender.run())
        except Exception as failure:
            record["failure"] = timing.describe(failure)
            del contenders[name]
            continue
        if name == "lax":
            expected = result
        elif expected is not None:
            record |= verdict(result, expected, task.limit(highest=False), "lax")
    record_times(session, task.record(), records, contenders)


def record_times(
    session: Session, about: Record, records: dict[str, Record], contenders: dict[str, Contender]
) -> None:
    """Times the contenders and writes a line for each, including failed ones."""
    kinds = {"lax": "lax", "ours": "ours", LAYOUT: "torch"}
    times = session.time(contenders)
    for name, record in records.items():
        who = {"contender": kinds.get(name, "forced"), "implementation": name}
        session.record("time", **about, **who, **times.get(name, {}), **record)


def measure_training(session: Session, name: str) -> None:
    """Times training steps in Linen and PyTorch, in float32, prepared in parallel."""
    network, options, random = NETWORKS[name], session.options, np.random.default_rng(0)
    if options.rehearse:
        features = network.blocks[0].layers[-1].filters
        network = dataclasses.replace(network, blocks=network.blocks[:1], features=features)
    shape = (options.batch, options.image_size, options.image_size, 3)
    images = random.standard_normal(shape, np.float32)
    labels = random.integers(CLASSES, size=options.batch, dtype=np.int32)
    settings, pool = Settings(against=("lax", "torch")), ThreadPoolExecutor()
    futures = {
        LAYOUT if variant == LAYOUT else kind: pool.submit(prepare)
        for kind, variant, prepare in training._candidates(
            network, settings, session.torch, images, labels
        )
        if variant in ("linen", LAYOUT)
    }
    records: dict[str, Record] = {}
    contenders: dict[str, Contender] = {}
    for kind, future in futures.items():
        problem = future.exception(session.left())
        if isinstance(problem, Exception):
            records[kind] = {"failure": timing.describe(problem)}
        else:
            contenders[kind] = future.result()
            records[kind] = dict(contenders[kind].details)
    if {"ours", "lax"} <= contenders.keys():
        ours, lax = (training._gradient(contenders[kind].run()) for kind in ("ours", "lax"))
        training._compare(records["ours"], ours, lax)
        # TF32 in lax alone may exceed the package's limit, so note the failure only.
        records["ours"]["note"] = records["ours"].pop("failure", None)
    about = {"shape": f"{name} {shape}", "role": "training_step", "dtype": "float32"}
    record_times(session, about, records, contenders)


def parse_options() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--minutes", type=float, default=8.0, help="total time limit (default: 8)")
    add("--out", type=Path, default=Path("gpu-results.jsonl"), help="file to append results to")
    add("--batch", type=int, default=32, help="batch size (default: 32)")
    add("--compile-limit", type=float, default=20.0, help="seconds per program (default: 20)")
    add("--workers", type=int, default=max(2, machine.cores() // 2), help="parallel compilations")
    add("--rehearse", action="store_true", help="run a little of every part, on the CPU")
    options = parser.parse_args()
    options.start = time.perf_counter()
    options.turns, options.turn, options.image_size = 8, 0.005, 224
    if options.rehearse:
        options.minutes, options.batch = min(options.minutes, 1.3), 2
        options.turns, options.image_size = 3, 32
    return options


def measure(session: Session) -> None:
    """Runs all parts, a few shapes at a time."""
    tested: Sequence[Case] = TESTED
    networks = list(NETWORKS)
    first: list[Any] = [(SMALLEST, ("forward",)), *((case, ROLES) for case in REPRESENTATIVE)]
    first += [(case, (PER_SAMPLE,)) for case in SAMPLED]
    suites = collect(list(SUITES), SMALLEST.batch)
    rest = [(case, ROLES) for case in suites if len(case.image) == 2 and case not in REPRESENTATIVE]
    if session.options.rehearse:
        tested, networks, rest = TESTED[:1], networks[:1], [(TESTED[1], ROLES)]
        first = [first[0], (TESTED[7], ROLES), (TESTED[0], (PER_SAMPLE,))]
    session.attempt("numbers", check_numbers, tested)
    for start in range(0, len(first), SHAPES_AT_ONCE):
        chosen = first[start : start + SHAPES_AT_ONCE]
        session.attempt("representative shapes", measure_shapes, chosen)
    for name in networks:
        session.attempt(name, measure_training, name)
    for start in range(0, len(rest), SHAPES_AT_ONCE):
        session.attempt("other shapes", measure_shapes, rest[start : start + SHAPES_AT_ONCE])


def main() -> int:
    """Measures and prints the summary; returns 1 if a result is wrong, 2 without a GPU."""
    options = parse_options()
    if options.minutes == 0:
        sys.stdout.write(summary(options.out))
        return 0
    # Leave memory to PyTorch.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.6")
    if options.rehearse:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_disable_most_optimizations", True)
    elif jax.default_backend() != "gpu":
        backend = jax.default_backend()
        sys.stderr.write(f"no GPU: JAX runs on {backend}; --rehearse runs on a CPU\n")
        return 2
    session = Session(options)
    measure(session)
    sys.stdout.write(summary(options.out))
    return int(any(line.startswith("numbers") for line in read_rows(options.out)[-1]))


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    # Do not wait for compilations beyond their limit.
    os._exit(status)
