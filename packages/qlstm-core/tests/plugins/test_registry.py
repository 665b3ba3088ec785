"""One broken plugin takes nothing else down, each hook is called once, a record tells what became of each."""

from __future__ import annotations

import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from fake_plugins import normalizer, plugin, quantizer, quantizer_plugin

from qlstm_core.plugins import (
    PluginError,
    PluginRecord,
    PluginWarning,
    QuantizerSpec,
    Registry,
    Spec,
    hookimpl,
    hookspec,
)
from qlstm_core.plugins import registry as process_registry
from qlstm_core.plugins.plugin_state import Plugin

MODULE = sys.modules[Registry.__module__]  # qlstm_core.plugins.registry is the object


@pytest.fixture
def empty() -> Registry:
    return Registry(discover=False)


def record(registry: Registry, name: str) -> PluginRecord:
    (found,) = [record for record in registry.plugins() if record.name == name]
    return found


def quiet_record(registry: Registry, name: str) -> PluginRecord:
    """The record of a plugin that is warned of on the way."""
    with pytest.warns(PluginWarning, match=name):
        return record(registry, name)


class Tasks:
    """Hooks that a further package adds."""

    @staticmethod
    @hookspec
    def qlstm_tasks() -> None:
        """Return tasks."""

    @staticmethod
    @hookspec
    def qlstm_run_logged(step: int) -> None:
        """Note a step."""


def bench() -> ModuleType:
    """A plugin that adds the hooks of ``Tasks``, as qlstm-bench does."""

    def qlstm_addhooks(registry: Registry) -> None:
        registry.manager.add_hookspecs(Tasks)
        registry.catalogue("qlstm_tasks", Spec, "task")

    return plugin(
        qlstm_addhooks=qlstm_addhooks, qlstm_tasks=lambda: [Spec(name="lm", summary="a task", factory=dict)]
    )


def test_nothing_is_loaded_before_the_first_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []

    def load_plugins(group: str) -> list[Plugin]:
        loads.append(group)
        return []

    monkeypatch.setattr(MODULE, "load_plugins", load_plugins)
    made = Registry()
    assert loads == []
    assert made.quantizers.names() == []
    assert made.normalizers.names() == []
    assert made.plugins() == []
    assert loads == ["qlstm"]


def test_core_registers_like_anyone_else() -> None:
    provides = record(process_registry, "qlstm-core:core").provides
    assert (provides["quantizer"], provides["normalizer"]) == (("none",), ("none",))
    assert type(process_registry.quantizers.create("none")).__name__ == "NoQuantizer"
    assert type(process_registry.normalizers.create("qlstm-core/none")).__name__ == "NoNormalizer"


def test_each_hook_is_called_once(empty: Registry) -> None:
    calls = []

    def qlstm_quantizers() -> Iterator[QuantizerSpec]:
        calls.append("quantizers")
        yield quantizer("sign")

    empty.register(plugin(qlstm_quantizers=qlstm_quantizers), "p")
    assert calls == [], "not before it is asked for"
    for _ in range(3):
        assert empty.quantizers.names() == ["sign"]
        empty.quantizers.create("sign")
        empty.plugins()
    assert calls == ["quantizers"]


def broken_generator() -> Iterator[QuantizerSpec]:
    yield quantizer("lost")
    raise RuntimeError("half-way\nthrough")


def leave() -> None:
    raise SystemExit(3)


def stop_half_way() -> Iterator[QuantizerSpec]:
    yield quantizer("lost")
    raise GeneratorExit


class Pretender(QuantizerSpec):
    """A spec that was never initialised."""

    def __init__(self) -> None:
        pass


