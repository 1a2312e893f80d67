"""Objects with MATLAB-style properties.

A class declares its properties once, as `Property` attributes. The constructor's signature, the
checks, the defaults and the display follow from these declarations.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, TypeAlias

from grouped_conv_jax import _checks
from grouped_conv_jax.matlab._display import format_value

Check: TypeAlias = Callable[[str, Any], Any]
"""Takes a property's name and a value; returns the value to store, or raises if it is invalid."""

REQUIRED = object()


def as_given(name: str, value: Any) -> Any:
    """Returns the value unchanged; another place checks it."""
    del name
    return value


class Property:
    """Descriptor of a property.

    Args:
        doc: one-line docstring.
        check: converts a value to its stored form, or raises.
        default: the default value.
        read_only: whether assignment raises.
        follows: the property that this one is derived from; assignment sets that property.
    """

    name: str

    def __init__(
        self,
        doc: str,
        check: Check = as_given,
        default: Any = REQUIRED,
        *,
        read_only: bool = False,
        follows: str = "",
    ) -> None:
        self.__doc__ = doc
        self.check = check
        self.default = default
        self.read_only = read_only
        self.follows = follows

    @property
    def is_argument(self) -> bool:
        """Whether the constructor accepts the property."""
        return not self.read_only and not self.follows

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: "HasProperties | None", owner: type) -> Any:
        return self if instance is None else instance._values[self.name]

    def __set__(self, instance: "HasProperties", value: Any) -> None:
        if self.read_only:
            raise AttributeError(f"{self.name} is read-only, got {self.name}={value!r}")
        instance._set({self.follows or self.name: self.check(self.name, value)})


class HasProperties:
    """Base of classes that declare `Property` attributes.

    Names are case-insensitive in the constructor and in attribute access.
    """

    _positional: ClassVar[tuple[str, ...]] = ()
    """The properties that the constructor accepts by position, in order."""

    _sections: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """The properties that the display shows, by section title."""

    _table: ClassVar[dict[str, Property]] = {}
    """All declared properties, by name."""

    _values: dict[str, Any]

    def __init_subclass__(cls) -> None:
        cls._table = {
            name: value
            for base in reversed(cls.__mro__)
            for name, value in vars(base).items()
            if isinstance(value, Property)
        }
        cls.__signature__ = cls._signature()  # type: ignore[attr-defined]

    def __init__(self, *arguments: Any, **properties: Any) -> None:
        given: dict[str, Any] = {}
        for name, value in [*self._by_position(arguments), *properties.items()]:
            real = self._argument_name(name, value)
            if real in given:
                raise TypeError(f"{real} must be given once, got {name}={value!r} too")
            given[real] = value
        defaults = {name: p.default for name, p in self._table.items() if not p.follows}
        missing = [name for name, default in defaults.items() if default is REQUIRED]
        missing = [name for name in missing if name not in given]
        if missing:
            raise TypeError(f"{type(self).__name__} needs {' and '.join(missing)}")
        vars(self)["_values"] = defaults
        self._set({name: self._table[name].check(name, value) for name, value in given.items()})

    def _resolve(self, values: dict[str, Any]) -> dict[str, Any]:
        """Checks the values against each other and adds the derived ones."""
        return values

    def _set(self, changes: Mapping[str, Any]) -> None:
        """Stores checked values, all or none."""
        vars(self)["_values"] = self._resolve({**self._values, **changes})

    def __getattr__(self, name: str) -> Any:
        found = self._table[declared_name(name, self._table, AttributeError)]
        return found.__get__(self, type(self))

    def __setattr__(self, name: str, value: Any) -> None:
        self._table[declared_name(name, self._table, AttributeError)].__set__(self, value)

    def __repr__(self) -> str:
        width = 4 + max(len(name) for names in self._sections.values() for name in names)
        lines = [f"  {type(self).__name__} with properties:", ""]
        for title, names in self._sections.items():
            lines += [f"   {title}"] if title else []
            lines += [f"{name:>{width}}: {format_value(getattr(self, name))}" for name in names]
            lines += [""]
        return "\n".join(lines[:-1])

    @classmethod
    def _by_position(cls, arguments: tuple[Any, ...]) -> list[tuple[Any, Any]]:
        """Names the positional arguments and splits the name-value pairs that follow them."""
        named: list[tuple[Any, Any]] = []
        for name, value in zip(cls._positional, arguments, strict=False):
            if isinstance(value, str) and cls._table[name].default is not REQUIRED:
                break
            named.append((name, value))
        pairs = arguments[len(named) :]
        if len(pairs) % 2:
            raise TypeError(f"properties must be pairs of a name and a value, got {pairs!r}")
        return named + list(zip(pairs[::2], pairs[1::2], strict=True))

    @classmethod
    def _argument_name(cls, name: Any, value: Any) -> str:
        """Returns the declared name of a constructor argument, or raises."""
        if not isinstance(name, str):
            raise TypeError(f"a property's name must be a string, got {name!r}")
        real = declared_name(name, cls._table, TypeError)
        found = cls._table[real]
        if found.follows:
            raise TypeError(f"{real} follows from {found.follows}, got {name}={value!r}")
        if found.read_only:
            raise TypeError(f"{real} is read-only, got {name}={value!r}")
        return real

    @classmethod
    def _signature(cls) -> inspect.Signature:
        """Builds the signature that ``help`` and editors show."""

        def parameter(name: str, kind: Any) -> inspect.Parameter:
            default = cls._table[name].default
            shown_as = name[0].lower() + name[1:] if name in cls._positional else name
            return inspect.Parameter(
                shown_as, kind, default=inspect.Parameter.empty if default is REQUIRED else default
            )

        rest = [n for n, p in cls._table.items() if p.is_argument and n not in cls._positional]
        return inspect.Signature(
            [
                *(parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD) for n in cls._positional),
                inspect.Parameter("pairs", inspect.Parameter.VAR_POSITIONAL),
                *(parameter(n, inspect.Parameter.KEYWORD_ONLY) for n in rest),
            ]
        )


def declared_name(name: str, names: Iterable[str], error: type[Exception]) -> str:
    """Returns the element of ``names`` that equals ``name`` up to case."""
    for real in names:
        if real.lower() == name.lower():
            return real
    raise error(f"there is no property {name!r}{_checks.nearest(name, names)}")
