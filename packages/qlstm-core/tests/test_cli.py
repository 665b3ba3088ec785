"""``qlstm``: a table for people, a document for programs, and one line for every mistake."""

from __future__ import annotations

import io
import json
import platform
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from fake_plugins import plugin, quantizer, quantizer_plugin

from qlstm_core import cli
from qlstm_core.plugins import PluginError, QuantizerSpec, Registry


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry with one plugin of each status but disabled, in place of the process's own."""

    def failing() -> list[QuantizerSpec]:
        print("a plugin that prints")
        raise OSError("no licence")

    registry = Registry(discover=False)
    registry.register(quantizer_plugin(quantizer("sign"), quantizer("other"), version="1.0"), "good:entry")
    registry.register(quantizer_plugin(quantizer("old"), quantizer("new", api_version=2)), "mixed")
    registry.register(plugin("0.3", qlstm_quantizers=failing), "bad")
    monkeypatch.delenv("QLSTM_DISABLE_PLUGINS", raising=False)
    monkeypatch.setattr(cli, "registry", registry)
    return registry


def lines(text: str) -> list[str]:
    return text.splitlines()


def test_table(installed: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plugins"]) == 0
    printed = capsys.readouterr()
    needs = "'new' needs version 2 of the plugin interface, this qlstm-core speaks version 1"
    assert lines(printed.out) == [
        "PLUGIN      VERSION  STATUS        PROVIDES",
        "bad         0.3      failed        reason: qlstm_quantizers raised OSError: no licence",
        "good:entry  1.0      active        quantizer: other, sign",
        "mixed       -        incompatible  quantizer: old",
        f"                                   reason: {needs}",
        "",
        "1 failed, 1 active, 1 incompatible",
    ]
    assert printed.err == "a plugin that prints\n", "no warning beside the table that says the same"


def test_what_plugins_say_does_not_steer_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "\x1b[2J\x1b]0;title\x07\u202e"

    def raising() -> list[QuantizerSpec]:
        raise type(f"Evil{hostile}", (Exception,), {})(hostile)

    registry = Registry(discover=False)
    registry.register(plugin(f"1{hostile}", qlstm_quantizers=raising), f"evil{hostile}:entry")
    monkeypatch.setattr(cli, "registry", registry)
    assert cli.main(["plugins"]) == 0
    printed = capsys.readouterr().out
    assert all(character.isprintable() for character in printed.replace("\n", ""))
    shown = r"\x1b[2J\x1b]0;title\x07\u202e"
    assert lines(printed)[1].startswith(f"evil{shown}:entry  1{shown}  failed")
    assert lines(printed)[1].endswith(f"reason: qlstm_quantizers raised Evil{shown}: {shown}")
    with pytest.raises(PluginError, match=r"^unknown quantizer 'sign'") as caught:
        registry.quantizers.get("sign")
    assert f"not available: evil{shown} 1{shown} (failed)" in str(caught.value)


def test_plugin_that_replaces_the_output_does_not_swallow_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def replacing() -> list[QuantizerSpec]:
        sys.stdout = io.StringIO()
        return [quantizer("sign")]

    registry = Registry(discover=False)
    registry.register(plugin(qlstm_quantizers=replacing), "replacing")
    monkeypatch.setattr(cli, "registry", registry)
    assert cli.main(["plugins"]) == 0
    assert "quantizer: sign" in capsys.readouterr().out


def test_table_is_folded_to_a_terminal(installed: Registry) -> None:
    with pytest.warns(match="plugin"):
        records = installed.plugins()
    plain, folded = cli._aligned(records, None), cli._aligned(records, 80)
    indent = plain[0].index("PROVIDES")
    assert max(map(len, plain)) > 80 >= max(map(len, folded))
    assert " ".join(" ".join(folded).split()) == " ".join(" ".join(plain).split())
    assert all(line[:indent].strip() == "" for line in folded if line.startswith(" "))


def test_json_is_a_document_of_its_own(installed: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plugins", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["format"], document["qlstm_core"]) == (1, version("qlstm-core"))
    assert document["plugins"] == [
        {
            "name": "bad",
            "distribution": "bad",
            "version": "0.3",
            "status": "failed",
            "reason": "qlstm_quantizers raised OSError: no licence",
            "provides": {},
        },
        {
            "name": "good:entry",
            "distribution": "good",
            "version": "1.0",
            "status": "active",
            "reason": "",
            "provides": {"quantizer": ["other", "sign"]},
        },
        {
            "name": "mixed",
            "distribution": "mixed",
            "version": "",
            "status": "incompatible",
            "reason": "'new' needs version 2 of the plugin interface, this qlstm-core speaks version 1",
            "provides": {"quantizer": ["old"]},
        },
    ]


def test_without_plugins(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli, "registry", Registry(discover=False))
    assert cli.main(["plugins"]) == 0
    assert lines(capsys.readouterr().out)[-1] == "no plugin is installed"


def test_disabled_word_that_is_no_plugin_is_reported(
    installed: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QLSTM_DISABLE_PLUGINS", "goood")
    assert cli.main(["plugins"]) == 0
    warning = (
        "qlstm: warning: QLSTM_DISABLE_PLUGINS names 'goood', which is not installed (did you mean 'good'?)"
    )
    assert warning in lines(capsys.readouterr().err)


def test_version_is_that_of_every_distribution_and_library(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = Registry(discover=False)
    registry.register(quantizer_plugin(quantizer("sign"), version="1.0"), "good:entry")
    registry.register(quantizer_plugin(quantizer("more"), version="1.0"), "good:other")
    monkeypatch.setattr(cli, "registry", registry)
    assert cli.main(["--version"]) == 0
    libraries = [f"{name} {version(name)}" for name in ("torch", "numpy", "numba")]
    assert lines(capsys.readouterr().out) == ["good 1.0", *libraries, f"python {platform.python_version()}"]


def completed(shell_words: str, script: str) -> list[str]:
    """Return what bash offers for the last of these words."""
    *given, last = shell_words.split(" ")
    words = " ".join(f"'{word}'" for word in (*given, last))
    code = f"{script}\nCOMP_WORDS=({words}); COMP_CWORD={len(given)}; _shtab_qlstm; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on this machine")
def test_bash_completes_commands_options_and_names(
    installed: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert completed("qlstm pl", script) == ["plugins"]
    assert completed("qlstm plugins --j", script) == ["--json"]
    assert completed("qlstm check ", script) == ["old", "other", "sign"]
    assert completed("qlstm check sign oth", script) == ["other"]
    assert completed("qlstm new n", script) == ["normalizer"]
    assert completed("qlstm completion z", script) == ["zsh"]


@pytest.mark.parametrize(("shell", "begins"), [("zsh", "#compdef qlstm"), ("fish", "# AUTOMATICALLY")])
def test_other_shells_get_a_script_of_their_own(
    shell: str, begins: str, installed: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert script.startswith(begins)
    for word in ("plugins", "normalizer", "other"):
        assert word in script


def test_help_names_every_command_and_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    text = capsys.readouterr().out
    assert "$ qlstm plugins" in text
    _, commands = cli._parser()
    for name, parser in commands.items():
        assert re.search(rf"^    {name}\b", text, re.MULTILINE)
        assert "example" in parser.format_help(), f"qlstm {name} --help teaches by example"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plugin"], "unknown command 'plugin' (did you mean 'plugins'?); commands: plugins"),
        (
            ["plugins", "--jsn"],
            "unknown argument '--jsn' (did you mean '--json'?); see `qlstm plugins --help`",
        ),
        (["plugins", "extra"], "unknown argument 'extra'; see `qlstm plugins --help`"),
        (["--verison"], "unknown argument '--verison' (did you mean '--version'?); see `qlstm --help`"),
        (["--js", "plugins"], "unknown argument '--js'"),
        (["completion", "tcsh"], "argument SHELL: invalid choice: 'tcsh'"),
        (["new", "quantiser", "x"], "unknown kind 'quantiser' (did you mean 'quantizer'?); kinds: quantizer"),
        (["new", "quantizer", "My_Sign"], "'My_Sign' is no name of a plugin: use small letters"),
    ],
)
def test_mistake_is_answered_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"qlstm: error: {message}")
    assert printed.err.count("\n") == 1


def test_error_of_the_registry_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Unusable:
        def plugins(self) -> None:
            raise PluginError("nothing works")

    monkeypatch.setattr(cli, "registry", Unusable())
    with pytest.raises(SystemExit) as caught:
        cli.main(["plugins"])
    assert (caught.value.code, capsys.readouterr().err) == (2, "qlstm: error: nothing works\n")


def test_installed_command_runs(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("qlstm")
    result = subprocess.run([command, "plugins"], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert result.stderr == ""
    assert any(line.split()[:1] == ["qlstm-core:core"] for line in lines(result.stdout))
