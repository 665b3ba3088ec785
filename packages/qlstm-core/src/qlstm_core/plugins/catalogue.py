"""Names to specs: look-up, conflicts between plugins, and building a thing from its text form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from qlstm_core.plugins.discovery import normalize
from qlstm_core.plugins.errors import (
    AmbiguousNameError,
    OptionError,
    PluginError,
    UnknownNameError,
    blame,
    message_of,
    suggest,
)
from qlstm_core.plugins.options import format_options, option_parameters, parse_options, split_options
from qlstm_core.plugins.specs import API_VERSION, Spec

S = TypeVar("S", bound=Spec)


@dataclass(frozen=True)
class Offer(Generic[S]):
    """What one plugin gives to one catalogue.

    Args:
        distribution: the name by which ``distribution/name`` finds it.
        title: distribution and version.
        trouble: why some or all of the plugin is missing; empty for a healthy one.
        specs: what can be used.
        left_out: what was written for another version of the interface.
    """

    distribution: str
    title: str
    trouble: str = ""
    specs: tuple[S, ...] = ()
    left_out: tuple[S, ...] = ()


class Catalogue(Generic[S]):
    """Everything of one kind that the installed plugins provide, by name.

    A name is a spec's name or alias, or ``distribution/name``, which tells two claimants of one name apart::

        registry.quantizers.names()                        # ['absmean', 'alternating', …]
        registry.quantizers.create("alternating:bits=2")   # a Quantizer
        registry.quantizers.get("qlstm-quant/bwn").summary

    Args:
        kind: what one entry is called, in the singular; used in messages.
        product: the type that a factory must return.
        offers: returns what every plugin gives; the registry's, which asks each plugin once.
        arguments: the parameters of a factory that are no options: whoever builds the thing gives them.
    """

    def __init__(
        self,
        kind: str,
        product: type,
        offers: Callable[[], list[Offer[S]]],
        arguments: Collection[str] = (),
    ) -> None:
        self.kind = kind
        self._product = product
        self._offers = offers
        self._arguments = arguments

    def get(self, name: str) -> S:
        """Return the spec called ``name``.

        Raises:
            UnknownNameError: no plugin provides it; lists the nearest names and those installed.
            AmbiguousNameError: several plugins claim it; lists them with their versions.
        """
        return self._find(name)[1]

    def names(self) -> list[str]:
        """Return every spec's name in alphabetical order; as ``distribution/name`` where several claim it."""
        return [name for name, _ in self._named()]

    def specs(self) -> list[S]:
        """Return every spec, in the order of :meth:`names`."""
        return [spec for _, spec in self._named()]

    def create(self, text: str) -> Any:
        """Build the thing that ``text`` describes.

        Args:
            text: ``"name"`` or ``"name:option=value,option=value"``.

        Raises:
            UnknownNameError, AmbiguousNameError: as :meth:`get`.
            OptionError: an option that the factory does not have, or a value that it does not accept.
            PluginError: a factory that cannot be imported, that fails, or that returns something else than it
                promised.
        """
        _, offer, spec, factory, options = self._resolve(text)
        try:
            built = factory(**options)
        except (TypeError, ValueError) as error:
            raise OptionError(f"{self.kind} {text!r}: {message_of(error)}") from error
        except BaseException as error:
            raise PluginError(
                f"{self.kind} {spec.name!r} of {offer.title}: its factory raised {blame(error)}"
            ) from error
        if not isinstance(built, self._product):
            raise PluginError(
                f"{self.kind} {spec.name!r} of {offer.title}: its factory returned {type(built).__name__}, "
                f"not {self._product.__name__}"
            )
        return built

    def factory(self, text: str) -> Callable[..., Any]:
        """Return what builds the thing that ``text`` describes, its options given and its arguments not.

        Raises:
            UnknownNameError, AmbiguousNameError: as :meth:`get`.
            OptionError: an option that the factory does not have, or a value of another type.
            PluginError: a factory that cannot be imported, or a class of another kind.
        """
        *_, factory, options = self._resolve(text)
        return partial(factory, **options) if options else factory

    def options(self, name: str) -> list[str]:
        """Return the names of the options of what is called ``name``.

        Raises:
            PluginError: as :meth:`factory`.
        """
        offer, spec = self._find(name)
        return list(option_parameters(self._load(offer, spec), self._arguments)[0])

    def canonical(self, text: str) -> str:
        """Return the one spelling of ``text``: no alias, options in alphabetical order, defaults left out.

        Raises:
            PluginError: as :meth:`create`, except for what only the factory itself would find.
        """
        name, _, _, factory, options = self._resolve(text)
        return name + format_options(factory, options, self._arguments)

    def _resolve(self, text: str) -> tuple[str, Offer[S], S, Callable[..., Any], dict[str, Any]]:
        if not isinstance(text, str):
            raise PluginError(f"{self.kind} must be a name, as text, got {text!r}")
        name, given = split_options(text)
        offer, spec = self._find(name)
        factory = self._load(offer, spec)
        try:
            options = parse_options(factory, given, f"{self.kind} {spec.name!r}", self._arguments)
        except OptionError:
            raise
        except BaseException as error:
            raise PluginError(
                f"{self.kind} {spec.name!r} of {offer.title}: its options cannot be read: {blame(error)}"
            ) from error
        canonical = next(known for known, candidate in self._named() if candidate is spec)
        return canonical, offer, spec, factory, options

    def _load(self, offer: Offer[S], spec: S) -> Callable[..., Any]:
        try:
            factory = spec.load()
        except BaseException as error:
            raise PluginError(
                f"{self.kind} {spec.name!r} of {offer.title} cannot be loaded from {spec.factory!r}: "
                f"{blame(error)}"
            ) from error
        if self._arguments and isinstance(factory, type) and not issubclass(factory, self._product):
            raise PluginError(
                f"{self.kind} {spec.name!r} of {offer.title}: its factory is the class {factory.__name__}, "
                f"which is no {self._product.__name__}"
            )
        return factory

    def _find(self, name: str) -> tuple[Offer[S], S]:
        offers = self._offers()
        distribution, slash, plain = name.rpartition("/")
        asked = [o for o in offers if not slash or normalize(o.distribution) == normalize(distribution)]
        matches = [(offer, spec) for offer in asked for spec in offer.specs if plain in spec.names]
        if len(matches) == 1:
            return matches[0]
        if matches:
            titles = " and ".join(offer.title for offer, _ in matches)
            spellings = " or ".join(repr(f"{offer.distribution}/{plain}") for offer, _ in matches)
            raise AmbiguousNameError(f"{self.kind} {name!r} is claimed by {titles}; write {spellings}")
        left_out = [(offer, spec) for offer in asked for spec in offer.left_out if plain in spec.names]
        if left_out:
            offer, spec = left_out[0]
            raise UnknownNameError(
                f"{self.kind} {name!r} of {offer.title} needs version {spec.api_version} of the plugin "
                f"interface, this qlstm-core speaks version {API_VERSION}: install matching versions"
            )
        raise UnknownNameError(self._unknown(name, offers))

    def _unknown(self, name: str, offers: list[Offer[S]]) -> str:
        prefixed = "/" in name
        known = {
            f"{offer.distribution}/{plain}" if prefixed else plain
            for offer in offers
            for spec in offer.specs
            for plain in spec.names
        }
        installed = ", ".join(self.names()) or "none"
        troubled = ", ".join(f"{offer.title} ({offer.trouble})" for offer in offers if offer.trouble)
        hint = f"; not available: {troubled}, see `qlstm plugins`" if troubled else ""
        return f"unknown {self.kind} {name!r}{suggest(name, sorted(known))}; installed: {installed}{hint}"

    def _named(self) -> list[tuple[str, S]]:
        pairs = [(offer, spec) for offer in self._offers() for spec in offer.specs]
        claims = Counter(name for _, spec in pairs for name in spec.names)
        named = [
            (spec.name if claims[spec.name] == 1 else f"{offer.distribution}/{spec.name}", spec)
            for offer, spec in pairs
        ]
        return sorted(named, key=lambda pair: pair[0])