@pytest.mark.parametrize(
    ("hook", "reason"),
    [
        (lambda: None, "qlstm_quantizers gave None, not an iterable of QuantizerSpec"),
        (lambda: 3, "qlstm_quantizers gave int, not an iterable of QuantizerSpec"),
        (lambda: quantizer("x"), "qlstm_quantizers gave QuantizerSpec, not an iterable of QuantizerSpec"),
        (lambda: "sign", "qlstm_quantizers gave str in place of QuantizerSpec"),
        (
            lambda: [quantizer("x"), normalizer("y")],
            "qlstm_quantizers gave NormalizerSpec in place of QuantizerSpec",
        ),
        (lambda: [quantizer("x"), quantizer("x")], "qlstm_quantizers gave a name twice: 'x'"),
        (lambda: [quantizer("x", aliases=("x",))], "qlstm_quantizers gave a name twice: 'x'"),
        (
            lambda: [quantizer("none")],
            "qlstm_quantizers gave the name 'none', every layer's default, which belongs to qlstm-core",
        ),
        (lambda: [None], "qlstm_quantizers gave None in place of QuantizerSpec"),
        (
            lambda: [quantizer("Not A Name")],
            "qlstm_quantizers raised ValueError: QuantizerSpec 'Not A Name': name",
        ),
        (broken_generator, "qlstm_quantizers raised RuntimeError: half-way through"),
        (leave, "qlstm_quantizers raised SystemExit: 3"),
        (lambda: pytest.skip("no GPU"), "qlstm_quantizers raised Skipped: no GPU"),
        (stop_half_way, "qlstm_quantizers raised GeneratorExit"),
        (lambda: [Pretender()], "qlstm_quantizers raised AttributeError: "),
        (
            lambda: [quantizer("x", summary="clears\x1b[2J")],
            "qlstm_quantizers raised ValueError: QuantizerSpec 'x': summary must be one non-empty printable",
        ),
    ],
)
def test_broken_hook_fails_alone(empty: Registry, hook: Callable[[], Any], reason: str) -> None:
    bad = plugin("1.2", qlstm_quantizers=hook, qlstm_normalizers=lambda: [normalizer("fine")])
    empty.register(bad, "bad:entry")
    empty.register(quantizer_plugin(quantizer("sign")), "good")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            assert empty.quantizers.names() == ["sign"]
            assert empty.normalizers.names() == ["fine"], "its other hook works"
    assert [
        str(warning.message).startswith("failed plugin 'bad:entry' of bad 1.2: ") for warning in caught
    ] == [True]
    assert caught[0].category is PluginWarning
    found = record(empty, "bad:entry")
    assert (found.status, found.distribution, found.version) == ("failed", "bad", "1.2")
    assert found.reason.startswith(reason)
    assert "\n" not in found.reason
    assert found.provides == {"normalizer": ("fine",)}
    assert record(empty, "good").status == "active"


def test_several_reasons_stand_together_and_are_warned_of_once(empty: Registry) -> None:
    def qlstm_quantizers() -> list[QuantizerSpec]:
        return [quantizer("x", api_version=2), quantizer("y", api_version=3), quantizer("z")]

    empty.register(plugin(qlstm_quantizers=qlstm_quantizers, qlstm_normalizers=lambda: 1 / 0), "p")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = record(empty, "p")
    assert len(caught) == 1
    assert found.status == "failed"
    assert found.provides == {"quantizer": ("z",)}
    assert [part.split(",")[0] for part in found.reason.split("; ")] == [
        "'x' needs version 2 of the plugin interface",
        "'y' needs version 3 of the plugin interface",
        "qlstm_normalizers raised ZeroDivisionError: division by zero",
    ]


def test_incompatible_plugin_keeps_what_fits(empty: Registry) -> None:
    empty.register(quantizer_plugin(quantizer("old"), quantizer("new", api_version=2)), "p")
    found = quiet_record(empty, "p")
    assert (found.status, found.provides) == ("incompatible", {"quantizer": ("old",)})


def test_look_ups_work_after_a_warning_that_was_turned_into_an_error(empty: Registry) -> None:
    empty.register(plugin(qlstm_quantizers=lambda: 3), "bad")
    empty.register(quantizer_plugin(quantizer("sign")), "good")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(PluginWarning):
            empty.quantizers.names()
        assert empty.quantizers.names() == ["sign"]


def test_interrupted_hook_is_asked_again(empty: Registry) -> None:
    attempts = []

    def qlstm_quantizers() -> list[QuantizerSpec]:
        attempts.append(1)
        if len(attempts) == 1:
            raise KeyboardInterrupt
        return [quantizer("sign")]

    empty.register(plugin(qlstm_quantizers=qlstm_quantizers), "p")
    with pytest.raises(KeyboardInterrupt):
        empty.quantizers.names()
    assert empty.quantizers.names() == ["sign"]


