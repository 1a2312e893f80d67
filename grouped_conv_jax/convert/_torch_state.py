"""Converts the weights of whole models between PyTorch's ``state_dict`` and Flax's variables.

Both hold the same arrays of each layer under different names and with different orders of axes:

============== ================================ ===========================================
layer          PyTorch                          here
============== ================================ ===========================================
convolution    ``weight`` ``(G*F, C, *size)``   ``kernel`` ``(*size, C, G*F)`` of Flax, or
                                                ``weights`` ``(*size, C, F, G)``
dense          ``weight`` ``(out, in)``         ``kernel`` ``(in, out)``
normalization  ``weight``                       ``scale``
               ``running_mean``, ``running_var`` ``mean``, ``var``
all of them    ``bias`` ``(features,)``         ``bias``, ``(*ones, F, G)`` in our layers
============== ================================ ===========================================
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx, traverse_util

from grouped_conv_jax import _checks
from grouped_conv_jax.layer import _flax_conv

Path = tuple[str, ...]
# PyTorch's names of the arrays of a layer.
_NAMES = {
    "kernel": "weight",
    "weights": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_COLLECTIONS = ("params", "batch_stats")
# The number of training steps, which only PyTorch's normalization stores.
_COUNT = "num_batches_tracked"


def from_torch_state(
    state_dict: Mapping[str, Any], model: Any, names: Callable[[str], str] | None = None
) -> Any:
    """Converts the weights of a PyTorch model to those of a Flax model with the same layers.

    Supports convolutions, batch normalizations and dense layers, both of Flax and of this package.

    Args:
        state_dict: a state dict of PyTorch, with tensors or arrays.
        model: an NNX module; or the variables of a Linen module, as arrays or as
            ``jax.ShapeDtypeStruct``, which ``jax.eval_shape(module.init, key, x)`` returns.
        names: a function from the path of a layer, such as ``"blocks/0/conv"``, to the layer's name
            in PyTorch; by default the path with dots.

    Returns:
        For an NNX module, a state for ``nnx.update(model, state)``. For the variables of a Linen
        module, variables of the same structure with NumPy arrays.

    Raises:
        TypeError: ``model`` is neither an NNX module nor the variables of a Linen module.
        ValueError: the model and the state dict hold different arrays, or arrays of different
            shapes.

    Example:
        >>> import numpy as np
        >>> from flax import nnx
        >>> from grouped_conv_jax.convert import from_torch_state
        >>> class Model(nnx.Module):
        ...     def __init__(self, rngs):
        ...         self.conv = nnx.Conv(4, 6, (3, 3), feature_group_count=2, rngs=rngs)
        >>> state_dict = {"conv.weight": np.ones((6, 2, 3, 3)), "conv.bias": np.ones(6)}
        >>> model = Model(nnx.Rngs(0))
        >>> nnx.update(model, from_torch_state(state_dict, model))
        >>> float(model.conv.kernel[...].sum())
        108.0
    """
    layers = _layers(model)
    converted, used = {}, set()
    for layer, arrays in layers.items():
        for name, (path, wanted) in arrays.items():
            key = _torch_name(layer, name, names)
            if key not in state_dict:
                raise ValueError(
                    f"state_dict must hold {key!r} for {'/'.join(path)!r} of the model, "
                    f"got {len(state_dict)} other names; the argument names maps paths "
                    f"to PyTorch's names{_checks.nearest(key, state_dict)}"
                )
            used |= {key, _torch_name(layer, _COUNT, names)}
            converted[path] = _from_torch(key, np.asarray(state_dict[key]), name, wanted)
    if rest := sorted(set(state_dict) - used):
        raise ValueError(f"the model must hold every array of state_dict, got {rest} unused")
    return _rebuild(model, converted)


def to_torch_state(
    model: Any, names: Callable[[str], str] | None = None
) -> dict[str, np.ndarray[Any, Any]]:
    """Converts the weights of a Flax model for PyTorch; the inverse of :func:`from_torch_state`.

    Args:
        model: an NNX module, or the variables of a Linen module.
        names: as for :func:`from_torch_state`.

    Returns:
        NumPy arrays, for ``load_state_dict`` after ``torch.from_numpy`` on each.

    Raises:
        TypeError: ``model`` is neither an NNX module nor the variables of a Linen module.
        ValueError: two arrays have the same name in PyTorch, or the model holds an unknown array.

    Example:
        >>> import numpy as np
        >>> from grouped_conv_jax.convert import to_torch_state
        >>> variables = {"params": {"conv": {"kernel": np.ones((3, 3, 2, 6)), "bias": np.ones(6)}}}
        >>> {name: array.shape for name, array in to_torch_state(variables).items()}
        {'conv.weight': (6, 2, 3, 3), 'conv.bias': (6,)}
    """
    state_dict: dict[str, np.ndarray[Any, Any]] = {}
    for layer, arrays in _layers(model).items():
        named = {
            _torch_name(layer, name, names): (name, array) for name, (_, array) in arrays.items()
        }
        if "mean" in arrays:
            state_dict[_torch_name(layer, _COUNT, names)] = np.zeros((), np.int64)
        for key, (name, array) in named.items():
            if key in state_dict:
                raise ValueError(f"names must give each layer its own name, got {key!r} twice")
            state_dict[key] = np.ascontiguousarray(_to_torch(np.asarray(array), name))
    return state_dict


def _layers(model: Any) -> dict[Path, dict[str, tuple[Path, Any]]]:
    """For each layer, a dictionary from the name of an array to its path and value."""
    layers: dict[Path, dict[str, tuple[Path, Any]]] = {}
    for path, array in _leaves(model):
        is_linen = not isinstance(model, nnx.Module)
        layer, name = path[int(is_linen) : -1], path[-1]
        if name not in _NAMES:
            known = ", ".join(_NAMES)
            raise ValueError(f"the model must hold only {known}, got {'/'.join(path)!r}")
        layers.setdefault(layer, {})[name] = path, array
    return layers


def _leaves(model: Any) -> Iterator[tuple[Path, Any]]:
    if isinstance(model, nnx.Module):
        state = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
        flat = [(path, variable.get_value()) for path, variable in nnx.to_flat_state(state)]
    elif isinstance(model, Mapping) and set(model) <= set(_COLLECTIONS) and "params" in model:
        flat = list(traverse_util.flatten_dict(dict(model)).items())
    else:
        raise TypeError(
            "model must be an NNX module or the variables of a Linen module, with params and "
            f"optionally batch_stats, got {type(model).__name__}"
        )
    for path, array in flat:
        yield tuple(map(str, path)), array


def _torch_name(layer: Path, name: str, names: Callable[[str], str] | None) -> str:
    module = ".".join(layer) if names is None else names("/".join(layer))
    array = _NAMES.get(name, name)
    return f"{module}.{array}" if module else array


def _from_torch(key: str, array: np.ndarray[Any, Any], name: str, wanted: Any) -> Any:
    if name in ("kernel", "weights"):
        array = np.moveaxis(array, (0, 1), (-1, -2)) if array.ndim > 1 else array
    if name == "weights":
        array = _flax_conv.to_weights(array, wanted.shape[-1])
    elif name == "bias" and len(wanted.shape) > 1:
        array = _flax_conv.to_bias(array, wanted.shape[-1], len(wanted.shape) - 2)
    if array.shape != wanted.shape:
        raise ValueError(
            f"{key!r} must become an array of shape {wanted.shape}, got one of {array.shape}"
        )
    return array.astype(wanted.dtype)


def _to_torch(array: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
    if name == "bias":
        return _flax_conv.to_vector(array) if array.ndim > 1 else array
    if name == "weights":
        array = _flax_conv.to_kernel(array)
    return np.moveaxis(array, (-1, -2), (0, 1)) if name in ("kernel", "weights") else array


def _rebuild(model: Any, arrays: dict[Path, Any]) -> Any:
    if not isinstance(model, nnx.Module):
        return jax.tree.map_with_path(
            lambda path, _: arrays[tuple(str(entry.key) for entry in path)], dict(model)
        )
    state = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
    return nnx.from_flat_state(
        [
            (path, variable.replace(jax.numpy.asarray(arrays[tuple(map(str, path))])))
            for path, variable in nnx.to_flat_state(state)
        ]
    )
