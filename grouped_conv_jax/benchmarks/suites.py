"""The convolutions that are measured and tested, as data.

A suite named after a network holds every distinct grouped convolution of it, at batch 8 and the
network's usual image size. Padding is what keeps the size at stride 1, the same on both sides.
"""

import dataclasses
import math

from grouped_conv_jax.operation._description import Convolution, Role

BATCH = 8


@dataclasses.dataclass(frozen=True)
class Case:
    """One grouped convolution, for any number of spatial axes.

    Attributes:
        batch: number of images.
        image: their spatial size.
        channels: of the input, all groups together.
        filters: channels of the output, all groups together.
        filter_size: spatial size of the filters.
        groups: number of groups.
        stride: one an axis.
        dilation: one an axis.
        padding: zeros (before, after) each axis.
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
        """The package's description of it."""
        return Convolution(
            self.image, self.filter_size, self.groups, self.stride, self.padding, self.dilation
        )

    def shape(self, role: Role) -> tuple[int, ...]:
        """The shape of what ``role`` computes, in canonical order."""
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
        """How many products are summed to one number of what ``role`` computes."""
        channels, filters = self.channels // self.groups, self.filters // self.groups
        if role == Role.FILTER_GRADIENT:
            return self.batch * math.prod(self.convolution.outputs)
        return math.prod(self.filter_size) * (channels if role == Role.FORWARD else filters)

    @property
    def operations(self) -> int:
        """Multiplications and additions, equally many in each role."""
        return 2 * math.prod(self.shape(Role.FORWARD)) * self.terms(Role.FORWARD)

    @property
    def elements(self) -> int:
        """Numbers that have to be read or written, in any role: input, filters and output once."""
        return sum(math.prod(self.shape(role)) for role in Role)

    def __str__(self) -> str:
        """``8x56x56x128 k3 s2 depthwise``, or ``8x27x27x96->256 k5 g2``."""
        size = "x".join(map(str, (self.batch, *self.image, self.channels)))
        depthwise = self.groups == self.channels == self.filters
        words = [size if depthwise else f"{size}->{self.filters}", f"k{_short(self.filter_size)}"]
        if any(step != 1 for step in self.stride):
            words.append(f"s{_short(self.stride)}")
        if any(step != 1 for step in self.dilation):
            words.append(f"d{_short(self.dilation)}")
        if self.padding != _keeping_size(self.filter_size, self.dilation):
            words.append(f"p{','.join(str(side) for sides in self.padding for side in sides)}")
        return " ".join([*words, "depthwise" if depthwise else f"g{self.groups}"])


def _short(sizes: tuple[int, ...]) -> str:
    return str(sizes[0]) if len(set(sizes)) == 1 else "x".join(map(str, sizes))


