"""Whole networks, as data: what they are made of, the same for each framework.

They are built from each framework's own layers. In JAX the convolution that Flax's ``Conv`` calls
is the only difference between this package and lax.
"""

import dataclasses
from typing import Literal, TypeAlias

CLASSES = 1000
IMAGE_SIZE = 224
MOMENTUM = 0.9
LEARNING_RATE = 0.01

Activation: TypeAlias = Literal["relu", "relu6"] | None


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution without bias, batch normalization and an activation.

    Attributes:
        channels: of the input.
        filters: channels of the output.
        filter_size: height and width.
        stride: vertical and horizontal.
        groups: number of groups.
        activation: what comes last.
    """

    channels: int
    filters: int
    filter_size: int = 1
    stride: int = 1
    groups: int = 1
    activation: Activation = None


@dataclasses.dataclass(frozen=True)
class Block:
    """Layers one after the other, with what leads past them.

    Attributes:
        layers: the layers.
        shortcut: ``"none"``, ``"identity"``, or the layer that brings the input to the output's
            shape, to be added to it.
        activation: what comes after the addition.
    """

    layers: tuple[Layer, ...]
    shortcut: Layer | Literal["none", "identity"] = "none"
    activation: Activation = None


@dataclasses.dataclass(frozen=True)
class Network:
    """Blocks, then the mean over the image and a dense layer to the classes.

    Attributes:
        stem: the first layer.
        pooled_stem: whether a maximum over 3x3 with stride 2 follows it.
        blocks: the blocks.
        features: channels of the last one.
    """

    stem: Layer
    pooled_stem: bool
    blocks: tuple[Block, ...]
    features: int


def _mobilenet_v2() -> Network:
    """Sandler et al. 2018, table 2, without dropout."""
    blocks = []
    channels = 32
    # Expansion, filters, blocks, stride of the first one.
    for expansion, filters, count, first_stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for number in range(count):
            stride = first_stride if number == 0 else 1
            width = expansion * channels
            expand = (Layer(channels, width, activation="relu6"),) * (expansion > 1)
            depthwise = Layer(width, width, 3, stride, groups=width, activation="relu6")
            blocks.append(
                Block(
                    (*expand, depthwise, Layer(width, filters)),
                    "identity" if stride == 1 and channels == filters else "none",
                )
            )
            channels = filters
    blocks.append(Block((Layer(channels, 1280, activation="relu6"),)))
    return Network(Layer(3, 32, 3, 2, activation="relu6"), False, tuple(blocks), 1280)


def _resnext_50() -> Network:
    """Xie et al. 2017, table 1: 32 groups, 4 channels wide in the first stage."""
    blocks = []
    channels = 64
    for width, count, first_stride in ((128, 3, 1), (256, 4, 2), (512, 6, 2), (1024, 3, 2)):
        for number in range(count):
            stride = first_stride if number == 0 else 1
            blocks.append(
                Block(
                    (
                        Layer(channels, width, activation="relu"),
                        Layer(width, width, 3, stride, groups=32, activation="relu"),
                        Layer(width, 2 * width),
                    ),
                    Layer(channels, 2 * width, 1, stride) if number == 0 else "identity",
                    activation="relu",
                )
            )
            channels = 2 * width
    return Network(Layer(3, 64, 7, 2, activation="relu"), True, tuple(blocks), channels)


NETWORKS = {"mobilenet-v2": _mobilenet_v2(), "resnext-50": _resnext_50()}
