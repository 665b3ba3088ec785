"""Finds plugins, keeps the broken ones from harming the rest, and answers by name."""

from __future__ import annotations

import inspect
import itertools
import threading
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pluggy

from qlstm_core.interfaces import Normalizer, Quantizer
from qlstm_core.plugins import hookspecs
from qlstm_core.plugins.catalogue import Catalogue, Offer
from qlstm_core.plugins.discovery import load_plugins, normalize, unknown_disabled
from qlstm_core.plugins.errors import PluginError, PluginWarning, blame, suggest
from qlstm_core.plugins.hook_results import HookResultError, check_entries, check_names
from qlstm_core.plugins.markers import PROJECT
from qlstm_core.plugins.plugin_state import Plugin, PluginRecord
from qlstm_core.plugins.specs import API_VERSION, NormalizerSpec, QuantizerSpec, Spec

S = TypeVar("S", bound=Spec)
E = TypeVar("E")


class Registry:
    """The plugins of one process, loaded at the first look-up.

    A plugin that cannot be imported, that pluggy refuses, or whose hook raises or returns something else than
    specs is recorded as failed with its reason and warned of once (:class:`PluginWarning`); everything else
    works. Each hook of each plugin is called once. Look-ups may come from several threads.

    Args:
        discover: whether to load the entry points of group ``qlstm``, or only what :meth:`register` is given.
    """

    manager: pluggy.PluginManager
    """The pluggy manager behind; complete only after a look-up."""
    quantizers: Catalogue[QuantizerSpec]
    """Quantizers by name."""
    normalizers: Catalogue[NormalizerSpec]
    """Normalisers by name."""

    def __init__(self, *, discover: bool = True) -> None:
        self.manager = pluggy.PluginManager(PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self._lock = threading.RLock()
        self._depth = 0
        self._notices: list[str] = []
        self._loading = False
        self._loaded = not discover
        self._plugins: dict[str, Plugin] = {}
        self._catalogues: dict[str, tuple[type[Spec], Catalogue[Any]]] = {}
        self._collections: dict[str, type[Any]] = {}
        self.quantizers = self.catalogue("qlstm_quantizers", QuantizerSpec, "quantizer", product=Quantizer)
        self.normalizers = self.catalogue(
            "qlstm_normalizers", NormalizerSpec, "normalizer", product=Normalizer
        )

    def catalogue(
        self,
        hook: str,
        spec_type: type[S],
        kind: str,
        *,
        product: type = object,
        arguments: Collection[str] = (),
    ) -> Catalogue[S]:
        """Return the catalogue of what ``hook`` gives, making it the first time.

        A package that adds a hook calls this from its ``qlstm_addhooks``; ``qlstm plugins`` then shows it::

            registry.manager.add_hookspecs(hookspecs)
            registry.catalogue("qlstm_tasks", TaskSpec, "task")

        Args:
            hook: name of a hook that takes nothing and returns an iterable of specs.
            spec_type: the class of these specs.
            kind: what one is called, in the singular.
            product: the type that their factories return.
            arguments: the parameters of these factories that are no options, given by whoever builds one.

        Raises:
            ValueError: the hook has a catalogue of another type or kind already.
        """
        with self._lock:
            if hook not in self._catalogues:
                made: Catalogue[S] = Catalogue(kind, product, lambda: self._offers(hook), arguments)
                self._catalogues[hook] = (spec_type, made)
            known_type, known = self._catalogues[hook]
        if (known_type, known.kind) != (spec_type, kind):
            raise ValueError(
                f"hook {hook!r} has a catalogue of {known_type.__name__} called {known.kind!r} already, "
                f"asked for {spec_type.__name__} called {kind!r}"
            )
        return known

    def collection(self, hook: str, entry_type: type[E]) -> Callable[[], list[tuple[str, E]]]:
        """Return a function that returns what ``hook`` gives: entries without names, as facts are.

        A package that adds such a hook calls this from its ``qlstm_addhooks``, as it does :meth:`catalogue`.
        The function returns pairs of a plugin's title, its distribution and version, and an entry.

        Args:
            hook: name of a hook that takes nothing and returns an iterable of entries.
            entry_type: the class of these entries.

        Raises:
            ValueError: the hook has a collection of another type already.
        """
        with self._lock:
            known = self._collections.setdefault(hook, entry_type)
        if known is not entry_type:
            raise ValueError(
                f"hook {hook!r} has a collection of {known.__name__} already, asked for {entry_type.__name__}"
            )

        def given() -> list[tuple[str, E]]:
            with self._session():
                self._collect(hook)
                plugins = list(self._plugins.values())
                return [(plugin.title, entry) for plugin in plugins for entry in plugin.specs.get(hook, ())]

        return given

    def register(self, plugin: object, name: str | None = None) -> None:
        """Register a module or object with hook implementations, as a test or a notebook does.

        Args:
            plugin: anything with functions marked ``@hookimpl``; a notebook's own are in
                ``sys.modules["__main__"]``.
            name: ``distribution:entry-point`` or just ``distribution``; default: the module's or type's name.

        Raises:
            PluginError: the name or the plugin is registered already, or pluggy refuses it.
        """
        name = name or str(getattr(plugin, "__name__", type(plugin).__name__))
        entry = Plugin(name, name.partition(":")[0], str(getattr(plugin, "__version__", "")), instance=plugin)
        with self._session():
            if name in self._plugins:
                raise PluginError(
                    f"a plugin called {name!r} is registered already; unregister it, or give a name"
                )
            try:
                self._add(entry)
            except BaseException as error:
                raise PluginError(f"plugin {name!r} cannot be registered: {blame(error)}") from error
            self._plugins[name] = entry

    def unregister(self, name: str) -> None:
        """Forget the plugin called ``name``, with all that it provides.

        Raises:
            PluginError: no such plugin; names the nearest.
        """
        with self._session():
            if name not in self._plugins:
                raise PluginError(f"no plugin is called {name!r}{suggest(name, self._plugins)}")
            if self._plugins.pop(name).registered:
                self.manager.unregister(name=name)

    def plugins(self) -> list[PluginRecord]:
        """Return what became of every plugin, by name; calls hooks that were not called yet."""
        with self._session():
            for hook in [*self._catalogues, *self._collections]:
                self._collect(hook)
            return [self._record(plugin) for _, plugin in sorted(self._plugins.items())]

    def notify(self, hook: str, **arguments: object) -> None:
        """Call ``hook`` of every plugin that implements it, for what it does and not for what it returns.

        A plugin that raises is recorded as failed, warned of once, and its ``hook`` is not called again.

        Args:
            hook: a hook with a specification, for example ``"qlstm_run_started"``.
            arguments: the hook's arguments.
        """
        with self._session():
            plugins = [
                p for p in self._plugins.values() if self._implements(p, hook) and hook not in p.silenced
            ]
        for plugin in plugins:
            try:
                self._call(plugin, hook, **arguments)
            except BaseException as error:
                reason = f"{hook} raised {blame(error)}"
                with self._session():
                    plugin.silenced.add(hook)
                    plugin.mark("failed", reason)

    @contextmanager
    def _session(self) -> Iterator[None]:
        """Hold the lock with the entry points loaded; warn last, as a filter may make that an error."""
        with self._lock:
            self._depth += 1
            try:
                self._load()
                yield
            finally:
                self._depth -= 1
            due = self._take_warnings() if self._depth == 0 else []
        for message in due:
            warnings.warn(message, PluginWarning)

    def _take_warnings(self) -> list[str]:
        due, self._notices = self._notices, []
        for plugin in self._plugins.values():
            if plugin.status in ("failed", "incompatible") and not plugin.warned:
                plugin.warned = True
                due.append(f"{plugin.status} plugin {plugin.name!r} of {plugin.title}: {plugin.reasons[0]}")
        return due

    def _load(self) -> None:
        if self._loaded or self._loading:  # loading: a plugin looks a name up while it is imported
            return
        self._loading = True
        try:
            plugins = load_plugins(
                PROJECT
            )  # takes long: where it is interrupted, the next look-up starts again
        finally:
            self._loading = False
        self._loaded = True
        self._plugins = {plugin.name: plugin for plugin in plugins} | self._plugins
        self._notices = unknown_disabled(self._plugins)
        # Those that add hooks first: pluggy then checks every implementation against its specification.
        for plugin in sorted(plugins, key=lambda plugin: not _adds_hooks(plugin)):
            if plugin.status != "active":
                continue
            if any(other.instance is plugin.instance for other in self._plugins.values() if other.registered):
                del self._plugins[plugin.name]  # found twice, or it registered itself: one plugin
                continue
            try:
                self._add(plugin)
            except BaseException as error:
                plugin.mark("failed", f"cannot be registered: {blame(error)}")

    def _add(self, plugin: Plugin) -> None:
        """Give a plugin to pluggy and let it add hooks; where that raises, leave nothing behind."""
        hash(plugin.instance)  # pluggy keeps plugins in sets: an unhashable one would break all others' calls
        if plugin.instance is None:
            raise TypeError("None is not a plugin")
        if plugin.instance == object():  # it compares them, too
            raise TypeError("it claims to equal anything")
        if self.manager.is_registered(plugin.instance):
            raise ValueError(f"it is registered already, as {self.manager.get_name(plugin.instance)!r}")
        try:
            self.manager.register(plugin.instance, name=plugin.name)
            plugin.registered = True
            if self._implements(plugin, "qlstm_addhooks"):
                self._call(plugin, "qlstm_addhooks", registry=self)
        except BaseException:
            plugin.registered = False
            if self.manager.has_plugin(plugin.name):  # some versions of pluggy stop half-way
                self.manager.unregister(name=plugin.name)
            raise

    def _implements(self, plugin: Plugin, hook: str) -> bool:
        caller = getattr(self.manager.hook, hook, None)
        return plugin.registered and caller is not None and caller in self._callers(plugin)

    def _callers(self, plugin: Plugin) -> list[pluggy.HookCaller]:
        return (self.manager.get_hookcallers(plugin.instance) or []) if plugin.registered else []

    def _call(self, plugin: Plugin, hook: str, **arguments: object) -> list[Any]:
        """Call one plugin's implementation alone, so that its failure is its own."""
        others = [other for other in self.manager.get_plugins() if other is not plugin.instance]
        results: list[Any] = self.manager.subset_hook_caller(hook, others)(**arguments)
        return results

    def _offers(self, hook: str) -> list[Offer[Any]]:
        with self._session():
            self._collect(hook)
            return [
                Offer(
                    plugin.distribution,
                    plugin.title,
                    plugin.status if plugin.status != "active" else "; ".join(self._mistakes(plugin)),
                    plugin.specs.get(hook, ()),
                    plugin.left_out.get(hook, ()),
                )
                for plugin in self._plugins.values()
            ]

    def _collect(self, hook: str) -> None:
        """Call ``hook`` of every plugin that has not been asked yet."""
        named = hook in self._catalogues
        entry_type = self._catalogues[hook][0] if named else self._collections[hook]
        for plugin in list(self._plugins.values()):
            if hook in plugin.specs:
                continue
            plugin.specs[hook] = ()  # what a look-up from inside the hook sees
            if not self._implements(plugin, hook):
                continue
            try:
                entries = check_entries(self._call(plugin, hook), entry_type)
                if named:
                    own = normalize(plugin.distribution)
                    check_names(entries, self._given_by(own, hook), core=own == "qlstm-core")
            except HookResultError as error:
                plugin.mark("failed", f"{hook} gave {error}")
            except KeyboardInterrupt:  # the next look-up asks again
                del plugin.specs[hook]
                raise
            except BaseException as error:
                plugin.mark("failed", f"{hook} raised {blame(error)}")
            else:
                fits = [not named or entry.api_version == API_VERSION for entry in entries]
                plugin.specs[hook] = tuple(itertools.compress(entries, fits))
                plugin.left_out[hook] = tuple(
                    entry for entry, fit in zip(entries, fits, strict=True) if not fit
                )
                for spec in plugin.left_out[hook]:
                    needs = f"{spec.name!r} needs version {spec.api_version} of the plugin interface"
                    plugin.mark("incompatible", f"{needs}, this qlstm-core speaks version {API_VERSION}")

    def _given_by(self, distribution: str, hook: str) -> list[Any]:
        plugins = [p for p in self._plugins.values() if normalize(p.distribution) == distribution]
        return [spec for plugin in plugins for spec in plugin.specs.get(hook, ())]

    def _mistakes(self, plugin: Plugin) -> list[str]:
        """Return what looks wrong in a plugin that works; a hook unknown here may be another package's."""
        callers = self._callers(plugin)
        if plugin.registered and not callers:
            return ["it implements no hook: is @hookimpl missing?"]
        known = sorted(name for name, caller in vars(self.manager.hook).items() if caller.has_spec())
        return [
            f"it implements {caller.name!r}, which no installed package calls"
            f"{suggest(caller.name, known, most=1)}"
            for caller in callers
            if not caller.has_spec()
            and any(i.plugin is plugin.instance and not i.optionalhook for i in caller.get_hookimpls())
        ]

    def _record(self, plugin: Plugin) -> PluginRecord:
        provides = {
            catalogue.kind: tuple(sorted(spec.name for spec in plugin.specs[hook]))
            for hook, (_, catalogue) in self._catalogues.items()
            if plugin.specs.get(hook)
        }
        hooks = {caller.name for caller in self._callers(plugin) if caller.has_spec()}
        if others := hooks - {*self._catalogues, "qlstm_addhooks"}:
            provides["hook"] = tuple(sorted(others))
        reason = "; ".join([*plugin.reasons, *self._mistakes(plugin)])
        return PluginRecord(plugin.name, plugin.distribution, plugin.version, plugin.status, reason, provides)


def _adds_hooks(plugin: Plugin) -> bool:
    return (
        inspect.getattr_static(plugin.instance, "qlstm_addhooks", None) is not None
    )  # runs none of its code


registry = Registry()
"""The plugins of this process."""