def test_interrupted_loading_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = []

    def load_plugins(group: str) -> list[Plugin]:
        attempts.append(group)
        if len(attempts) == 1:
            raise KeyboardInterrupt
        return [Plugin("p:e", "p", "1", instance=quantizer_plugin(quantizer("sign")))]

    monkeypatch.setattr(MODULE, "load_plugins", load_plugins)
    interrupted = Registry()
    with pytest.raises(KeyboardInterrupt):
        interrupted.quantizers.names()
    assert interrupted.quantizers.names() == ["sign"]


def test_plugins_registered_later_are_found(empty: Registry) -> None:
    assert empty.quantizers.names() == []
    empty.register(quantizer_plugin(quantizer("sign")), "p")
    assert empty.quantizers.names() == ["sign"]
    empty.unregister("p")
    assert empty.quantizers.names() == []
    assert empty.plugins() == []
    empty.register(quantizer_plugin(quantizer("other")), "p")
    assert empty.quantizers.names() == ["other"]


def test_object_of_a_class_may_be_a_plugin(empty: Registry) -> None:
    class Mine:
        @hookimpl
        def qlstm_quantizers(self) -> list[QuantizerSpec]:
            return [quantizer("sign")]

    empty.register(Mine())
    assert record(empty, "Mine").provides == {"quantizer": ("sign",)}


class Everything:
    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 1


def unfitting(weight: int) -> None:
    """A hook implementation with an argument that the hook does not have."""


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (None, "TypeError: None is not a plugin"),
        ({}, "TypeError: unhashable type: 'dict'"),
        (
            plugin(qlstm_quantizers=unfitting),
            r"PluginValidationError: .*weight.* can not be found in the hookspec",
        ),
        (plugin(qlstm_addhooks=lambda registry: 1 / 0), "ZeroDivisionError: division by zero"),
        (plugin(qlstm_addhooks=lambda registry: pytest.skip("no GPU")), "Skipped: no GPU"),
        (Everything(), "TypeError: it claims to equal anything"),
    ],
)
def test_plugin_that_cannot_be_registered_leaves_nothing(empty: Registry, bad: object, reason: str) -> None:
    with pytest.raises(PluginError, match=rf"^plugin 'bad' cannot be registered: {reason}$"):
        empty.register(bad, "bad")
    empty.register(quantizer_plugin(quantizer("sign")), "bad")
    assert empty.quantizers.names() == ["sign"]


def test_name_and_plugin_are_registered_once(empty: Registry) -> None:
    first = quantizer_plugin(quantizer("sign"))
    empty.register(first, "p")
    with pytest.raises(PluginError, match=r"^a plugin called 'p' is registered already"):
        empty.register(quantizer_plugin(), "p")
    with pytest.raises(
        PluginError, match=r"^plugin 'q' cannot be registered: ValueError: .* already, as 'p'$"
    ):
        empty.register(first, "q")
    with pytest.raises(PluginError, match=r"^no plugin is called 'pp' \(did you mean 'p'\?\)$"):
        empty.unregister("pp")


def test_two_entry_points_of_one_name_both_load(empty: Registry) -> None:
    empty.register(quantizer_plugin(quantizer("a")), "first:plugin")
    empty.register(quantizer_plugin(quantizer("b")), "second:plugin")
    assert empty.quantizers.names() == ["a", "b"]
    assert empty.quantizers.get("second/b").name == "b"


