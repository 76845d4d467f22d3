"""What configurations call by a name: families of models, and heads."""

import importlib
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from yt8m.common.config import Section

Kind = TypeVar("Kind")
Registered = TypeVar("Registered")


class NameTakenError(Exception):
    """Two classes of a kind under the same name."""


class Entry(NamedTuple, Generic[Kind]):
    """A class, and the keys that it has in configurations."""

    cls: type[Kind]
    config: type[Section]


class Registry(dict[str, Entry[Kind]]):
    """Classes of a kind by their names in configurations."""

    def register(self, name: str, config: type[Section]) -> Callable[[type[Registered]], type[Registered]]:
        """Decorates a class that a configuration is to call `name`, its keys being those of `config`.

        Raises `NameTakenError` for a name that another class has.
        """

        def add(cls: type[Registered]) -> type[Registered]:
            known = self.get(name)
            if known is not None and _path(known.cls) != _path(cls):  # else its module is imported anew
                raise NameTakenError(f"{_path(cls)} is called {name!r}, as is {_path(known.cls)}; give it another name")
            self[name] = Entry(cls, config)  # type: ignore[arg-type]
            return cls

        return add


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def import_module(name: str) -> None:
    """Have a module register what it has.

    Raises `ModuleNotFoundError` where there is none of this name, and for a mistake in it `ImportError` or what it
    raises itself, but never a `ValueError`, which would pass for one of the configuration.
    """
    try:
        importlib.import_module(name)
    except (ValueError, AssertionError) as error:
        raise ImportError(f"module {name}: {error}") from error
