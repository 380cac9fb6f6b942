"""Applications: images of several components, each with routes, files, an environment and variables of its own. Pure.

In the image's tree the files of the component number N lie below `N/root`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wasmlet.images.filesystem import split

ROOT: Final = "root"
"""A component's directory of files, below that of its number."""

_TEMPLATE: Final = re.compile(r"\{\{\s*([A-Za-z0-9_-]+)\s*\}\}")
_PREFIXES: Final = ("SPIN_VARIABLE_", "")


@dataclass(frozen=True, slots=True)
class Part:
    """What an application says of one of its components.

    Attributes:
        routes: As the application writes them; there is one at least.
        environment: Pairs of name and value.
        variables: Pairs of a name and a template with `{{ variable }}` of the application in it.
        defaults: Of the application's variables; those without are not named.
    """

    name: str
    routes: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    defaults: tuple[tuple[str, str], ...] = ()

    def filled(self, given: Mapping[str, str]) -> Iterator[tuple[str, str, frozenset[str]]]:
        """Its variables: name, value, and the names in `given` that it was made from.

        The application's variable `color` is `SPIN_VARIABLE_COLOR` or `COLOR` in `given`, as Spin's shim has it, else
        its default. A template that nothing fills is left out.
        """
        defaults = dict(self.defaults)
        for name, template in self.variables:
            used, values = set[str](), dict[str, str]()
            for variable in _TEMPLATE.findall(template):
                places = [f"{prefix}{variable.upper()}" for prefix in _PREFIXES]
                place = next((each for each in places if each in given), None)
                if place is not None:
                    used.add(place)
                    values[variable] = given[place]
                elif variable in defaults:
                    values[variable] = defaults[variable]
            if all(variable in values for variable in _TEMPLATE.findall(template)):
                yield name, _TEMPLATE.sub(lambda found: values[found[1]], template), frozenset(used)  # noqa: B023


@dataclass(frozen=True, slots=True)
class Component:
    """A component that can be run.

    Attributes:
        digest: Of the module's bytes, the key of everything compiled from it.
        module: The file with them. Read only.
    """

    part: Part
    module: Path
    digest: str
    size_bytes: int


def place(number: int, path: str = "") -> str:
    """Where a component's file lies in the tree.

    Raises:
        UserError: The path climbs out of the component's directory, or is too long.
    """
    return "/".join((str(number), ROOT, *split(path)))