def test_one_distribution_gives_a_name_once(empty: Registry) -> None:
    empty.register(quantizer_plugin(quantizer("sign")), "My.Plugin:a")
    empty.register(quantizer_plugin(quantizer("x", aliases=("sign",))), "my-plugin:b")
    found = quiet_record(empty, "my-plugin:b")
    assert (found.status, found.reason) == ("failed", "qlstm_quantizers gave a name twice: 'sign'")
    assert empty.quantizers.get("my-plugin/sign").name == "sign"


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_hooks_that_a_plugin_adds(empty: Registry, order: list[int]) -> None:
    more = plugin(qlstm_tasks=lambda: [Spec(name="mnist", summary="another task", factory=dict)])
    plugins = [(bench(), "bench"), (more, "more")]
    for index in order:
        empty.register(*plugins[index])
    tasks = empty.catalogue("qlstm_tasks", Spec, "task")
    assert tasks.names() == ["lm", "mnist"]
    assert record(empty, "more") == PluginRecord("more", "more", "", "active", "", {"task": ("mnist",)})


def facts(*given: object) -> ModuleType:
    """A plugin whose hook ``qlstm_facts`` gives numbers."""
    return plugin(version="1.5", qlstm_facts=lambda: given)


class Facts:
    """A hook whose entries have no names."""

    @staticmethod
    @hookspec
    def qlstm_facts() -> None:
        """Return numbers."""


def test_a_collection_gives_entries_with_their_plugins(empty: Registry) -> None:
    empty.manager.add_hookspecs(Facts)
    collected = empty.collection("qlstm_facts", float)
    assert collected() == []
    empty.register(facts(1.5, 1.5), "one")
    empty.register(facts(2.5, "three"), "broken")
    empty.register(facts(3.5), "two")
    with pytest.warns(PluginWarning, match="'broken' of broken 1.5: qlstm_facts gave str in place of float"):
        assert collected() == [("one 1.5", 1.5), ("one 1.5", 1.5), ("two 1.5", 3.5)]
    empty.unregister("one")
    assert empty.collection("qlstm_facts", float)() == [("two 1.5", 3.5)]
    assert record(empty, "two").provides == {"hook": ("qlstm_facts",)}
    with pytest.raises(
        ValueError, match="hook 'qlstm_facts' has a collection of float already, asked for int"
    ):
        empty.collection("qlstm_facts", int)


def test_a_plugin_whose_facts_are_broken_is_in_the_list_of_plugins(empty: Registry) -> None:
    empty.manager.add_hookspecs(Facts)
    empty.collection("qlstm_facts", float)
    empty.register(plugin(qlstm_facts=lambda: 1 / 0), "broken")
    found = quiet_record(empty, "broken")
    assert (found.status, found.reason) == (
        "failed",
        "qlstm_facts raised ZeroDivisionError: division by zero",
    )


def test_catalogue_is_made_once_and_keeps_its_type(empty: Registry) -> None:
    assert empty.catalogue("qlstm_quantizers", QuantizerSpec, "quantizer") is empty.quantizers
    with pytest.raises(
        ValueError, match=r"'qlstm_quantizers' has a catalogue of QuantizerSpec called 'quantizer'"
    ):
        empty.catalogue("qlstm_quantizers", Spec, "quantizer")


def test_entry_points_that_add_hooks_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    # In alphabetical order the fault of `aaa` would show while `bench` adds its hooks, which would be blamed.
    faulty = plugin(qlstm_tasks=unfitting)
    plugins = [
        Plugin("aaa:e", "aaa", "1", instance=faulty),
        Plugin("bench:e", "bench", "1", instance=bench()),
    ]
    monkeypatch.setattr(MODULE, "load_plugins", lambda group: plugins)
    loaded = Registry()
    found = quiet_record(loaded, "aaa:e")
    assert found.status == "failed"
    assert found.reason.startswith(
        "cannot be registered: PluginValidationError: Plugin 'aaa:e' for hook 'qlstm_tasks'"
    )
    assert record(loaded, "bench:e").status == "active"


def test_module_found_twice_is_one_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    module = quantizer_plugin(quantizer("sign"))
    plugins = [Plugin(f"{name}:e", name, "1", instance=module) for name in ("first", "renamed")]
    monkeypatch.setattr(MODULE, "load_plugins", lambda group: plugins)
    assert [(found.name, found.status) for found in Registry().plugins()] == [("first:e", "active")]


def test_module_that_registers_itself_when_imported_is_one_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    made, module = Registry(), quantizer_plugin(quantizer("sign"))

    def load_plugins(group: str) -> list[Plugin]:
        made.register(module, "by-itself")
        return [Plugin("installed:e", "installed", "1", instance=module)]

    monkeypatch.setattr(MODULE, "load_plugins", load_plugins)
    assert [(found.name, found.status) for found in made.plugins()] == [("by-itself", "active")]


