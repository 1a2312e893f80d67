"""Reads the docstrings for the API reference: an extension of griffe, for ``mkdocs.yml``.

The docstrings are written for ``help`` and for Sphinx's roles. Griffe parses Google style, shows
Markdown, and sees no signature where a constructor is made at run time.
"""

import ast
import re
from typing import Any

import griffe

_ARGUMENTS = "layer._arguments.Arguments"
_LAYERS = {"GroupedConv1D": "'BSC'", "GroupedConv2D": "'BSSC'", "GroupedConv3D": "'BSSSC'"}
_ROLE = re.compile(r":(?:func|class|meth|mod):`([\w.]+)`")
_KINDS = {
    "": griffe.ParameterKind.positional_or_keyword,
    "*": griffe.ParameterKind.var_positional,
    "**": griffe.ParameterKind.var_keyword,
}


class Docstrings(griffe.Extension):
    """Brings docstrings and signatures into the form that mkdocstrings shows."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Rewrites the whole package, once it is read."""
        public = _public_names(pkg)
        for item in _objects(pkg):
            if item.docstring:
                item.docstring.value = _markdown(item.docstring.value, item, public)
        _show_layers(pkg)
        _show_properties(pkg["matlab"])


def _show_layers(pkg: griffe.Module) -> None:
    """Gives the Flax layers their signatures."""
    fields = list(pkg[_ARGUMENTS].attributes.values())
    for interface in ("linen", "nnx"):
        for name, data_format in _LAYERS.items():
            layer = pkg[f"{interface}._grouped_conv.{name}"]
            _set_signature(layer, _layer_parameters(interface, fields, data_format))


def _show_properties(module: griffe.Module) -> None:
    """Gives MATLAB's classes their signatures, and their properties their docstrings."""
    for item in _objects(module):
        if isinstance(item, griffe.Class) and item.docstring and "__init__" not in item.members:
            _set_signature(item, _documented_parameters(item.docstring.value))
        if isinstance(item, griffe.Attribute) and _is_property(item.value):
            text, *_ = item.value.arguments
            item.docstring = griffe.Docstring(ast.literal_eval(str(text)), parent=item)
            item.value = None


def _is_property(value: Any) -> bool:
    """Whether an attribute is made by ``Property("its documentation", ...)``."""
    return isinstance(value, griffe.ExprCall) and str(value.function) == "Property"


def _objects(item: Any) -> Any:
    """An object and all that it holds, but for what it imports."""
    yield item
    for member in item.members.values():
        if not member.is_alias:
            yield from _objects(member)


def _public_names(pkg: griffe.Module) -> dict[str, str]:
    """The public path of each public object, by the path of its definition."""
    modules = [pkg, *(module for module in pkg.modules.values() if module.exports)]
    return {
        module.members[name].canonical_path: f"{module.path}.{name}"
        for module in reversed(modules)
        for name in (str(export) for export in module.exports or ())
    }


def _markdown(text: str, item: Any, public: dict[str, str]) -> str:
    """A docstring with Markdown's links and code, and a section of examples."""

    def link(match: re.Match[str]) -> str:
        name = match.group(1)
        target = _public_path(name, item, public)
        shown = name.removeprefix("grouped_conv_jax.")
        return f"[`{shown}`][{target}]" if target else f"`{shown}`"

    text = re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.MULTILINE)
    return re.sub(r"::$", ":", _ROLE.sub(link, text), flags=re.MULTILINE)


def _public_path(name: str, item: Any, public: dict[str, str]) -> str | None:
    """Where the reference shows what a docstring calls ``name``."""
    if name.startswith("grouped_conv_jax."):
        return name
    holder = item if item.is_class else item.parent
    while holder is not None:
        if name in holder.members:
            found = holder.members[name]
            path = found.canonical_path
            if found.parent is not None and found.parent.is_class:
                owner = public.get(found.parent.canonical_path)
                return f"{owner}.{name}" if owner else None
            return public.get(path)
        holder = holder.parent
    return None


def _set_signature(layer: griffe.Class, parameters: list[griffe.Parameter]) -> None:
    this = griffe.Parameter("self", kind=_KINDS[""])
    construct = griffe.Function("__init__", parameters=griffe.Parameters(this, *parameters))
    layer.set_member("__init__", construct)


def _layer_parameters(
    interface: str, fields: list[griffe.Attribute], data_format: str
) -> list[griffe.Parameter]:
    """The arguments of a layer, with ``num_channels`` and ``rngs`` around them in NNX."""
    shared = [
        griffe.Parameter(
            field.name,
            annotation=field.annotation,
            kind=_KINDS[""],
            default=data_format if field.name == "data_format" else field.value,
        )
        for field in fields
    ]
    if interface == "linen":
        name = griffe.Parameter("name", annotation="str | None", kind=_KINDS[""], default="None")
        return [*shared, name]
    rngs = griffe.ParameterKind.keyword_only
    return [
        griffe.Parameter("num_channels", annotation="int", kind=_KINDS[""]),
        *shared,
        griffe.Parameter("rngs", annotation="nnx.Rngs", kind=rngs),
    ]


def _documented_parameters(docstring: str) -> list[griffe.Parameter]:
    """The arguments that a docstring lists."""
    listed = re.search(r"^Args:\n((?: .*\n|\n)+)", docstring, re.MULTILINE)
    names = re.findall(r"^    (\*{0,2})(\w+):", listed.group(1), re.MULTILINE) if listed else []
    return [griffe.Parameter(name, annotation="Any", kind=_KINDS[stars]) for stars, name in names]
