"""Weights of whole models: PyTorch's ``state_dict`` to Flax's variables, and back.

Of each layer both sides hold the same arrays under other names and in another order of axes:

============== ================================ ===========================================
layer          PyTorch                          here
============== ================================ ===========================================
convolution    ``weight`` ``(G*F, C, *size)``   ``kernel`` ``(*size, C, G*F)`` of Flax, or
                                                ``weights`` ``(*size, C, F, G)``
dense          ``weight`` ``(out, in)``         ``kernel`` ``(in, out)``
normalization  ``weight``                       ``scale``
               ``running_mean``, ``running_var`` ``mean``, ``var``
all of them    ``bias`` ``(features,)``         ``bias``, of ours ``(*ones, F, G)``
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
# What PyTorch calls the arrays of a layer.
_NAMES = {
    "kernel": "weight",
    "weights": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_COLLECTIONS = ("params", "batch_stats")
# A count of training steps, which only PyTorch's normalization keeps.
_COUNT = "num_batches_tracked"


def from_torch_state(
    state_dict: Mapping[str, Any], model: Any, names: Callable[[str], str] | None = None
) -> Any:
    """Brings the weights of a PyTorch model to a Flax model of the same layers.

    Convolutions, batch normalizations and dense layers are known, of Flax and of this package.

    Args:
        state_dict: PyTorch's, of tensors or arrays.
        model: an NNX module; or the variables of a Linen module, of arrays or
            ``jax.ShapeDtypeStruct``, as ``jax.eval_shape(module.init, key, x)`` returns them.
        names: from the path of a layer, such as ``"blocks/0/conv"``, to PyTorch's name of it; by
            default the same with dots.

    Returns:
        For an NNX module the state that ``nnx.update(model, state)`` takes; for Linen's variables
        variables of the same structure, in NumPy arrays.

    Raises:
        ValueError: the model lacks what the state dict holds, or the other way round, or a shape
            is another one.

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
    found, used = {}, set()
    for layer, arrays in layers.items():
        for name, (path, wanted) in arrays.items():
            key = _torch_name(layer, name, names)
            if key not in state_dict:
                raise ValueError(
                    f"state_dict must hold {key!r} for {'/'.join(path)!r} of the model, "
                    f"got {len(state_dict)} other names; the argument names says what PyTorch "
                    f"calls a layer{_checks.nearest(key, state_dict)}"
                )
            used |= {key, _torch_name(layer, _COUNT, names)}
            found[path] = _from_torch(key, np.asarray(state_dict[key]), name, wanted)
    if rest := sorted(set(state_dict) - used):
        raise ValueError(f"the model must have a place for all of state_dict, got {rest} without")
    return _rebuilt(model, found)


def to_torch_state(
    model: Any, names: Callable[[str], str] | None = None
) -> dict[str, np.ndarray[Any, Any]]:
    """Brings the weights of a Flax model to PyTorch: the inverse of :func:`from_torch_state`.

    Args:
        model: an NNX module, or the variables of a Linen module.
        names: as for :func:`from_torch_state`.

    Returns:
        NumPy arrays, for ``load_state_dict`` after ``torch.from_numpy`` on each.

    Raises:
        ValueError: two arrays have one name.

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
            _torch_name(layer, name, names): (name, held) for name, (_, held) in arrays.items()
        }
        if "mean" in arrays:
            state_dict[_torch_name(layer, _COUNT, names)] = np.zeros((), np.int64)
        for key, (name, array) in named.items():
            if key in state_dict:
                raise ValueError(f"names must give each layer a name of its own, got {key!r} twice")
            state_dict[key] = np.ascontiguousarray(_to_torch(np.asarray(array), name))
    return state_dict


def _layers(model: Any) -> dict[Path, dict[str, tuple[Path, Any]]]:
    """The arrays of each layer: by their names, the path and what is held there."""
    layers: dict[Path, dict[str, tuple[Path, Any]]] = {}
    for path, array in _leaves(model):
        is_linen = not isinstance(model, nnx.Module)
        layer, name = path[int(is_linen) : -1], path[-1]
        if name not in _NAMES:
            known = ", ".join(_NAMES)
            raise ValueError(f"the model must hold {known} alone, got {'/'.join(path)!r}")
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
            f"perhaps batch_stats, got {type(model).__name__}"
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


def _rebuilt(model: Any, arrays: dict[Path, Any]) -> Any:
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