def test_misspelt_hook_is_noted(empty: Registry) -> None:
    empty.register(plugin(qlstm_quantizer=lambda: [quantizer("sign")]), "p")
    found = record(empty, "p")
    assert (found.status, found.provides) == ("active", {})
    assert found.reason == (
        "it implements 'qlstm_quantizer', which no installed package calls (did you mean 'qlstm_quantizers'?)"
    )
    with pytest.raises(
        PluginError, match=r"not available: p \(it implements 'qlstm_quantizer', which no installed"
    ):
        empty.quantizers.get("sign")


def test_hook_declared_optional_is_not_noted(empty: Registry) -> None:
    class Mine:
        @hookimpl(optionalhook=True)
        def qlstm_tasks(self) -> list[Spec]:
            return []

    empty.register(Mine(), "p")
    assert record(empty, "p").reason == ""


def test_plugin_without_a_hook_is_noted(empty: Registry) -> None:
    module = ModuleType("p")
    module.qlstm_quantizers = lambda: [quantizer("sign")]  # type: ignore[attr-defined]
    empty.register(module, "p")
    assert record(empty, "p").reason == "it implements no hook: is @hookimpl missing?"


def test_hook_may_look_names_up(empty: Registry) -> None:
    def qlstm_quantizers() -> list[QuantizerSpec]:
        return [quantizer("twice-" + name) for name in empty.quantizers.names()]

    empty.register(plugin(qlstm_quantizers=qlstm_quantizers), "p")
    empty.register(quantizer_plugin(quantizer("sign")), "q")
    assert empty.quantizers.names() == ["sign", "twice-sign"]


def test_warning_turned_into_an_error_does_not_hit_the_plugin_that_looked_up(empty: Registry) -> None:
    def qlstm_quantizers() -> list[QuantizerSpec]:
        return [quantizer("for-" + name) for name in empty.normalizers.names()]

    empty.register(
        plugin(qlstm_quantizers=qlstm_quantizers, qlstm_normalizers=lambda: [normalizer("x")]), "p"
    )
    empty.register(plugin(qlstm_normalizers=lambda: 3), "bad")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(PluginWarning, match=r"'bad'"):
            empty.quantizers.names()
    assert empty.quantizers.names() == ["for-x"]
    assert record(empty, "p").status == "active"


def test_first_look_ups_of_many_threads_share_one_call(empty: Registry) -> None:
    calls, seen = [], []
    start = threading.Barrier(8)

    def qlstm_quantizers() -> Iterator[QuantizerSpec]:
        calls.append(1)
        time.sleep(0.02)  # long enough for the others to arrive
        yield quantizer("sign")

    def look_up() -> None:
        start.wait()
        seen.append(empty.quantizers.names())

    empty.register(plugin(qlstm_quantizers=qlstm_quantizers), "p")
    threads = [threading.Thread(target=look_up) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [["sign"]] * 8
    assert calls == [1]


@pytest.mark.parametrize("fault", [OSError("no space left"), GeneratorExit("no space left")])
def test_notify_calls_every_plugin_and_silences_one_that_raises(
    empty: Registry, fault: BaseException
) -> None:
    steps: list[int] = []
    attempts: list[int] = []

    def failing(step: int) -> None:
        attempts.append(step)
        raise fault

    empty.register(bench(), "bench")
    empty.register(plugin(qlstm_run_logged=failing), "bad")
    empty.register(plugin(qlstm_run_logged=lambda step: steps.append(step)), "good")
    with pytest.warns(
        PluginWarning, match=r"^failed plugin 'bad' of bad: qlstm_run_logged raised \w+: no space left$"
    ):
        empty.notify("qlstm_run_logged", step=1)
    empty.notify("qlstm_run_logged", step=2)
    assert (steps, attempts) == ([1, 2], [1])
    assert record(empty, "bad").status == "failed"
    assert record(empty, "good").provides == {"hook": ("qlstm_run_logged",)}
