"""Framework-independent descriptions of the benchmark networks.

Each framework builds the networks from its own layers. In JAX, this package and lax differ only in
the convolution function that Flax's ``Conv`` calls.
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
    """A convolution without bias, followed by batch normalization and an activation.

    Attributes:
        channels: number of input channels.
        filters: number of output channels.
        filter_size: height and width of the filters.
        stride: vertical and horizontal stride.
        groups: number of groups.
        activation: the activation.
    """

    channels: int
    filters: int
    filter_size: int = 1
    stride: int = 1
    groups: int = 1
    activation: Activation = None


@dataclasses.dataclass(frozen=True)
class Block:
    """A sequence of layers with an optional shortcut connection.

    Attributes:
        layers: the layers.
        shortcut: ``"none"``, ``"identity"``, or a layer that projects the input to the shape of the
            output.
        activation: the activation after adding the shortcut.
    """

    layers: tuple[Layer, ...]
    shortcut: Layer | Literal["none", "identity"] = "none"
    activation: Activation = None


@dataclasses.dataclass(frozen=True)
class Network:
    """A stem and blocks, followed by global average pooling and a dense layer.

    Attributes:
        stem: the first layer.
        pooled_stem: whether 3x3 max pooling with stride 2 follows the stem.
        blocks: the blocks.
        features: number of output channels of the last block.
    """

    stem: Layer
    pooled_stem: bool
    blocks: tuple[Block, ...]
    features: int


def _mobilenet_v2() -> Network:
    """Sandler et al. 2018, table 2, without dropout."""
    blocks = []
    channels = 32
    # (expansion, filters, number of blocks, stride of the first block)
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