def _keeping_size(
    filter_size: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[tuple[int, int], ...]:
    totals = [(k - 1) * d for k, d in zip(filter_size, dilation, strict=True)]
    return tuple((total // 2, total - total // 2) for total in totals)


def _grouped(
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
    size = (image, image) if isinstance(image, int) else image
    axes = len(size)
    filter_sizes = (filter_size,) * axes if isinstance(filter_size, int) else filter_size
    dilations = (dilation,) * axes
    padding = _keeping_size(filter_sizes, dilations)
    strides = (stride,) * axes
    return Case(batch, size, channels, filters, filter_sizes, groups, strides, dilations, padding)


def _depthwise(
    image: int | tuple[int, ...],
    channels: int,
    filter_size: int | tuple[int, ...],
    *,
    stride: int = 1,
    dilation: int = 1,
    batch: int = BATCH,
) -> Case:
    return _grouped(
        image,
        channels,
        channels,
        filter_size,
        channels,
        stride=stride,
        dilation=dilation,
        batch=batch,
    )


# Sandler et al. 2018, table 2, at 224 x 224.
_MOBILENET_V2 = (
    _depthwise(112, 32, 3),
    _depthwise(112, 96, 3, stride=2),
    _depthwise(56, 144, 3),
    _depthwise(56, 144, 3, stride=2),
    _depthwise(28, 192, 3),
    _depthwise(28, 192, 3, stride=2),
    _depthwise(14, 384, 3),
    _depthwise(14, 576, 3),
    _depthwise(14, 576, 3, stride=2),
    _depthwise(7, 960, 3),
)

# Tan and Le 2019, table 1, at 224 x 224.
_EFFICIENTNET_B0 = (
    _depthwise(112, 32, 3),
    _depthwise(112, 96, 3, stride=2),
    _depthwise(56, 144, 3),
    _depthwise(56, 144, 5, stride=2),
    _depthwise(28, 240, 5),
    _depthwise(28, 240, 3, stride=2),
    _depthwise(14, 480, 3),
    _depthwise(14, 480, 5),
    _depthwise(14, 672, 5),
    _depthwise(14, 672, 5, stride=2),
    _depthwise(7, 1152, 5),
    _depthwise(7, 1152, 3),
)

# Liu et al. 2022, at 224 x 224.
_CONVNEXT_TINY = (
    _depthwise(56, 96, 7),
    _depthwise(28, 192, 7),
    _depthwise(14, 384, 7),
    _depthwise(7, 768, 7),
)

# Xie et al. 2017, table 1, at 224 x 224, with the stride in the grouped convolution.
_RESNEXT_50 = (
    _grouped(56, 128, 128, 3, 32),
    _grouped(56, 256, 256, 3, 32, stride=2),
    _grouped(28, 256, 256, 3, 32),
    _grouped(28, 512, 512, 3, 32, stride=2),
    _grouped(14, 512, 512, 3, 32),
    _grouped(14, 1024, 1024, 3, 32, stride=2),
    _grouped(7, 1024, 1024, 3, 32),
)

# Radosavovic et al. 2020: RegNetY-1.6GF, groups 24 channels wide, at 224 x 224.
_REGNET_Y = (
    _grouped(112, 48, 48, 3, 2, stride=2),
    _grouped(56, 48, 48, 3, 2),
    _grouped(56, 120, 120, 3, 5, stride=2),
    _grouped(28, 120, 120, 3, 5),
    _grouped(28, 336, 336, 3, 14, stride=2),
    _grouped(14, 336, 336, 3, 14),
    _grouped(14, 888, 888, 3, 37, stride=2),
    _grouped(7, 888, 888, 3, 37),
)

# Krizhevsky et al. 2012: the second, fourth and fifth convolution, at 227 x 227.
_ALEXNET = (
    _grouped(27, 96, 256, 5, 2),
    _grouped(13, 384, 384, 3, 2),
    _grouped(13, 384, 256, 3, 2),
)

# Zhang et al. 2018: version 1, width 1, 3 groups, at 224 x 224. The first unit of a stage has
# stride 2 and as many filters as make up the stage's width together with its pooled input.
_SHUFFLENET = (
    _depthwise(56, 60, 3, stride=2),
    _grouped(28, 60, 216, 1, 3),
    _grouped(28, 240, 60, 1, 3),
    _depthwise(28, 60, 3),
    _grouped(28, 60, 240, 1, 3),
    _grouped(28, 240, 120, 1, 3),
    _depthwise(28, 120, 3, stride=2),
    _grouped(14, 120, 240, 1, 3),
    _grouped(14, 480, 120, 1, 3),
    _depthwise(14, 120, 3),
    _grouped(14, 120, 480, 1, 3),
    _grouped(14, 480, 240, 1, 3),
    _depthwise(14, 240, 3, stride=2),
    _grouped(7, 240, 480, 1, 3),
    _grouped(7, 960, 240, 1, 3),
    _depthwise(7, 240, 3),
    _grouped(7, 240, 960, 1, 3),
)

# Shapes of which users said that they are slow.
_REPORTED = (
    # jax-ml/jax#23713
    _depthwise(124, 256, 3, batch=1),
    # jax-ml/jax#13800: one of its twelve equal layers.
    _depthwise((1024,), 512, 5, batch=32),
    # jax-ml/jax#26266 varies filter size, channels and dilation of 32 sequences of 1024 steps.
    _depthwise((1024,), 64, 3, dilation=8, batch=32),
    # keras-team/keras#20471
    _grouped(64, 512, 128, 1, 2, batch=32),
    _depthwise(56, 128, 3),
    _depthwise(56, 128, 3, stride=2),
    _depthwise(28, 192, 7),
    _depthwise(56, 64, 5, dilation=2),
    _depthwise(14, 384, 3),
    _grouped(56, 128, 128, 3, 32),
    _grouped(28, 256, 256, 3, 32),
    _grouped(14, 512, 512, 3, 32),
    _grouped(28, 256, 256, 1, 4),
    _grouped(27, 96, 256, 5, 2),
)

_LARGE_KERNEL = (
    # Guo et al. 2022 (VAN): dilated.
    _depthwise(56, 64, 7, dilation=3),
    _depthwise(28, 128, 7, dilation=3),
    # Yu et al. 2023 (InceptionNeXt): bands.
    _depthwise(28, 64, (1, 11)),
    _depthwise(28, 64, (11, 1)),
    _depthwise(56, 64, 11),
    _depthwise(28, 128, 15, stride=2),
    # Ding et al. 2022 (RepLKNet-31B): its four stages.
    _depthwise(56, 128, 31),
    _depthwise(28, 256, 29),
    _depthwise(14, 512, 27),
    _depthwise(7, 1024, 13),
)


_SEQUENCES_AND_VIDEOS = (
    # Gu and Dao 2023 (Mamba): causal, 2048 steps.
    dataclasses.replace(_depthwise((2048,), 1024, 4, batch=4), padding=((3, 0),)),
    # Hsu et al. 2021 (HuBERT): where in ten seconds of speech a frame is.
    dataclasses.replace(_grouped((499,), 768, 768, 128, 16, batch=4), padding=((64, 63),)),
    # Feichtenhofer 2020 (X3D-M), 16 frames of 224 x 224: one of the equal layers of each stage.
    _depthwise((16, 56, 56), 54, 3, batch=2),
    _depthwise((16, 28, 28), 108, 3, batch=2),
    _depthwise((16, 14, 14), 216, 3, batch=2),
    _depthwise((16, 7, 7), 432, 3, batch=2),
)


def _per_sample(
    image: int, channels: int, filters: int, filter_size: int, *, stride: int = 1, samples: int = 32
) -> Case:
    """The filter gradients of a dense convolution for each sample, as ``vmap`` writes them.

    Each sample is a group, the image's channels are the batch, and the filter is as large as the
    output was.
    """
    pad = (filter_size - 1) // 2
    outputs = (image + 2 * pad - filter_size) // stride + 1
    # The last rows that the stride leaves over are cropped.
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


_PER_SAMPLE = (
    _per_sample(32, 3, 32, 3),
    _per_sample(28, 1, 16, 3),
    _per_sample(28, 1, 32, 5),
    _per_sample(32, 32, 32, 3),
    _per_sample(16, 64, 64, 3, stride=2, samples=16),
    _per_sample(14, 64, 128, 1),
)

SUITES: dict[str, tuple[Case, ...]] = {
    "mobilenet-v2": _MOBILENET_V2,
    "efficientnet-b0": _EFFICIENTNET_B0,
    "convnext-tiny": _CONVNEXT_TINY,
    "resnext-50-32x4d": _RESNEXT_50,
    "regnet-y": _REGNET_Y,
    "alexnet": _ALEXNET,
    "shufflenet": _SHUFFLENET,
    "reported": _REPORTED,
    "large-kernel": _LARGE_KERNEL,
    "sequences-and-videos": _SEQUENCES_AND_VIDEOS,
    "per-sample": _PER_SAMPLE,
}


def collect(names: list[str], batch: int | None = None) -> dict[Case, list[str]]:
    """The distinct convolutions of some suites, and the suites that hold each.

    Args:
        names: of the suites.
        batch: the number of images, or ``None`` for each convolution's own.
    """
    found: dict[Case, list[str]] = {}
    for name in names:
        for case in SUITES[name]:
            resized = case if batch is None else dataclasses.replace(case, batch=batch)
            found.setdefault(resized, []).append(name)
    return found
