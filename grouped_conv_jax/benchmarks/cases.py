"""Descriptions of grouped convolutions to measure and test."""

import dataclasses
import math

from grouped_conv_jax.operation._description import Convolution, Role

BATCH = 8


@dataclasses.dataclass(frozen=True)
class Case:
    """One grouped convolution, for any number of spatial axes.

    Attributes:
        batch: number of images.
        image: spatial size of the images.
        channels: number of input channels, over all groups.
        filters: number of output channels, over all groups.
        filter_size: spatial size of the filters.
        groups: number of groups.
        stride: stride along each axis.
        dilation: filter dilation along each axis.
        padding: zero padding (before, after) along each axis.
    """

    batch: int
    image: tuple[int, ...]
    channels: int
    filters: int
    filter_size: tuple[int, ...]
    groups: int
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]

    @property
    def convolution(self) -> Convolution:
        """The package's static description of the convolution."""
        return Convolution(
            self.image, self.filter_size, self.groups, self.stride, self.padding, self.dilation
        )

    def shape(self, role: Role) -> tuple[int, ...]:
        """Returns the shape of the result of ``role``, in canonical order."""
        shapes = {
            Role.INPUT_GRADIENT: (self.batch, *self.image, self.channels),
            Role.FILTER_GRADIENT: (
                *self.filter_size,
                self.channels // self.groups,
                self.filters,
            ),
            Role.FORWARD: (self.batch, *self.convolution.outputs, self.filters),
        }
        return shapes[role]

    def terms(self, role: Role) -> int:
        """Returns the number of products in the sum of each element of the result of ``role``."""
        channels, filters = self.channels // self.groups, self.filters // self.groups
        if role == Role.FILTER_GRADIENT:
            return self.batch * math.prod(self.convolution.outputs)
        return math.prod(self.filter_size) * (channels if role == Role.FORWARD else filters)

    @property
    def operations(self) -> int:
        """Number of multiplications and additions, which is the same for each role."""
        return 2 * math.prod(self.shape(Role.FORWARD)) * self.terms(Role.FORWARD)

    @property
    def elements(self) -> int:
        """Number of elements of input, filters and output, which each role reads or writes."""
        return sum(math.prod(self.shape(role)) for role in Role)

    def __str__(self) -> str:
        """Returns a name such as ``8x56x56x128 k3 s2 depthwise`` or ``8x27x27x96->256 k5 g2``."""
        size = "x".join(map(str, (self.batch, *self.image, self.channels)))
        depthwise = self.groups == self.channels == self.filters
        words = [size if depthwise else f"{size}->{self.filters}", f"k{_short(self.filter_size)}"]
        if any(step != 1 for step in self.stride):
            words.append(f"s{_short(self.stride)}")
        if any(step != 1 for step in self.dilation):
            words.append(f"d{_short(self.dilation)}")
        if self.padding != _size_preserving_padding(self.filter_size, self.dilation):
            words.append(f"p{','.join(str(side) for sides in self.padding for side in sides)}")
        return " ".join([*words, "depthwise" if depthwise else f"g{self.groups}"])


def _short(sizes: tuple[int, ...]) -> str:
    return str(sizes[0]) if len(set(sizes)) == 1 else "x".join(map(str, sizes))


def _size_preserving_padding(
    filter_size: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[tuple[int, int], ...]:
    totals = [(k - 1) * d for k, d in zip(filter_size, dilation, strict=True)]
    return tuple((total // 2, total - total // 2) for total in totals)


def grouped(
    image: int | tuple[int, ...],
    channels: int,
    filters: int,
    filter_size: int | tuple[int, ...],
    groups: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    batch: int = BATCH,
) -> Case:
    """Returns a grouped convolution whose padding preserves the size at stride 1."""
    size = (image, image) if isinstance(image, int) else image
    axes = len(size)
    filter_sizes = (filter_size,) * axes if isinstance(filter_size, int) else filter_size
    dilations = (dilation,) * axes
    padding = _size_preserving_padding(filter_sizes, dilations)
    strides = (stride,) * axes
    return Case(batch, size, channels, filters, filter_sizes, groups, strides, dilations, padding)


def depthwise(
    image: int | tuple[int, ...],
    channels: int,
    filter_size: int | tuple[int, ...],
    *,
    stride: int = 1,
    dilation: int = 1,
    batch: int = BATCH,
) -> Case:
    """Returns a depthwise convolution whose padding preserves the size at stride 1."""
    return grouped(
        image,
        channels,
        channels,
        filter_size,
        channels,
        stride=stride,
        dilation=dilation,
        batch=batch,
    )


def per_sample(
    image: int, channels: int, filters: int, filter_size: int, *, stride: int = 1, samples: int = 32
) -> Case:
    """Returns the convolution to which ``vmap`` converts per-sample filter gradients.

    It computes the filter gradients of a dense convolution: each sample becomes a group, the image
    channels become the batch, and the output cotangents become the filters.
    """
    pad = (filter_size - 1) // 2
    outputs = (image + 2 * pad - filter_size) // stride + 1
    # Negative padding crops the last rows, which the stride skips.
    after = (outputs - 1) * stride + filter_size - image - pad
    return Case(
        channels,
        (image, image),
        samples,
        samples * filters,
        (outputs, outputs),
        samples,
        (1, 1),
        (stride, stride),
        ((pad, after), (pad, after)),
    )
