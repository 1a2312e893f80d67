"""Arguments of a convolution: one case, a hypothesis strategy for all of them, and tolerances."""

import dataclasses
import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np
import reference
from hypothesis import strategies as st

DTYPES = ("float64", "float32", "bfloat16", "float16")
MIRRORS = ("symmetric-include-edge", "symmetric-exclude-edge", "replicate")
DATA_FORMATS = sorted(
    {
        "".join(order)
        for carried in ("", "B", "T", "U", "BT", "BU", "TU", "BTU")
        for order in itertools.permutations("SSC" + carried)
    }
)
ALIASES = {"NHWC": "BSSC", "NCHW": "BCSS"}
# For many programs that each run once: LLVM's optimizations would take most of the time.
COMPILED_QUICKLY = {"xla_backend_optimization_level": 0}


@dataclasses.dataclass(frozen=True)
class Case:
    """One convolution, as the package takes it (``spelled``) and in the reference's long form."""

    x_shape: tuple[int, ...]
    weights_shape: tuple[int, ...]
    use_bias: bool
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    sides: tuple[tuple[int, int], ...]
    padding_value: Any
    data_format: str
    spelled: dict[str, Any]
    seed: int

    @property
    def long_form(self) -> dict[str, Any]:
        """Keyword arguments of the reference."""
        return {
            "stride": self.stride,
            "dilation": self.dilation,
            "sides": self.sides,
            "padding_value": self.padding_value,
            "data_format": self.data_format,
        }

    def arrays(self, dtype: str) -> list[Any]:
        """Random ``x``, ``weights`` and ``bias`` (or ``None``) as NumPy arrays."""
        random = np.random.default_rng(self.seed)
        *size, _, filters, groups = self.weights_shape
        bias_shape = (*(1 for _ in size), filters, groups)
        arrays: list[Any] = [
            random.standard_normal(shape).astype(dtype_of(dtype))
            for shape in (self.x_shape, self.weights_shape, bias_shape)
        ]
        return arrays if self.use_bias else [*arrays[:2], None]

    def expected(self, arrays: list[Any], dtype: str) -> np.ndarray:
        """What the reference makes of the arrays."""
        return reference.grouped_conv(*arrays, **self.in_dtype(dtype))

    def tolerance(self, arrays: list[Any], dtype: str) -> np.ndarray:
        """What rounding in ``dtype``, with sums in at least float32, may at most do.

        A sum of ``n`` terms, in any order, is off by at most ``n`` epsilons of the sum of their
        magnitudes. In 16 bits rounding the sum, then the sum with the bias, adds one epsilon more.
        """
        magnitudes = [a if a is None else np.abs(a.astype(np.float64)) for a in arrays]
        arguments = self.in_dtype(dtype)
        if not isinstance(self.padding_value, str):
            arguments["padding_value"] = abs(arguments["padding_value"])
        finfo = jnp.finfo(dtype_of(dtype))
        terms = np.prod(self.weights_shape[:3]) + 1
        relative = terms * float(np.finfo("float64" if dtype == "float64" else "float32").eps)
        if finfo.bits == 16:
            relative += float(finfo.eps)
        return relative * reference.grouped_conv(*magnitudes, **arguments) + float(finfo.tiny)

    def in_dtype(self, dtype: str) -> dict[str, Any]:
        """The reference's arguments, with a number for padding as ``dtype`` holds it."""
        value = self.padding_value
        if not isinstance(value, str):
            value = float(np.asarray(value).astype(dtype_of(dtype)))
        return self.long_form | {"padding_value": value}


def dtype_of(name: str) -> np.dtype:
    """The NumPy dtype of a name, ``bfloat16`` among them."""
    return np.dtype(jnp.bfloat16) if name == "bfloat16" else np.dtype(name)


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    """Pairs of integers, each direction on its own."""
    return st.tuples(st.integers(low, high), st.integers(low, high))


def spellings(pair: tuple[int, int]) -> st.SearchStrategy[Any]:
    """The ways in which stride and dilation may be written."""
    ways: list[Any] = [pair, list(pair), np.array(pair), (np.int64(pair[0]), np.int32(pair[1]))]
    return st.sampled_from([*ways, pair[0], np.int16(pair[0])] if pair[0] == pair[1] else ways)


def any_case(word: str) -> st.SearchStrategy[str]:
    """A word in lower, upper and mixed case, with its hyphens or without."""
    plain = word.replace("-", "")
    return st.sampled_from([word, plain, word.upper(), plain.upper(), word.title(), plain.title()])


