"""YAML as settings need it, read distrustfully: whatever a file says costs little and is named in one line.

Of YAML there are text, numbers, truth values, null, lists and mappings, with anchors and merge keys. Dates,
sets, binary data and tags of any language are left out: no setting has use for them.
"""

from __future__ import annotations

import os
import reprlib
from pathlib import Path
from typing import Any

import yaml

from qlstm_bench.errors import ConfigError
from qlstm_bench.tables import shorten

MAX_BYTES = 256 * 1024
"""Size of a file."""
MAX_DEPTH = 20
"""Lists and mappings in one another, aliases followed."""
MAX_PARTS = 20_000
"""Values in a file, with aliases counted wherever they stand."""
MAX_DIGITS = 40
"""Characters of a number."""

_TAG = "tag:yaml.org,2002:"
_TEXT, _MERGE = f"{_TAG}str", f"{_TAG}merge"
_NUMBERS = (f"{_TAG}int", f"{_TAG}float")
_KNOWN = (_TEXT, *_NUMBERS, f"{_TAG}bool", f"{_TAG}null", f"{_TAG}seq", f"{_TAG}map")
_RESOLVED = (*_KNOWN, _MERGE)


def read_text(path: Path) -> str:
    """Return the text of a file.

    Raises:
        ConfigError: no ordinary file, too large for settings, or no UTF-8.
    """
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise ConfigError(f"{path}: cannot be read: not an ordinary file")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_BYTES // 1024} KiB: these are no settings")
        return content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ConfigError(f"{path}: cannot be read: {reason}") from error


def parse(text: str, name: str) -> tuple[yaml.Node | None, Any]:
    """Return the tree of a YAML text, with the marks of its lines, and its value.

    Args:
        text: one document, or nothing.
        name: name of the file, for messages.

    Raises:
        ConfigError: not YAML, beyond a bound, or a key that is given twice.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{name}: larger than {MAX_BYTES // 1024} KiB: these are no settings")
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None, None
            _Bounds().check(node)
            return node, loader.construct_document(node)
        finally:
            loader.dispose()
    except _Refusal as error:
        raise ConfigError(f"{name}, line {error.line}: {error.problem}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{name}{where}: not YAML: {shorten(' '.join(reason.split()))}") from error


class _Short(reprlib.Repr):
    """``repr`` that costs little and stays short, whatever the value is."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, 80, 80


short_repr = _Short().repr
"""``repr`` of a value from a file, for messages: of long ones, the beginning and the end."""


class _Refusal(yaml.MarkedYAMLError):
    """YAML that is right, but beyond what is allowed here."""

    def __init__(self, problem: str, mark: yaml.Mark) -> None:
        super().__init__(problem=problem, problem_mark=mark)
        self.line = mark.line + 1


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without the types that settings have no use for, and with a bound on depth."""

    yaml_constructors = {  # noqa: RUF012 (PyYAML's own form)
        tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items() if tag is None or tag in _KNOWN
    }
    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in found if tag in _RESOLVED]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._parts = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node, and stop before they are many or the recursion is deep."""
        if parent is not None and self._depth == MAX_DEPTH:
            raise _too_deep(parent.start_mark)
        if parent is not None and self._parts == 2 * MAX_PARTS:  # keys are nodes, too
            raise _too_many(parent.start_mark)
        self._depth += 1
        self._parts += 1
        try:
            node: yaml.Node | None = super().compose_node(parent, index)
            return node
        finally:
            self._depth -= 1

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Construct a value; a scalar that is not of the type that its tag says has a line like all else."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, ArithmeticError, TypeError) as error:
            kind = node.tag.removeprefix(_TAG)
            raise _Refusal(f"{short_repr(node.value)} is no {kind}", node.start_mark) from error


class _Bounds:
    """Counts what a tree amounts to with its aliases followed, each node once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, int] | None] = {}

    def check(self, node: yaml.Node) -> tuple[int, int]:
        """Return how many parts a node has and how deep they go; an alias comes after what it stands for.

        Raises:
            _Refusal: more than is allowed, a node in itself, or a key that is no name or is given twice.
        """
        if id(node) in self._known:
            known = self._known[id(node)]
            if known is None:
                raise _Refusal("an alias stands inside what it stands for", node.start_mark)
            return known
        self._known[id(node)] = None
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
        elif isinstance(node, yaml.ScalarNode) and node.tag in _NUMBERS and len(node.value) > MAX_DIGITS:
            raise _Refusal(
                f"a number of {len(node.value)} characters; at most {MAX_DIGITS} are read", node.start_mark
            )
        below = [self.check(child) for child in _children(node)]
        parts = 1 + sum(count for count, _ in below)
        depth = 1 + max((deep for _, deep in below), default=0)
        if parts > MAX_PARTS:
            raise _too_many(node.start_mark)
        if depth > MAX_DEPTH:
            raise _too_deep(node.start_mark)
        self._known[id(node)] = parts, depth
        return parts, depth


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    return [value for _, value in node.value] if isinstance(node, yaml.MappingNode) else []


def _check_keys(node: yaml.MappingNode) -> None:
    seen: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.tag not in (_TEXT, _MERGE):
            text = short_repr(key.value) if isinstance(key, yaml.ScalarNode) else "a list or mapping"
            raise _Refusal(f"expected a name before ':', got {text}; quotes make one of it", key.start_mark)
        if key.value in seen:
            raise _Refusal(
                f"{short_repr(key.value)} is given twice, first on line {seen[key.value]}", key.start_mark
            )
        seen[key.value] = line


def _too_many(mark: yaml.Mark) -> _Refusal:
    return _Refusal(f"more than {MAX_PARTS:,} values, with aliases counted wherever they stand", mark)


def _too_deep(mark: yaml.Mark) -> _Refusal:
    return _Refusal(f"lists and mappings stand more than {MAX_DEPTH} deep in one another", mark)
