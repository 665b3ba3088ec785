"""Entry points: each is imported by itself, and none is lost because of another."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qlstm_core.plugins.discovery import DISABLE_VARIABLE, load_plugins, normalize, unknown_disabled

GROUP = "test_discovery"
numbers = itertools.count()


def install(folder: Path, name: str, entry_points: str, *, version: str = "1.0", module: str = "") -> None:
    """Write what an installer would: a module and the metadata beside it."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{entry_points}\n")
    (folder / f"{name.replace('-', '_')}_module.py").write_text(module)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(DISABLE_VARIABLE, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def outcome() -> dict[str, tuple[str, str]]:
    return {plugin.name: (plugin.status, "; ".join(plugin.reasons)) for plugin in load_plugins(GROUP)}


def test_order_is_alphabetical_and_names_are_unique(site: Path) -> None:
    install(site, "zz-dist", "same = zz_dist_module", module="me = 'zz'")
    install(
        site, "aa-dist", "same = aa_dist_module\nother = aa_dist_module", module="me = 'aa'", version="2.5"
    )
    plugins = load_plugins(GROUP)
    assert [plugin.name for plugin in plugins] == ["aa-dist:other", "aa-dist:same", "zz-dist:same"]
    assert [plugin.version for plugin in plugins] == ["2.5", "2.5", "1.0"]
    assert [plugin.instance.me for plugin in plugins] == ["aa", "aa", "zz"]  # type: ignore[attr-defined]


def test_entry_point_may_name_an_object_of_a_module(site: Path) -> None:
    install(
        site, "object-dist", "e = object_dist_module:inner.thing", module="class inner:\n    thing = 'found'"
    )
    assert [plugin.instance for plugin in load_plugins(GROUP)] == ["found"]


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def (", "SyntaxError: invalid syntax"),
        ("raise SystemExit('bye')", "SystemExit: bye"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
        ("raise GeneratorExit", "GeneratorExit"),
        (
            "import pytest; pytest.importorskip('no_such_module')",
            "Skipped: could not import 'no_such_module'",
        ),
        ("raise type('Mine', (BaseException,), {})('\\x1b[2J')", r"Mine: \x1b[2J"),
    ],
)
def test_plugin_that_cannot_be_imported_fails_alone(site: Path, module: str, reason: str) -> None:
    number = next(numbers)  # modules of one name would share an import
    install(site, f"bad-{number}", f"e = bad_{number}_module", module=module)
    install(site, f"good-{number}", f"e = good_{number}_module")
    found = outcome()
    assert found[f"good-{number}:e"] == ("active", "")
    status, message = found[f"bad-{number}:e"]
    assert status == "failed"
    assert message.startswith(f"bad_{number}_module cannot be imported: {reason}")


def test_entry_point_to_nowhere_fails(site: Path) -> None:
    install(site, "nowhere-dist", "e = nowhere_dist_module:missing")
    status, reason = outcome()["nowhere-dist:e"]
    assert status == "failed"
    assert "AttributeError" in reason
    assert "missing" in reason


def test_distribution_found_twice_counts_once(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site / "first", "Twice.Dist", "e = Twice.Dist_module", version="2.0")
    install(site / "second", "twice-dist", "e = twice_dist_module", version="1.0")
    monkeypatch.syspath_prepend(site / "second")
    monkeypatch.syspath_prepend(site / "first")
    assert [(plugin.name, plugin.version) for plugin in load_plugins(GROUP)] == [("Twice.Dist:e", "2.0")]


def test_interrupted_import_is_the_users(site: Path) -> None:
    install(site, "interrupted-dist", "e = interrupted_dist_module", module="raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_plugins(GROUP)


def test_what_pip_leaves_behind_is_not_installed(site: Path) -> None:
    install(site, "real-dist", "e = real_dist_module", version="2.0")
    left = site / "~eal_dist-1.0.dist-info"
    left.mkdir()
    for file in (site / "real_dist-2.0.dist-info").iterdir():
        (left / file.name).write_bytes(file.read_bytes())
    (site / "~al_dist-1.0.dist-info").mkdir()
    assert [(plugin.name, plugin.version) for plugin in load_plugins(GROUP)] == [("real-dist:e", "2.0")]


UNREADABLE = {
    "no METADATA": lambda info: (info / "METADATA").unlink(),
    "METADATA without a name": lambda info: (info / "METADATA").write_text("Version: 1.0\n"),
    "METADATA of another encoding": lambda info: (info / "METADATA").write_bytes(b"Name: caf\xe9\n"),
    "entry points of another encoding": lambda info: (info / "entry_points.txt").write_bytes(b"\xff\xfe[\0"),
    "entry points without a value": lambda info: (info / "entry_points.txt").write_text(
        f"[{GROUP}]\nalone\n"
    ),
}


@pytest.mark.parametrize("damage", UNREADABLE.values(), ids=UNREADABLE)
def test_distribution_of_unreadable_metadata_is_named_and_skipped(
    site: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], object]
) -> None:
    install(site / "first", "Hurt.Dist", "e = hurt_dist_module", version="1.0")
    install(site / "second", "whole-dist", "e = whole_dist_module")
    for folder in ("second", "first"):
        monkeypatch.syspath_prepend(site / folder)
    damage(site / "first" / "Hurt.Dist-1.0.dist-info")
    found = outcome()
    assert list(found) == ["Hurt.Dist:Hurt.Dist-1.0.dist-info", "whole-dist:e"]
    status, reason = found.pop("Hurt.Dist:Hurt.Dist-1.0.dist-info")
    assert (status, reason.split(": ")[0]) == (
        "failed",
        "the metadata of 'Hurt.Dist-1.0.dist-info' cannot be read",
    )
    assert found == {"whole-dist:e": ("active", "")}
    monkeypatch.setenv(DISABLE_VARIABLE, "hurt-dist")
    assert outcome()["Hurt.Dist:Hurt.Dist-1.0.dist-info"] == ("disabled", f"named in {DISABLE_VARIABLE}")
    monkeypatch.delenv(DISABLE_VARIABLE)
    install(site / "second", "hurt-dist", "e = hurt_dist_module", version="2.0")
    importlib.invalidate_caches()
    assert outcome()["hurt-dist:e"] == ("active", ""), "of one name, the first that can be read counts"


