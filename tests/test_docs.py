"""The documentation is in step with the code: examples run, hooks and checks are described as they are."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import runpy
import shutil
import subprocess
import sys
import textwrap
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from qlstm_core.plugins import hookspecs, registry
from qlstm_core.testing.runner import CELL_CHECKS, NORMALIZER_CHECKS, QUANTIZER_CHECKS

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("docs/site/*.md"),
        ROOT / "README.md",
        *ROOT.glob("packages/*/README.md"),
    ]
)
LANGUAGES = {
    "python",
    "output",
    "console",
    "bash",
    "text",
    "toml",
    "yaml",
    "json",
    "c",
    "cpp",
    "cmake",
    "mermaid",
    "{toctree}",
}
FENCE = re.compile(r"^```(?P<info>[^\n]*)\n(?P<code>.*?)^```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file that it is (``title="…"``) if any, its code and first line."""

    language: str
    title: str
    code: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        language, _, rest = match["info"].partition(" ")
        title = re.search(r'title="([^"]*)"', rest)
        line = text.count("\n", 0, match.start()) + 2
        found.append(Block(language, title[1] if title else "", match["code"], line))
    return found


def examples(page: Path) -> list[Block]:
    """Return what runs: Python, except files of a package, which test_third_party_plugin.py builds."""
    return [block for block in blocks(page) if block.language == "python" and not block.title]


@pytest.fixture
def namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """A module in an empty folder; plugins that its code registers are forgotten afterwards."""
    before = {record.name for record in registry.plugins()}
    module = types.ModuleType("documentation")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.chdir(tmp_path)
    yield module
    for record in registry.plugins():
        if record.name not in before:
            registry.unregister(record.name)


def run(code: str, module: types.ModuleType, source: str, line: int = 1) -> None:
    exec(compile("\n" * (line - 1) + code, source, "exec"), vars(module))


def test_pages_are_found() -> None:
    names = {page.name for page in PAGES if examples(page)}
    assert {"README.md", "writing-a-plugin.md", "hooks.md"} <= names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_names_its_language(page: Path) -> None:
    assert [(block.line, block.language) for block in blocks(page) if block.language not in LANGUAGES] == []


