"""Checks the package together with other libraries of the JAX ecosystem.

    pip install keras equinox dm-haiku jax2onnx onnxruntime qwix jax-privacy
    python benchmarks/ecosystem.py

Prints a Markdown table with one row per check. The checks are independent of each other: a check
whose libraries are missing is "not installed", and one that raises "fails" with the reason. The
exit status is 1 if a check fails. ``--only keras qwix`` runs the checks whose name contains one of
the words.
"""

import argparse
import functools
import importlib.metadata
import importlib.util
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

if importlib.util.find_spec("grouped_conv_jax") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ecosystem_training as training
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import grouped_conv_jax as gcj
from grouped_conv_jax.benchmarks import machine
from grouped_conv_jax.benchmarks.timing import describe

# Relative error of 8-bit outputs; permuted weights cause errors above 1.
_QUANTIZATION_LIMIT = 0.05
# Log level of onnxruntime.
_ERRORS_ONLY = 3

Module: TypeAlias = nn.Module | nnx.Module


class Check(NamedTuple):
    """One row of the table.

    Attributes:
        title: the first column.
        packages: distributions that the check needs; the first one is the subject of the check.
        run: returns whether the check passes, and a figure or the reason.
    """

    title: str
    packages: tuple[str, ...]
    run: Callable[[Namespace], training.Outcome]


# Layers to export and to quantize


def images() -> jax.Array:
    """Returns the input of the layers, ``(B, H, W, C)``."""
    return jax.random.normal(jax.random.key(0), (2, 8, 8, 12))


def own_layers(**keywords: Any) -> Iterator[tuple[str, Module]]:
    """Yields channel-wise and grouped layers of this package, in Linen and in NNX."""
    kinds: dict[str, Any] = {"channel-wise": (3, 2, "channel-wise"), "grouped": (3, 4, 3)}
    for name, sizes in kinds.items():
        yield f"{name} in Linen", gcj.linen.GroupedConv2D(*sizes, **keywords)
        yield f"{name} in NNX", gcj.nnx.GroupedConv2D(12, *sizes, **keywords, rngs=nnx.Rngs(0))


def flax_layers(**keywords: Any) -> Iterator[tuple[str, Module]]:
    """Yields depthwise and grouped layers of Flax, in Linen and in NNX."""
    for name, groups in {"depthwise": 12, "grouped": 3}.items():
        settings: dict[str, Any] = {"feature_group_count": groups} | keywords
        yield f"{name} in Linen", nn.Conv(24, (3, 3), **settings)
        yield f"{name} in NNX", nnx.Conv(12, 24, (3, 3), **settings, rngs=nnx.Rngs(0))


def applied(module: Module, x: jax.Array) -> Callable[[jax.Array], Any]:
    """Returns the module as a function of its input."""
    if not isinstance(module, nn.Module):
        return module
    return functools.partial(module.apply, module.init(jax.random.key(1), x))


def listed(failures: Sequence[tuple[str, str]]) -> list[str]:
    """Groups the names of failures by reason."""
    names: dict[str, list[str]] = {}
    for name, reason in failures:
        names.setdefault(reason, []).append(name)
    return [f"{', '.join(group)}: {reason}" for reason, group in names.items()]


def compared(errors: Sequence[float], reference: str) -> str:
    """Describes the largest error against a reference."""
    if not errors:
        return "no outputs"
    largest = training.largest(errors)
    return f"{len(errors)} outputs differ from {reference} by up to {largest:.1e}"


# ONNX


def evaluate_onnx(function: Callable[[jax.Array], Any], x: jax.Array) -> Any:
    """Exports a function of one array to ONNX and evaluates it with onnxruntime."""
    import jax2onnx
    import onnxruntime

    model = jax2onnx.to_onnx(function, [x.shape])
    session_options = onnxruntime.SessionOptions()
    session_options.log_severity_level = _ERRORS_ONLY
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), session_options, providers=["CPUExecutionProvider"]
    )
    (y,) = session.run(None, {session.get_inputs()[0].name: np.asarray(x)})
    return y


def check_onnx(
    layers: Callable[[], Iterable[tuple[str, Module]]], _: Namespace
) -> training.Outcome:
    """Compares exported layers with JAX."""
    errors: list[float] = []
    failures: list[tuple[str, str]] = []
    x = images()
    for name, module in layers():
        function = applied(module, x)
        try:
            errors.append(training.distance(evaluate_onnx(function, x), function(x)))
        except Exception as error:  # Each layer is a check of its own.
            failures.append((name, describe(error)))
    figures = [compared(errors, "JAX"), *listed(failures)]
    agrees = training.largest(errors) <= training.ROUNDING_LIMIT
    return agrees and not failures, "; ".join(figures)


# Quantization


def quantized(module: Module, trained: bool) -> tuple[jax.Array, Any]:
    """Quantizes a module with qwix; returns its output and its parameters.

    Args:
        module: a Linen or NNX module.
        trained: whether to quantize after training, instead of for training.
    """
    import qwix

    x = images()
    rules = [qwix.QuantizationRule(weight_qtype=jnp.int8, act_qtype=jnp.int8)]
    provider = qwix.PtqProvider(rules) if trained else qwix.QtProvider(rules)
    if not isinstance(module, nn.Module):
        model = qwix.quantize_model(module, provider, x)
        y = nnx.jit(lambda model, x: model(x))(model, x)
        return y, nnx.to_pure_dict(nnx.state(model))
    parameters = module.init(jax.random.key(1), x)["params"]
    model = qwix.quantize_model(module, provider)
    if trained:
        shapes = jax.eval_shape(model.init, jax.random.key(1), x)
        parameters = qwix.quantize_params(parameters, shapes["params"])
    return jax.jit(model.apply)({"params": parameters}, x), parameters


