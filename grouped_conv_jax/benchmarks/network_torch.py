"""The benchmark networks in PyTorch, and their training step."""

from typing import Any

import numpy as np

from grouped_conv_jax.benchmarks import networks
from grouped_conv_jax.benchmarks.contenders import Contender
from grouped_conv_jax.benchmarks.networks import Activation, Block, Layer, Network
from grouped_conv_jax.benchmarks.pytorch import Torch


def build(torch: Any, network: Network) -> Any:
    """Builds a network with the module ``torch``, which only the caller imports."""
    nn = torch.nn

    class Residual(nn.Module):  # type: ignore[name-defined]
        """Adds a shortcut connection around some layers."""

        def __init__(self, layers: Any, shortcut: Any) -> None:
            super().__init__()
            self.layers, self.shortcut = layers, shortcut

        def forward(self, x: Any) -> Any:
            return self.layers(x) + self.shortcut(x)

    def activation(name: Activation) -> list[Any]:
        kinds = {None: [], "relu": [nn.ReLU], "relu6": [nn.ReLU6]}
        return [kind(inplace=True) for kind in kinds[name]]

    def layer(one: Layer) -> Any:
        convolution = nn.Conv2d(
            one.channels,
            one.filters,
            one.filter_size,
            one.stride,
            one.filter_size // 2,
            groups=one.groups,
            bias=False,
        )
        return nn.Sequential(convolution, nn.BatchNorm2d(one.filters), *activation(one.activation))

    def block(one: Block) -> Any:
        layers = nn.Sequential(*map(layer, one.layers))
        if isinstance(one.shortcut, Layer):
            layers = Residual(layers, layer(one.shortcut))
        elif one.shortcut == "identity":
            layers = Residual(layers, nn.Identity())
        return nn.Sequential(layers, *activation(one.activation))

    return nn.Sequential(
        layer(network.stem),
        *([nn.MaxPool2d(3, 2, 1)] * network.pooled_stem),
        *map(block, network.blocks),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(network.features, networks.CLASSES),
    )


def prepare(
    torch: Torch, network: Network, images: np.ndarray, labels: np.ndarray, layout: str
) -> Contender:
    """Prepares training steps on images ``(B, H, W, 3)``, in one of PyTorch's layouts."""
    module = torch.module
    module.manual_seed(0)
    formats = {
        "channels-first": module.contiguous_format,
        "channels-last": module.channels_last,
    }
    model = build(module, network).to(torch.device, memory_format=formats[layout])
    optimizer = module.optim.SGD(model.parameters(), networks.LEARNING_RATE, networks.MOMENTUM)
    x = torch.to_layout(module.from_numpy(np.moveaxis(images, -1, 1)), layout)
    y = module.from_numpy(labels).to(torch.device).long()
    loss_of = module.nn.CrossEntropyLoss()

    def step() -> Any:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return Contender("torch", layout, step, torch.wait, not torch.on_cpu, {})