@pytest.mark.parametrize(
    "page", [page for page in PAGES if examples(page)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_examples_run(page: Path, namespace: types.ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """One after the other, in one namespace; a block "output" is what the one before printed."""
    printed = ""
    for block in blocks(page):
        if block.language == "output":
            assert printed.strip() == block.code.strip()
        elif block.language == "python" and not block.title:
            run(block.code, namespace, str(page), block.line)
            printed = capsys.readouterr().out


PUBLIC = {
    *runpy.run_path(str(ROOT / "docs" / "site" / "reference.py"))["MODULES"],
    "qlstm_bench.benchmarks",  # of modules that asv reads, not of names
}
"""The modules whose exported names stay; where other files lie may change."""


def not_exported(code: str) -> Iterator[str]:
    """Yield the imports of this project's names that no public module exports."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            given = [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            given = [(node.module or "", alias.name) for alias in node.names]
        else:
            continue
        for module, name in given:
            if module.partition(".")[0] not in PUBLIC:
                continue
            if module not in PUBLIC or (name and name not in importlib.import_module(module).__all__):
                yield f"{module}: {name}"


def test_imports_of_what_is_not_exported_are_found() -> None:
    code = (
        "import torch, qlstm_core.layers\nfrom qlstm_core import LSTM, Dense\nfrom qlstm_bench import train"
    )
    assert list(not_exported(code)) == ["qlstm_core.layers: None", "qlstm_core: Dense"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_import_exported_names(page: Path) -> None:
    code = [block.code for block in blocks(page) if block.language == "python"]
    assert [found for text in code for found in not_exported(text)] == []


@pytest.mark.parametrize(
    "script",
    sorted([*ROOT.glob("examples/**/*.py"), *ROOT.glob("results/*.py")]),
    ids=lambda script: str(script.relative_to(ROOT)),
)
def test_examples_and_scripts_import_exported_names(script: Path) -> None:
    assert list(not_exported(script.read_text("utf-8"))) == []


def hooks() -> dict[str, Callable[..., object]]:
    """Return every hook specification of the core and, where it is installed, of the bench."""
    modules: list[types.ModuleType] = [hookspecs]
    try:
        from qlstm_bench import hookspecs as bench
    except ModuleNotFoundError:
        pass
    else:
        modules.append(bench)
    return {
        name: function
        for module in modules
        for name, function in vars(module).items()
        if name.startswith("qlstm_") and inspect.isfunction(function)
    }


def signature(hook: Callable[..., object]) -> str:
    """Return ``name(parameter: type) -> type`` as it is written in the source."""
    return f"{hook.__name__}{inspect.signature(hook)}".replace("'", "")


HOOKS_PAGE = ROOT / "docs" / "hooks.md"


@pytest.mark.parametrize("hook", hooks().values(), ids=hooks())
def test_hook_is_documented_with_its_exact_signature(hook: Callable[..., object]) -> None:
    assert f"\n## `{signature(hook)}`\n" in HOOKS_PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("hook", hooks().values(), ids=hooks())
def test_hook_has_an_example_on_its_page(hook: Callable[..., object]) -> None:
    section = (
        HOOKS_PAGE.read_text(encoding="utf-8").split(f"\n## `{signature(hook)}`\n")[-1].split("\n## ")[0]
    )
    code = "".join(match["code"] for match in FENCE.finditer(section) if match["info"] == "python")
    assert re.search(rf"@hookimpl\n *def {hook.__name__}\(", code)


def test_no_hook_is_documented_that_does_not_exist() -> None:
    documented = re.findall(r"^## `(\w+)\(", HOOKS_PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(documented) == sorted(hooks())


@pytest.mark.parametrize("hook", hooks().values(), ids=hooks())
def test_example_of_a_hooks_docstring_is_a_whole_plugin(
    hook: Callable[..., object], namespace: types.ModuleType
) -> None:
    code = textwrap.dedent((hook.__doc__ or "").split("Example::\n")[1])
    run(code, namespace, hook.__name__)
    registry.register(namespace)
    record = next(record for record in registry.plugins() if record.name == namespace.__name__)
    assert (record.status, record.reason) == ("active", "")


def test_loggers_of_the_hooks_page_log(
    namespace: types.ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = pytest.importorskip("qlstm_bench.config")
    from qlstm_bench.training.folder import Run

    for block in examples(HOOKS_PAGE)[:-1]:  # the last one registers them
        run(block.code, namespace, str(HOOKS_PAGE), block.line)
    settings = {"data": "text", "hidden": 8, "steps": 1, "batch": 2, "unroll": 5, "lr": 0.1, "clip": 1.0}
    one = Run(tmp_path / "one", config.RunConfig(**settings))
    result = types.SimpleNamespace(status="completed", metrics={"test_bpc": 2.5})
    namespace.qlstm_run_started(run=one)
    namespace.qlstm_run_logged(run=one, step=10, metrics={"loss": 0.5, "valid_bpc": 3.0})
    namespace.qlstm_run_ended(run=one, result=result)
    assert Path("started.csv").read_text().split() == ["one,none,none,8"]
    assert Path("one.csv").read_text().split() == ["10,loss,0.5", "10,valid_bpc,3.0"]
    assert capsys.readouterr().out == "one: completed, {'test_bpc': 2.5}\n"


def test_every_check_is_documented() -> None:
    page = (ROOT / "docs" / "writing-a-plugin.md").read_text(encoding="utf-8")
    every = (*QUANTIZER_CHECKS, *NORMALIZER_CHECKS, *CELL_CHECKS)
    checks = {check.__name__ for check in every} | {"check_text_form"}
    rows = "\n".join(re.findall(r"^\| (`check_.*?`) \|", page, re.MULTILINE))
    assert set(re.findall(r"`(check_\w+)`", rows)) == checks


def test_the_recipe_names_settings_as_they_are() -> None:
    """What the page gives as ``name: value`` is a setting's value, and ``name:option=value`` a method."""
    pytest.importorskip("qlstm_bench")
    from qlstm_bench import resolve

    page = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    settings = re.findall(r"`(\w+): ([^`]+)`", page)
    assert {name for name, _ in settings} >= {
        "decay_of",
        "tested",
        "clip",
        "clipping",
        "average",
        "average_of",
    }
    for name, value in settings:
        config, _ = resolve({"steps": 1, "initial_state": "learned", name: value})  # which noise is for
        assert str(getattr(config, name)) == value
    methods = re.findall(r"`([\w-]+):(\w+=[^`…]+)`", page)
    kinds = {
        "large-vocab-lm": "task", "binary-connect": "quantizer", "ter-connect": "quantizer",
        "alternating": "quantizer", "layer": "normalizer",
    }  # fmt: skip
    assert {name for name, _ in methods} == kinds.keys()
    for name, options in methods:
        resolve({"steps": 1, kinds[name]: f"{name}:{options}"})


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_the_c_program_answers_each_number_as_the_packed_network_does(namespace: types.ModuleType) -> None:
    page = ROOT / "docs" / "exporting-to-c.md"
    for block in examples(page):
        run(block.code, namespace, str(page), block.line)
    program = next(block.code for block in blocks(page) if block.language == "c")
    Path("main.c").write_text(program, encoding="utf-8")
    console = next(b.code for b in blocks(page) if b.language == "console" and b.code.startswith("cc "))
    done = subprocess.run(console, shell=True, capture_output=True, text=True, check=True, timeout=120)
    state, wanted = None, []
    for number in (0.5, -0.25):
        y, state = namespace.packed.step(namespace.torch.tensor([number]), state)
        wanted.append(float(y))
    assert [float(line) for line in done.stdout.split()] == pytest.approx(wanted, abs=1e-5)
