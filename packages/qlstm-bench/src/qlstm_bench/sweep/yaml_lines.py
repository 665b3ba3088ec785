"""A YAML file that remembers on which line each of its values stands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from qlstm_bench import bounded_yaml

Path = tuple[str | int, ...]
"""Keys and indices that lead to a value, as in ``("grid", "quantizer", 0)``."""


@dataclass(frozen=True)
class Document:
    """The value of a YAML text, and where its parts stand.

    Args:
        name: name of the file, for messages.
        value: dicts, lists and scalars.
        lines: line of each part, counted from 1.
    """

    name: str
    value: Any
    lines: dict[Path, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, name: str) -> Document:
        """Return the document of a text.

        Raises:
            ConfigError: not YAML, or beyond what :mod:`qlstm_bench.bounded_yaml` reads.
        """
        node, value = bounded_yaml.parse(text, name)
        return cls(name, value, {} if node is None else dict(_lines(node, ())))

    def where(self, path: Path) -> str:
        """Return the file and the line of a part, or of the nearest part around it that has one."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.lines:
                return f"{self.name}, line {self.lines[path[:length]]}"
        return self.name


def _lines(node: yaml.Node, path: Path) -> Iterator[tuple[Path, int]]:
    """Yield the line of every part; a mapping's part stands where its key does."""
    yield path, node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _lines(item, (*path, index))
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _lines(value, (*path, key.value))
            yield (*path, key.value), key.start_mark.line + 1
