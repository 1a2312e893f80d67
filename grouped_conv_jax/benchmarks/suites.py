"""Suites of grouped convolutions to measure and test.

A suite named after a network holds every distinct grouped convolution of the network, at batch 8
and the network's usual image size. Padding preserves the size at stride 1, equally on both sides.
"""

import dataclasses

from grouped_conv_jax.benchmarks.cases import Case, depthwise, grouped, per_sample

# Sandler et al. 2018, table 2, at 224 x 224.
_MOBILENET_V2 = (
    depthwise(112, 32, 3),
    depthwise(112, 96, 3, stride=2),
    depthwise(56, 144, 3),
    depthwise(56, 144, 3, stride=2),
    depthwise(28, 192, 3),
    depthwise(28, 192, 3, stride=2),
    depthwise(14, 384, 3),
    depthwise(14, 576, 3),
    depthwise(14, 576, 3, stride=2),
    depthwise(7, 960, 3),
)

# Tan and Le 2019, table 1, at 224 x 224.
_EFFICIENTNET_B0 = (
    depthwise(112, 32, 3),
    depthwise(112, 96, 3, stride=2),
    depthwise(56, 144, 3),
    depthwise(56, 144, 5, stride=2),
    depthwise(28, 240, 5),
    depthwise(28, 240, 3, stride=2),
    depthwise(14, 480, 3),
    depthwise(14, 480, 5),
    depthwise(14, 672, 5),
    depthwise(14, 672, 5, stride=2),
    depthwise(7, 1152, 5),
    depthwise(7, 1152, 3),
)

# Liu et al. 2022, at 224 x 224.
_CONVNEXT_TINY = (
    depthwise(56, 96, 7),
    depthwise(28, 192, 7),
    depthwise(14, 384, 7),
    depthwise(7, 768, 7),
)

# Xie et al. 2017, table 1, at 224 x 224, with the stride in the grouped convolution.
_RESNEXT_50 = (
    grouped(56, 128, 128, 3, 32),
    grouped(56, 256, 256, 3, 32, stride=2),
    grouped(28, 256, 256, 3, 32),
    grouped(28, 512, 512, 3, 32, stride=2),
    grouped(14, 512, 512, 3, 32),
    grouped(14, 1024, 1024, 3, 32, stride=2),
    grouped(7, 1024, 1024, 3, 32),
)

# Radosavovic et al. 2020: RegNetY-1.6GF, groups 24 channels wide, at 224 x 224.
_REGNET_Y = (
    grouped(112, 48, 48, 3, 2, stride=2),
    grouped(56, 48, 48, 3, 2),
    grouped(56, 120, 120, 3, 5, stride=2),
    grouped(28, 120, 120, 3, 5),
    grouped(28, 336, 336, 3, 14, stride=2),
    grouped(14, 336, 336, 3, 14),
    grouped(14, 888, 888, 3, 37, stride=2),
    grouped(7, 888, 888, 3, 37),
)

# Krizhevsky et al. 2012: the second, fourth and fifth convolution, at 227 x 227.
_ALEXNET = (
    grouped(27, 96, 256, 5, 2),
    grouped(13, 384, 384, 3, 2),
    grouped(13, 384, 256, 3, 2),
)

# Zhang et al. 2018: version 1, width 1, 3 groups, at 224 x 224. The first unit of a stage has
# stride 2; its filters and its pooled input together make up the width of the stage.
_SHUFFLENET = (
    depthwise(56, 60, 3, stride=2),
    grouped(28, 60, 216, 1, 3),
    grouped(28, 240, 60, 1, 3),
    depthwise(28, 60, 3),
    grouped(28, 60, 240, 1, 3),
    grouped(28, 240, 120, 1, 3),
    depthwise(28, 120, 3, stride=2),
    grouped(14, 120, 240, 1, 3),
    grouped(14, 480, 120, 1, 3),
    depthwise(14, 120, 3),
    grouped(14, 120, 480, 1, 3),
    grouped(14, 480, 240, 1, 3),
    depthwise(14, 240, 3, stride=2),
    grouped(7, 240, 480, 1, 3),
    grouped(7, 960, 240, 1, 3),
    depthwise(7, 240, 3),
    grouped(7, 240, 960, 1, 3),
)

# Shapes that users reported as slow.
_REPORTED = (
    # jax-ml/jax#23713
    depthwise(124, 256, 3, batch=1),
    # jax-ml/jax#13800: one of twelve equal layers.
    depthwise((1024,), 512, 5, batch=32),
    # jax-ml/jax#26266: 32 sequences of 1024 steps; the issue varies size, channels and dilation.
    depthwise((1024,), 64, 3, dilation=8, batch=32),
    # keras-team/keras#20471
    grouped(64, 512, 128, 1, 2, batch=32),
    depthwise(56, 128, 3),
    depthwise(56, 128, 3, stride=2),
    depthwise(28, 192, 7),
    depthwise(56, 64, 5, dilation=2),
    depthwise(14, 384, 3),
    grouped(56, 128, 128, 3, 32),
    grouped(28, 256, 256, 3, 32),
    grouped(14, 512, 512, 3, 32),
    grouped(28, 256, 256, 1, 4),
    grouped(27, 96, 256, 5, 2),
)

_LARGE_KERNEL = (
    # Guo et al. 2022 (VAN): dilated filters.
    depthwise(56, 64, 7, dilation=3),
    depthwise(28, 128, 7, dilation=3),
    # Yu et al. 2023 (InceptionNeXt): band filters.
    depthwise(28, 64, (1, 11)),
    depthwise(28, 64, (11, 1)),
    depthwise(56, 64, 11),
    depthwise(28, 128, 15, stride=2),
    # Ding et al. 2022 (RepLKNet-31B): the four stages.
    depthwise(56, 128, 31),
    depthwise(28, 256, 29),
    depthwise(14, 512, 27),
    depthwise(7, 1024, 13),
)


_SEQUENCES_AND_VIDEOS = (
    # Gu and Dao 2023 (Mamba): causal, 2048 steps.
    dataclasses.replace(depthwise((2048,), 1024, 4, batch=4), padding=((3, 0),)),
    # Hsu et al. 2021 (HuBERT): positional embedding of ten seconds of speech.
    dataclasses.replace(grouped((499,), 768, 768, 128, 16, batch=4), padding=((64, 63),)),
    # Feichtenhofer 2020 (X3D-M): 16 frames of 224 x 224; one layer of each stage.
    depthwise((16, 56, 56), 54, 3, batch=2),
    depthwise((16, 28, 28), 108, 3, batch=2),
    depthwise((16, 14, 14), 216, 3, batch=2),
    depthwise((16, 7, 7), 432, 3, batch=2),
)

_PER_SAMPLE = (
    per_sample(32, 3, 32, 3),
    per_sample(28, 1, 16, 3),
    per_sample(28, 1, 32, 5),
    per_sample(32, 32, 32, 3),
    per_sample(16, 64, 64, 3, stride=2, samples=16),
    per_sample(14, 64, 128, 1),
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
    """Returns the distinct convolutions of some suites, each with the suites that contain it.

    Args:
        names: names of the suites.
        batch: number of images, or ``None`` for each convolution's default.
    """
    found: dict[Case, list[str]] = {}
    for name in names:
        for case in SUITES[name]:
            resized = case if batch is None else dataclasses.replace(case, batch=batch)
            found.setdefault(resized, []).append(name)
    return found
