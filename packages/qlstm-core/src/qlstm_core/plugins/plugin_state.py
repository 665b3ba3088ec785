"""What became of one plugin: the record that users see, and the state behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from qlstm_core.printable import printable

Status = Literal["active", "disabled", "failed", "incompatible"]


@dataclass(frozen=True)
class PluginRecord:
    """What became of one plugin.

    Args:
        name: ``distribution:entry-point``, unique.
        distribution: the name under which it is installed.
        version: the distribution's version; empty for one registered by a program without ``__version__``.
        status: ``"active"``; ``"disabled"`` by ``QLSTM_DISABLE_PLUGINS``; ``"failed"``: it, or one of its
            hooks, does not work; ``"incompatible"``: it gives something for another version of the interface.
        reason: why it is not active, or what looks like a mistake in an active one; one line, often empty.
        provides: the names that work, by kind; ``"hook"`` lists those that give none, as around a run.
    """

    name: str
    distribution: str
    version: str
    status: Status
    reason: str = ""
    provides: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(eq=False)
class Plugin:
    """The registry's state of one plugin.

    Args:
        name, distribution, version, status: as in :class:`PluginRecord`.
        instance: the module or object with the hook implementations; None where it was not imported.
        reasons: one line each.
        registered: whether pluggy knows it.
        warned: whether users have been told that it does not work.
        specs: what each hook gave; a hook in here has been called.
        left_out: what each hook gave for another version of the interface.
        silenced: hooks that raised when they were notified.
    """

    name: str
    distribution: str
    version: str
    status: Status = "active"
    instance: object = None
    reasons: list[str] = field(default_factory=list)
    registered: bool = False
    warned: bool = False
    specs: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    left_out: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    silenced: set[str] = field(default_factory=set)

    @property
    def title(self) -> str:
        """Distribution and version, as messages name it."""
        return printable(f"{self.distribution} {self.version}".rstrip())

    def mark(self, status: Status, reason: str) -> None:
        """Set the status and note the reason, one printable line; a failed plugin stays failed."""
        self.status = "failed" if self.status == "failed" else status
        self.reasons.append(printable(reason))