def check_quantized_flax(drop_in: bool, _: Namespace) -> training.Outcome:
    """Compares Flax layers on this package's kernels with those on lax, both quantized by qwix."""
    to_lax, to_floats, skipped, x = [], [], [], images()
    keywords: dict[str, Any] = {"conv_general_dilated": gcj.conv_general_dilated} if drop_in else {}
    quantize = quantized if drop_in else gcj.accelerate(quantized)
    for (name, plain), (_same, module) in zip(flax_layers(), flax_layers(**keywords), strict=True):
        result, parameters = quantize(module, trained=True)
        if not any(leaf.dtype == jnp.int8 for leaf in jax.tree.leaves(parameters["kernel"])):
            skipped.append((name, "the weights are not quantized"))
        to_lax.append(training.distance(result, quantized(plain, trained=True)[0]))
        to_floats.append(training.distance(result, applied(plain, x)(x)))
    figures = [compared(to_lax, "qwix with lax"), compared(to_floats, "floats")]
    close = training.largest(to_lax) <= training.ROUNDING_LIMIT
    close &= training.largest(to_floats) <= _QUANTIZATION_LIMIT
    return close and not skipped, "; ".join(figures + listed(skipped))


def check_quantized_own(trained: bool, _: Namespace) -> training.Outcome:
    """Checks that layers with 5-D weights are quantized correctly or raise ``TypeError``."""
    x, refused, errors, failures = images(), 0, [], []
    for name, module in own_layers():
        try:
            error = training.distance(quantized(module, trained)[0], applied(module, x)(x))
        except Exception as exception:  # The type is part of the check.
            if isinstance(exception, TypeError) and "weights" in str(exception):
                refused += 1
            else:
                failures.append((name, describe(exception)))
        else:
            errors.append(error)
    figures = [f"{refused} layers refuse with TypeError", compared(errors, "floats")]
    close = training.largest(errors) <= _QUANTIZATION_LIMIT
    return close and not failures, "; ".join(figures + listed(failures))


# The table


def checks() -> Iterator[Check]:
    """Yields all checks, in the order of the table."""
    for package, make in {
        "keras": training.keras_mobilenet_v2,
        "equinox": training.equinox_mobilenet,
        "dm-haiku": training.haiku_mobilenet_v1,
    }.items():
        title = f"training step, {make.__name__}"
        yield Check(title, (package,), functools.partial(training.check_training, make))
    yield Check("per-sample gradients, optax.contrib.dpsgd", ("optax",), training.check_optax)
    yield Check("per-sample gradients, clipped_grad", ("jax-privacy",), training.check_jax_privacy)
    onnx = ("jax2onnx", "onnxruntime")
    for padding_value in (0, "replicate"):
        for implementation in (None, "lax", "taps", "blocks"):
            keywords = {"implementation": implementation, "padding_value": padding_value}
            layers = functools.partial(own_layers, padding=1, **keywords)
            title = f"ONNX, GroupedConv2D, {implementation=}, {padding_value=}"
            yield Check(title, onnx, functools.partial(check_onnx, layers))
    layers = functools.partial(flax_layers, conv_general_dilated=gcj.conv_general_dilated)
    yield Check("ONNX, Flax Conv with the drop-in", onnx, functools.partial(check_onnx, layers))
    for way, drop_in in {"with the drop-in": True, "under accelerate": False}.items():
        run = functools.partial(check_quantized_flax, drop_in)
        yield Check(f"quantization after training, Flax Conv {way}", ("qwix",), run)
    for way, trained in {"after": True, "for": False}.items():
        run = functools.partial(check_quantized_own, trained)
        yield Check(f"quantization {way} training, GroupedConv2D", ("qwix",), run)


def row(check: Check, options: Namespace) -> tuple[bool, str]:
    """Runs a check; returns whether it passes or is not installed, and its row of the table."""
    versions, missing = [], []
    for package in check.packages:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
    if missing:
        return True, f"| {check.title} | {', '.join(missing)} | not installed | |"
    try:
        passes, figure = check.run(options)
    except Exception as error:  # Continue with the other checks.
        passes, figure = False, describe(error)
    figure = " ".join(figure.replace("|", "\\|").split())
    result = "passes" if passes else "fails"
    return passes, f"| {check.title} | {', '.join(versions)} | {result} | {figure} |"


def parse_options() -> Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD", help="checks to run")
    parser.add_argument("--images", type=int, default=8, help="batch size")
    parser.add_argument("--pixels", type=int, default=224, help="height and width of the images")
    parser.add_argument("--rounds", type=int, default=8, help="blocks of calls per program")
    return parser.parse_args()


def main() -> int:
    """Prints the table; returns 1 if a check fails."""
    options = parse_options()
    versions = " ".join(f"{name} {version}" for name, version in machine.versions().items())
    sys.stdout.write(f"{machine.describe()['processor']}, {machine.cores()} cores; {versions}\n\n")
    sys.stdout.write("| check | package | result | figure |\n| --- | --- | --- | --- |\n")
    everything_passes = True
    for check in checks():
        about = " ".join((check.title, *check.packages)).lower()
        if any(word.lower() in about for word in options.only):
            passes, line = row(check, options)
            everything_passes &= passes
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
    return int(not everything_passes)


if __name__ == "__main__":
    sys.exit(main())
