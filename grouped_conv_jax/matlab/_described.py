"""Objects with MATLAB's properties.

A class lists its properties once, as `Property` attributes. This table determines the constructor's
arguments and their order, the checks, the defaults and the display.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, TypeAlias

from grouped_conv_jax import _checks
from grouped_conv_jax.matlab._display import shown

Check: TypeAlias = Callable[[str, Any], Any]
"""From a property's name and a value to the value as it is kept; raises where it is wrong."""

REQUIRED = object()


def as_given(name: str, value: Any) -> Any:
    """Keeps a value that is checked elsewhere."""
    del name
    return value


class Property:
    """One property of a MATLAB object.

    Args:
        doc: one line for ``help``.
        check: brings a value into the form in which it is kept, or raises.
        default: the value where none is given.
        read_only: whether nobody can set it.
        follows: the property that decides the value of this one; setting this one sets that.
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
        """Whether the constructor takes it."""
        return not self.read_only and not self.follows

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, held_by: "Described | None", owner: type) -> Any:
        return self if held_by is None else held_by._values[self.name]

    def __set__(self, held_by: "Described", value: Any) -> None:
        if self.read_only:
            raise AttributeError(f"{self.name} is read-only, got {self.name}={value!r}")
        held_by._set({self.follows or self.name: self.check(self.name, value)})


class Described:
    """An object that has the properties in its class's table.

    The case of names does not matter, neither in the constructor, nor in reading and setting.
    """

    _positional: ClassVar[tuple[str, ...]] = ()
    """The properties that the constructor takes by position, in this order."""

    _sections: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """What the display shows, by the titles of its sections."""

    _table: ClassVar[dict[str, Property]] = {}

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
        """Checks the values against each other, and adds those that follow from them."""
        return values

    def _set(self, changes: Mapping[str, Any]) -> None:
        """Replaces checked values, all or none."""
        vars(self)["_values"] = self._resolve({**self._values, **changes})

    def __getattr__(self, name: str) -> Any:
        return self._table[real_name(name, self._table, AttributeError)].__get__(self, type(self))

    def __setattr__(self, name: str, value: Any) -> None:
        self._table[real_name(name, self._table, AttributeError)].__set__(self, value)

    def __repr__(self) -> str:
        width = 4 + max(len(name) for names in self._sections.values() for name in names)
        lines = [f"  {type(self).__name__} with properties:", ""]
        for title, names in self._sections.items():
            lines += [f"   {title}"] if title else []
            lines += [f"{name:>{width}}: {shown(getattr(self, name))}" for name in names]
            lines += [""]
        return "\n".join(lines[:-1])

    @classmethod
    def _by_position(cls, arguments: tuple[Any, ...]) -> list[tuple[Any, Any]]:
        """Names for the positional arguments, and the pairs of a name and a value after them."""
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
        """The name in the table of what the constructor is given."""
        if not isinstance(name, str):
            raise TypeError(f"a property's name must be a string, got {name!r}")
        real = real_name(name, cls._table, TypeError)
        found = cls._table[real]
        if found.follows:
            raise TypeError(f"{real} follows from {found.follows}, got {name}={value!r}")
        if found.read_only:
            raise TypeError(f"{real} is read-only, got {name}={value!r}")
        return real

    @classmethod
    def _signature(cls) -> inspect.Signature:
        """What ``help`` and editors show in the place of ``*arguments, **properties``."""

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


def real_name(name: str, names: Iterable[str], error: type[Exception]) -> str:
    """The one of ``names`` that ``name`` is in another case."""
    for real in names:
        if real.lower() == name.lower():
            return real
    raise error(f"there is no property {name!r}{_checks.nearest(name, names)}")
