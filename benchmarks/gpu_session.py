"""A benchmark run of :mod:`gpu`: its deadline, parallel compilation, timing and results."""

import argparse
import itertools
import json
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from gpu_cases import NAMES, Program, Record, Task

from grouped_conv_jax.benchmarks import machine, timing
from grouped_conv_jax.benchmarks.contenders import Contender
from grouped_conv_jax.benchmarks.pytorch import Torch, TorchUnavailableError


class Session:
    """A run with a time limit: compiles and times programs, and writes results.

    Args:
        options: the command-line options.
    """

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
        """Returns the seconds until the deadline."""
        return self._end - time.perf_counter()

    def record(self, kind: str, **fields: Any) -> None:
        """Writes a result and flushes the file."""
        known = {name: value for name, value in fields.items() if value is not None}
        self._file.write(json.dumps({"kind": kind} | self.common | known) + "\n")
        self._file.flush()

    def attempt(
        self, name: str, piece: Callable[..., None], *arguments: Any, reserve: float = 0.1
    ) -> None:
        """Calls a function if a fraction ``reserve`` of the time remains; records its failure."""
        skipped = "" if self.left() > 60 * reserve * self.options.minutes else ": skipped, no time"
        sys.stderr.write(f"[{self.left():4.0f} s left] {name}{skipped}\n")
        try:
            if not skipped:
                piece(self, *arguments)
        except Exception as failure:
            self.record("failure", shape=name, failure=timing.describe(failure))

    def compile(self, tasks: list[Task], highest: bool, share: float) -> dict[Task, Any]:
        """Compiles each implementation of each task within a fraction of the whole time."""
        pairs = list(itertools.product(tasks, NAMES))
        made = {pair: pair[0].program(NAMES[pair[1]], highest) for pair in pairs}
        # Start with the slowest compilations, long sums over taps; the loop pops from the end.
        pairs.sort(key=lambda pair: (pair[1] == "taps", math.prod(pair[0].case.filter_size)))
        waiting, running = [made[pair] for pair in pairs], list[Program]()
        known: dict[str, Program] = {}
        limit, minutes = self.options.compile_limit, self.options.minutes
        # Reserve time to run the compiled programs.
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
        """Returns the lower quartile of microseconds per call, from turns of queued calls."""
        calls = dict.fromkeys(contenders, 1)
        turns: dict[str, list[float]] = {name: [] for name in contenders}
        for name, contender in contenders.items():
            estimate = timing.first_calls(contender)[1]
            if contender.queued:
                calls[name] = max(1, min(300, int(self.options.turn / estimate)))
        for _, (name, one) in itertools.product(range(self.options.turns), contenders.items()):
            # Two turns suffice for slow programs.
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