def test_missing_metadata_of_others_are_of_no_interest(site: Path) -> None:
    (site / "only_a_record-1.0.dist-info").mkdir()
    (site / "only_a_record-1.0.dist-info" / "RECORD").touch()
    assert outcome() == {}


def test_finder_that_fails_is_named(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Finder:
        def find_spec(self, *names: object) -> None:
            return None

        def find_distributions(self, context: object) -> Iterator[object]:
            yield from ()
            raise SystemExit("no licence")

    install(site, "found-dist", "e = found_dist_module")
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    reason = "the finder 'Finder' on sys.meta_path finds no distributions: SystemExit: no licence"
    assert outcome() == {"Finder:sys.meta_path": ("failed", reason), "found-dist:e": ("active", "")}


def test_two_entry_points_of_one_distribution_may_share_a_name(site: Path) -> None:
    install(site, "twins-dist", "e = twins_dist_module:a\ne = twins_dist_module:b", module="a, b = 'ab'")
    assert [(plugin.name, plugin.instance) for plugin in load_plugins(GROUP)] == [
        ("twins-dist:e", "a"),
        ("twins-dist:e=twins_dist_module:b", "b"),
    ]


def test_other_groups_are_not_touched(site: Path) -> None:
    install(site, "other-dist", "e = other_dist_module", module="raise RuntimeError('imported')")
    assert load_plugins("test_discovery_of_another_group") == []


@pytest.mark.parametrize("word", ["Off_Dist", "off-dist", " off-entry ", "x,off-dist,"])
def test_disabled_plugin_is_not_imported(site: Path, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    install(site, "off-dist", "off-entry = off_dist_module", module="raise RuntimeError('imported')")
    install(site, "on-dist", "on-entry = on_dist_module")
    monkeypatch.setenv(DISABLE_VARIABLE, word)
    assert outcome() == {
        "off-dist:off-entry": ("disabled", f"named in {DISABLE_VARIABLE}"),
        "on-dist:on-entry": ("active", ""),
    }


def test_disabled_word_that_is_no_plugin_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DISABLE_VARIABLE, "quant, qlstm_nrom")
    names = ["qlstm-quant:quant", "qlstm-norm:norm"]
    assert unknown_disabled(names) == [
        f"{DISABLE_VARIABLE} names 'qlstm-nrom', which is not installed (did you mean 'qlstm-norm'?)"
    ]
    monkeypatch.setenv(DISABLE_VARIABLE, "")
    assert unknown_disabled(names) == []


def test_normalize_compares_names_as_installers_do() -> None:
    assert normalize("My._-Plugin") == normalize("my-plugin") == "my-plugin"
