"""Parses the options of ``bench`` that describe a single convolution."""

import argparse
from typing import Any

from grouped_conv_jax import _checks
from grouped_conv_jax._padding import Padding
from grouped_conv_jax.benchmarks.cases import Case
from grouped_conv_jax.commands._options import flag


def one_case(given: dict[str, Any]) -> Case:
    """Returns the convolution that --shape and its options describe.

    Raises:
        ValueError: the options are inconsistent.
    """
    if len(given["shape"]) != 4:
        raise ValueError(f"--shape must be B,H,W,C, got {_list(given['shape'])}")
    batch, height, width, channels = given["shape"]
    filters = given.get("filters", channels)
    filter_size, stride, dilation = (
        _pair(name, given.get(name, (default,)))
        for name, default in (("filter_size", 3), ("stride", 1), ("dilation", 1))
    )
    groups = _groups(given.get("groups", "channel-wise"), channels)
    for name, number in (("channels", channels), ("--filters", filters)):
        if number % groups:
            raise ValueError(f"--groups {groups} must divide {name}, got {number}")
    image = height, width
    padding = Padding.parse(_padding(given.get("padding", "same")), 0, 2)
    sides = padding.resolve(image, filter_size, stride, dilation)
    case = Case(batch, image, channels, filters, filter_size, groups, stride, dilation, sides)
    if 0 in case.convolution.outputs:
        extent = case.convolution.effective_filter_size
        raise ValueError(
            f"the filter must fit into the padded image: it covers {_list(extent, 'x')} pixels "
            f"of {_list(case.convolution.padded, 'x')}"
        )
    return case


def _groups(text: str, channels: int) -> int:
    if text.lower().replace("-", "") == "channelwise":
        return channels
    try:
        return _checks.integer("--groups", int(text), 1)
    except ValueError:
        raise ValueError(
            f"--groups must be a positive integer or channel-wise, got {text!r}"
        ) from None


def _padding(text: str) -> Any:
    if text.lower() in ("same", "valid"):
        return text
    try:
        sizes = tuple(map(int, text.split(",")))
    except ValueError:
        sizes = ()
    if len(sizes) not in (1, 4) or min(sizes) < 0:
        raise ValueError(f"--padding must be same, valid, P or T,B,L,R, got {text!r}")
    return sizes[0] if len(sizes) == 1 else sizes


def _pair(name: str, sizes: tuple[int, ...]) -> tuple[int, int]:
    if len(sizes) > 2:
        raise ValueError(f"{flag(name)} must be one or two sizes, got {_list(sizes)}")
    return sizes[0], sizes[-1]


def sizes(text: str) -> tuple[int, ...]:
    """Parses ``"8,56,56,128"``."""
    try:
        found = tuple(map(int, text.split(",")))
    except ValueError:
        found = (0,)
    if min(found) < 1:
        raise argparse.ArgumentTypeError(
            f"must be positive integers, separated by commas, got {text!r}"
        )
    return found


def _list(sizes: tuple[int, ...], separator: str = ",") -> str:
    return separator.join(map(str, sizes))
