"""Measures every implementation on an NVIDIA GPU, against lax and PyTorch, within a time limit.

    python benchmarks/gpu.py --minutes 8

In this order, while time is left: tests of numbers, 20 telling shapes, training steps of
MobileNetV2 and ResNeXt-50, the other images of the suites. Each result is a JSON line in ``--out``,
flushed at once. A summary in Markdown, with a proposed choice for CUDA, covers everything that
``--out`` holds of this device; ``--minutes 0`` shows it again, anywhere.

Tests of float32 ask for ``precision="highest"``, and TF32 would fail them. Timings use the default
precision, in which lax, blocks and PyTorch may multiply in TF32; taps does not. Programs compile in
parallel while XLA tunes convolutions on the device; ``--workers 1`` compiles them one at a time.
Nothing else runs during timing, except for compilations that exceeded their limit.
"""

import argparse
import dataclasses
import importlib.util
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
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
    NAMES,
    PER_SAMPLE,
    ROLES,
    SAMPLED,
    SHAPES_AT_ONCE,
    SMALLEST,
    TELLING,
    TESTED,
    Program,
    Record,
    Task,
)
from gpu_summary import read_rows, summary

from grouped_conv_jax.benchmarks import machine, reference, timing, training
from grouped_conv_jax.benchmarks.contenders import Contender
from grouped_conv_jax.benchmarks.harness import Settings
from grouped_conv_jax.benchmarks.networks import CLASSES, NETWORKS
from grouped_conv_jax.benchmarks.pytorch import Torch, TorchUnavailableError
from grouped_conv_jax.benchmarks.suites import SUITES, Case, collect


class Session:
    """How and how long to measure, and where results go."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self._end = options, options.start + 60 * options.minutes
        self._file = options.out.open("a")
        described, self.torch, missing = machine.describe(), None, None
        try:
            self.torch = Torch(machine.cores())
        except TorchUnavailableError as failure:
            missing = str(failure)
            sys.stderr.write(f"without PyTorch: {missing}\n")
        self.common = {"device": described["device"], "versions": machine.versions()}
        given = {name: str(value) for name, value in vars(options).items()}
        self.record("run", machine=described, options=given, torch_missing=missing)

    def left(self) -> float:
        """Seconds until the deadline."""
        return self._end - time.perf_counter()

    def record(self, kind: str, **fields: Any) -> None:
        """Writes a result at once."""
        known = {name: value for name, value in fields.items() if value is not None}
        self._file.write(json.dumps({"kind": kind} | self.common | known) + "\n")
        self._file.flush()

    def attempt(
        self, name: str, piece: Callable[..., None], *arguments: Any, reserve: float = 0.1
    ) -> None:
        """Runs a piece if this share of the time is left; its failure is a result too."""
        late = "" if self.left() > 60 * reserve * self.options.minutes else ": skipped, too late"
        sys.stderr.write(f"[{self.left():4.0f} s left] {name}{late}\n")
        try:
            if not late:
                piece(self, *arguments)
        except Exception as failure:
            self.record("failure", shape=name, failure=timing.describe(failure))

    def compile(self, tasks: list[Task], highest: bool, share: float) -> dict[Task, Any]:
        """A program for each implementation of each task, within a share of the whole time."""
        pairs = list(itertools.product(tasks, NAMES))
        made = {pair: pair[0].program(NAMES[pair[1]], highest) for pair in pairs}
        # Long sums over taps compile for longest, and so come first; they are taken from the end.
        pairs.sort(key=lambda pair: (pair[1] == "taps", math.prod(pair[0].case.filter_size)))
        waiting, running = [made[pair] for pair in pairs], list[Program]()
        known: dict[str, Program] = {}
        limit, minutes = self.options.compile_limit, self.options.minutes
        # Some of the time is left for what has been compiled.
        stop = max(1.5 * minutes, self.left() - 60 * share * minutes)
        while (waiting or running) and self.left() > stop:
            for program in running:
                if program.thread.is_alive() and time.perf_counter() - program.started > limit:
                    program.failure = f"compile limit: more than {limit:g} s"
            running = [one for one in running if one.thread.is_alive() and not one.failure]
            while waiting and len(running) < self.options.workers:
                running.append(waiting.pop())
                running[-1].start(known)
            time.sleep(0.01)
        for program in (*running, *waiting):
            program.failure = "no time left to compile"
        return {task: {name: made[task, name] for name in NAMES} for task in tasks}

    def time(self, contenders: dict[str, Contender]) -> dict[str, Record]:
        """Lower quartiles of the microseconds a call, from turns of many queued calls."""
        calls = dict.fromkeys(contenders, 1)
        turns: dict[str, list[float]] = {name: [] for name in contenders}
        for name, contender in contenders.items():
            estimate = timing.first_calls(contender)[1]
            if contender.queued:
                calls[name] = max(1, min(300, int(self.options.turn / estimate)))
        for _, (name, one) in itertools.product(range(self.options.turns), contenders.items()):
            # Two turns of something slow tell enough.
            if len(turns[name]) < 2 or sum(turns[name]) * calls[name] < 1:
                start = time.perf_counter()
                for _ in range(calls[name]):
                    result = one.run()
                one.wait(result)
                turns[name].append((time.perf_counter() - start) / calls[name])
        times: dict[str, Record] = {}
        for name, own in turns.items():
            quartile = timing.rounded(1e6 * float(np.quantile(own, 0.25)))
            times[name] = {"microseconds": quartile, "repetitions": calls[name] * len(own)}
        return times


def verdict(result: np.ndarray, expected: np.ndarray, limit: float, against: str) -> Record:
    """The largest error, in root mean squares, of about a million elements; NaN fails."""
    step = expected.size >> 20 | 1
    own, right = (np.ravel(array)[::step].astype(np.float64) for array in (result, expected))
    error = timing.rounded(float(np.max(np.abs(own - right)) / np.sqrt(np.mean(right**2))))
    wrong = {} if error <= limit else {"failure": f"wrong: error {error:.1e}, above {limit:.1e}"}
    return {"error": error, "against": against} | wrong


def check_numbers(session: Session, cases: Sequence[Case]) -> None:
    """Compares jit, vjp and vmap(vjp) of every implementation, lax too, with NumPy's float64."""
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
    """Times some roles of some cases: compiles all of it, then measures one by one."""
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
    """Brings operands to the device, for JAX and for PyTorch, which may say why it cannot."""
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
    """Compares every contender's result with lax's, then times those that run."""
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
    """Times the contenders and writes a line for each, failed ones included."""
    kinds = {"lax": "lax", "ours": "ours", LAYOUT: "torch"}
    times = session.time(contenders)
    for name, record in records.items():
        who = {"contender": kinds.get(name, "forced"), "implementation": name}
        session.record("time", **about, **who, **times.get(name, {}), **record)