@st.composite
def paddings(draw: st.DrawFn) -> tuple[Any, Any]:
    """A padding as written, and its ``((top, bottom), (left, right))``, ``None`` for ``same``."""
    size = st.integers(0, 4)
    kinds = ["same", "valid", "p", "(a, b)", "(t, b, l, r)", "((t, b), (l, r))"]
    kind = draw(st.sampled_from(kinds))
    if kind == "same":
        return draw(any_case("same")), None
    if kind == "valid":
        return draw(any_case("valid")), ((0, 0), (0, 0))
    top, bottom, left, right = flat = tuple(draw(size) for _ in range(4))
    nested = ((top, bottom), (left, right))
    if kind == "p":
        return draw(st.sampled_from([top, np.int64(top)])), ((top, top), (top, top))
    if kind == "(a, b)":
        pair = (top, left)
        written = [pair, list(pair), np.array(pair)]
        return draw(st.sampled_from(written)), ((top, top), (left, left))
    if kind == "(t, b, l, r)":
        return draw(st.sampled_from([flat, list(flat), np.array(flat)])), nested
    written = [nested, [list(widths) for widths in nested], np.array(nested)]
    return draw(st.sampled_from(written)), nested


@st.composite
def data_formats(draw: st.DrawFn) -> str:
    """The usual data formats, and those of three to six letters, as often as one another."""
    length = draw(st.integers(2, 6))
    if length == 2:
        return draw(st.sampled_from(["BSSC", "BCSS", *ALIASES]))
    return draw(st.sampled_from([written for written in DATA_FORMATS if len(written) == length]))


def fits(image, sides, filter_size, dilation, padding_value):
    """Whether the filter fits into the padded image, and the mirror into the image."""
    for size, widths, k, d in zip(image, sides, filter_size, dilation, strict=True):
        margin = {"symmetric-include-edge": size, "symmetric-exclude-edge": size - 1}
        if (k - 1) * d + 1 > size + sum(widths) or max(widths) > margin.get(padding_value, 99):
            return False
    return True


@st.composite
def convolutions(draw: st.DrawFn, use_bias: bool | None = None) -> Case:
    """Every convolution that the function takes, with small shapes; any bias for ``None``."""
    filter_size = draw(pairs(1, 5))
    groups = draw(st.integers(1, 4))
    channels = draw(st.integers(1, 6 // groups))
    filters = draw(st.integers(1, 6 // groups))
    stride, dilation = draw(pairs(1, 3)), draw(pairs(1, 3))
    padding, wanted = draw(paddings())
    numbers = st.sampled_from([0, 0.0, 1, -2.5, np.float32(0.5), np.int32(3)])
    value = draw(st.one_of(numbers, st.sampled_from(MIRRORS)))
    spelled_value = draw(any_case(value)) if isinstance(value, str) else value

    def sides(image):
        if wanted is not None:
            return wanted
        return tuple(
            reference.same_padding(*sizes)
            for sizes in zip(image, filter_size, stride, dilation, strict=True)
        )

    image = draw(pairs(1, 9))
    while not fits(image, sides(image), filter_size, dilation, value):
        image = (image[0] + 1, image[1] + 1)

    written = draw(data_formats())
    data_format = ALIASES.get(written, written)
    sizes = iter(image)
    carried_sizes = st.sampled_from([1, 2, 3, 2, 1, 2, 3, 0])
    x_shape: list[int] = []
    for position, letter in enumerate(data_format):
        if letter == "S":
            x_shape.append(next(sizes))
        elif letter == "C":
            x_shape.append(channels * groups)
        elif letter == "B" and position == 0:
            x_shape += draw(st.lists(carried_sizes, max_size=3))
        else:
            x_shape.append(draw(carried_sizes))
    return Case(
        x_shape=tuple(x_shape),
        weights_shape=(*filter_size, channels, filters, groups),
        use_bias=draw(st.booleans()) if use_bias is None else use_bias,
        stride=stride,
        dilation=dilation,
        sides=sides(image),
        padding_value=value,
        data_format=data_format,
        spelled={
            "stride": draw(spellings(stride)),
            "dilation_factor": draw(spellings(dilation)),
            "padding": padding,
            "padding_value": spelled_value,
            "data_format": written,
            "implementation": draw(st.sampled_from([None, "lax"])),
        },
        seed=draw(st.integers(0, 2**32 - 1)),
    )
