"""What a plugin's hooks return: small frozen records that check themselves."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

API_VERSION = 1
"""The version of the plugin interface that this qlstm-core speaks."""

_NAME = re.compile(r"[a-z][a-z0-9-]*")


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One thing that a plugin provides, under a name.

    Args:
        name: what users type; matches ``[a-z][a-z0-9-]*``.
        summary: one line that says what it is.
        factory: a callable that builds it from keyword options, or a lazy ``"package.module:Attribute"``,
            imported at first use so that listing plugins stays cheap.
        aliases: further names.
        references: where the method comes from, for example ``"Courbariaux et al. 2015, arXiv:1511.00363"``.
        api_version: the interface it was written for.

    Raises:
        ValueError, TypeError: a field that does not fit, naming it.
    """

    name: str
    summary: str
    factory: Callable[..., Any] | str
    aliases: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    api_version: int = API_VERSION

    def __post_init__(self) -> None:
        title = f"{type(self).__name__} {self.name!r}"
        for field, value in (("aliases", self.aliases), ("references", self.references)):
            if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
                raise TypeError(f"{title}: {field} must be a tuple of strings, got {value!r}")
            if not all(item.isprintable() for item in value):
                raise ValueError(f"{title}: {field} must be of one printable line each, got {value!r}")
        for name in self.names:
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise ValueError(f"{title}: name {name!r} must match [a-z][a-z0-9-]*")
        if not isinstance(self.summary, str) or not self.summary or not self.summary.isprintable():
            raise ValueError(f"{title}: summary must be one non-empty printable line, got {self.summary!r}")
        if not isinstance(self.api_version, int):
            raise TypeError(f"{title}: api_version must be an int, got {self.api_version!r}")
        if isinstance(self.factory, str):
            if not re.fullmatch(r"[\w.]+:\w+", self.factory):
                raise ValueError(
                    f"{title}: factory {self.factory!r} must be callable or 'package.module:Attribute'"
                )
        elif not callable(self.factory):
            raise TypeError(
                f"{title}: factory must be callable or 'package.module:Attribute', got {self.factory!r}"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The name and the aliases."""
        return (self.name, *self.aliases)

    def load(self) -> Callable[..., Any]:
        """Return the factory, importing it first where it is lazy."""
        if not isinstance(self.factory, str):
            return self.factory
        module, attribute = self.factory.split(":")
        factory = getattr(import_module(module), attribute)
        if not callable(factory):
            raise TypeError(f"{type(self).__name__} {self.name!r}: {self.factory!r} is not callable")
        return factory  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class QuantizerSpec(Spec):
    """A weight quantizer; ``factory(**options)`` returns a :class:`qlstm_core.Quantizer`."""


@dataclass(frozen=True, kw_only=True)
class NormalizerSpec(Spec):
    """A normaliser; ``factory(**options)`` returns a :class:`qlstm_core.Normalizer`."""


@dataclass(frozen=True, kw_only=True)
class CellSpec(Spec):
    """A family of recurrent layers; its factory is a subclass of :class:`qlstm_core.RecurrentLayer`.

    Or it is a function that returns a layer, called like one: ``factory(input_size, hidden_size, …,
    quantizer=…, **options)``. Options are what the constructor takes besides the arguments of RecurrentLayer,
    as ``rank`` of :class:`qlstm_core.FactorizedLSTM`.
    """


@dataclass(frozen=True, kw_only=True)
class KernelSpec(Spec):
    """A kernel for packed inference; ``factory()`` returns a :class:`qlstm_core.packed.Kernel`.

    Args:
        supported: says whether this host can run it; asked before the factory is loaded.
        priority: of the supported kernels the highest is taken; ``portable`` has 0, ``avx2`` 10,
            ``avx512`` 20.
    """

    supported: Callable[[], bool]
    priority: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.supported):
            raise TypeError(f"KernelSpec {self.name!r}: supported must be callable, got {self.supported!r}")
        if not isinstance(self.priority, int):
            raise TypeError(f"KernelSpec {self.name!r}: priority must be an int, got {self.priority!r}")