def measure_training(session: Session, name: str) -> None:
    """Times training steps in Linen and PyTorch, in float32; all of them are prepared at once."""
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
        # TF32 in lax's share alone may exceed what the package allows.
        records["ours"]["note"] = records["ours"].pop("failure", None)
    about = {"shape": f"{name} {shape}", "role": "training_step", "dtype": "float32"}
    record_times(session, about, records, contenders)


def parse_options() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--minutes", type=float, default=8.0, help="in all (default: 8)")
    add("--out", type=Path, default=Path("gpu-results.jsonl"), help="where lines are appended")
    add("--batch", type=int, default=32, help="images (default: 32)")
    add("--compile-limit", type=float, default=20.0, help="seconds a program (default: 20)")
    add("--workers", type=int, default=max(2, machine.cores() // 2), help="that compile at once")
    add("--rehearse", action="store_true", help="a little of every part, on the CPU")
    options = parser.parse_args()
    options.start = time.perf_counter()
    options.turns, options.turn, options.image_size = 8, 0.005, 224
    if options.rehearse:
        options.minutes, options.batch = min(options.minutes, 1.3), 2
        options.turns, options.image_size = 3, 32
    return options


def measure(session: Session) -> None:
    """Runs all pieces, a few shapes at a time."""
    tested: Sequence[Case] = TESTED
    networks = list(NETWORKS)
    first: list[Any] = [(SMALLEST, ("forward",)), *((case, ROLES) for case in TELLING)]
    first += [(case, (PER_SAMPLE,)) for case in SAMPLED]
    suites = collect(list(SUITES), SMALLEST.batch)
    rest = [(case, ROLES) for case in suites if len(case.image) == 2 and case not in TELLING]
    if session.options.rehearse:
        tested, networks, rest = TESTED[:1], networks[:1], [(TESTED[1], ROLES)]
        first = [first[0], (TESTED[7], ROLES), (TESTED[0], (PER_SAMPLE,))]
    session.attempt("numbers", check_numbers, tested)
    for start in range(0, len(first), SHAPES_AT_ONCE):
        session.attempt("telling shapes", measure_shapes, first[start : start + SHAPES_AT_ONCE])
    for name in networks:
        session.attempt(name, measure_training, name)
    for start in range(0, len(rest), SHAPES_AT_ONCE):
        session.attempt("other shapes", measure_shapes, rest[start : start + SHAPES_AT_ONCE])


def main() -> int:
    """Measures and prints the summary; 1 if a number is wrong, 2 without a GPU."""
    options = parse_options()
    if options.minutes == 0:
        sys.stdout.write(summary(options.out))
        return 0
    # PyTorch needs some of the memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.6")
    if options.rehearse:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_disable_most_optimizations", True)
    elif jax.default_backend() != "gpu":
        backend = jax.default_backend()
        sys.stderr.write(f"there is no GPU: JAX runs on {backend}; --rehearse tries this there\n")
        return 2
    session = Session(options)
    measure(session)
    sys.stdout.write(summary(options.out))
    return int(any(line.startswith("numbers") for line in read_rows(options.out)[-1]))


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    # Compilations that were given up would keep the interpreter.
    os._exit(status)
