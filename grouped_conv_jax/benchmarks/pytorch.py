"""PyTorch as a contender: computes one role of a convolution, in either memory layout."""

import importlib
from typing import Any

import jax
import numpy as np

from grouped_conv_jax.benchmarks.cases import Case
from grouped_conv_jax.benchmarks.contenders import Contender
from grouped_conv_jax.operation._description import Role


class TorchUnavailableError(RuntimeError):
    """PyTorch is unavailable; the message gives the remedy."""


class Torch:
    """PyTorch on the device that JAX uses.

    Args:
        threads: number of threads on a CPU.

    Raises:
        TorchUnavailableError: PyTorch is not installed, or JAX runs on an accelerator that PyTorch
            cannot use.
    """

    layouts = ("channels-first", "channels-last")

    def __init__(self, threads: int) -> None:
        try:
            self.module: Any = importlib.import_module("torch")
        except ImportError as error:
            raise TorchUnavailableError(
                f"PyTorch is missing ({error}); install it with: pip install torch"
            ) from error
        self.on_cpu = jax.default_backend() == "cpu"
        if not self.on_cpu and not self.module.cuda.is_available():
            raise TorchUnavailableError(
                f"JAX runs on {jax.default_backend()}, but this build of PyTorch "
                f"({self.module.__version__}) sees no GPU"
            )
        self.device = "cpu" if self.on_cpu else "cuda"
        self.module.backends.cudnn.benchmark = True
        if self.on_cpu:
            self.module.set_num_threads(threads)

    def wait(self, result: Any) -> None:
        """Waits until all queued work is done."""
        del result
        if not self.on_cpu:
            self.module.cuda.synchronize()

    def to_layout(self, tensor: Any, layout: str) -> Any:
        """Moves a tensor ``(B, C, *image)`` to the device, in the given memory layout."""
        if layout == "channels-first":
            return tensor.to(self.device).contiguous()
        formats = {4: self.module.channels_last, 5: self.module.channels_last_3d}
        return tensor.to(self.device).contiguous(memory_format=formats[tensor.ndim])

    def prepare(
        self, case: Case, role: Role, operands: tuple[np.ndarray, np.ndarray], layout: str
    ) -> Contender:
        """Prepares one role in one layout; the arguments are as for :func:`prepare_jax`."""
        torch = self.module
        # PyTorch has no channels-last layout for one spatial axis, so prepend an axis of size 1.
        row = (1,) * (len(case.image) == 1)
        arrays = {
            kind: self.to_layout(self._to_torch(kind, operand, row), layout)
            for kind, operand in zip(role.operands, operands, strict=True)
        }
        # PyTorch takes the shape and layout of a gradient from the operand.
        arrays[role] = self.to_layout(
            self._to_torch(role, np.zeros(case.shape(role), operands[0].dtype), row), layout
        )
        x, filters = arrays[Role.INPUT_GRADIENT], arrays[Role.FILTER_GRADIENT]
        ones, zeros = [1] * len(row), [0] * len(row)
        padding, widths = [before for before, _ in case.padding], []
        if any(before != after for before, after in case.padding):
            # PyTorch's convolutions pad symmetrically only; pad explicitly, as its users do.
            padding = [0] * len(padding)
            widths = [width for sides in reversed(case.padding) for width in sides]
        crop = [
            slice(before, before + size)
            for (before, _), size in zip(case.padding, case.image, strict=True)
        ]
        rest = (
            [*ones, *case.stride],
            [*zeros, *padding],
            [*ones, *case.dilation],
            False,
            [*zeros, *(0 for _ in padding)],
            case.groups,
        )

        def padded() -> Any:
            return torch.nn.functional.pad(x, widths) if widths else x

        def run() -> Any:
            with torch.inference_mode():
                if role == Role.FORWARD:
                    return torch.ops.aten.convolution(padded(), filters, None, *rest)
                mask = [role == Role.INPUT_GRADIENT, role == Role.FILTER_GRADIENT, False]
                gradients = torch.ops.aten.convolution_backward(
                    arrays[Role.FORWARD], padded(), filters, None, *rest, mask
                )
                if role == Role.FILTER_GRADIENT:
                    return gradients[1]
                return gradients[0][..., *crop] if widths else gradients[0]

        return Contender(
            "torch",
            layout,
            run,
            self.wait,
            not self.on_cpu,
            {},
            lambda result: self._to_numpy(role, result, case.shape(role)),
        )

    def _to_torch(self, kind: Role, array: np.ndarray, row: tuple[int, ...]) -> Any:
        """Moves axes: images to ``(B, C, *image)``, filters to ``(F, C, *filter)``."""
        wide = array.astype(np.float32)
        if kind == Role.FILTER_GRADIENT:
            moved = np.moveaxis(wide, (-1, -2), (0, 1))
        else:
            moved = np.moveaxis(wide, -1, 1)
        shaped = np.ascontiguousarray(moved).reshape(*moved.shape[:2], *row, *moved.shape[2:])
        return self.module.from_numpy(shaped).to(getattr(self.module, array.dtype.name))

    def _to_numpy(self, kind: Role, result: Any, shape: tuple[int, ...]) -> np.ndarray:
        array = result.double().cpu().numpy()
        if kind == Role.FILTER_GRADIENT:
            return np.moveaxis(array, (0, 1), (-1, -2)).reshape(shape)
        return np.moveaxis(array, 1, -1).reshape(shape)
