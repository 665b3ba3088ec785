"""What the documentation site is made of: links, the reference, tables from results/, messages that are real.

The site itself is built, and looked at in a browser, by ``tox run -e docs``.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
SITE = ROOT / "docs" / "site"
HOST = "https://host.example/qlstm"
PAGES = {"docs/layers.md", "docs/gradients.md", "results/README.md", "packages/qlstm-core/README.md"}


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a function that imports a module of docs/site, which is no package."""
    monkeypatch.syspath_prepend(str(SITE))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(SITE) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("[a](gradients.md#title)", "[a](gradients.md#title)"),
        ("[a](#title)", "[a](#title)"),
        ("[a](../results/README.md)", "[a](../results/README.md)"),
        ("[a](https://else.example/x)", "[a](https://else.example/x)"),
        ("[a](../results/digits-small.csv)", f"[a]({HOST}/blob/main/results/digits-small.csv)"),
        ("[a](../packages/qlstm-core/src#L1)", f"[a]({HOST}/tree/main/packages/qlstm-core/src#L1)"),
        ("[a](../packages/qlstm-core)", f"[a]({HOST}/tree/main/packages/qlstm-core)"),
        ("![a](images/demo.png)", "![a](images/demo.png)"),
        (f"[a]({HOST}/blob/main/docs/gradients.md#b)", "[a](gradients.md#b)"),
        (f"[a]({HOST}/blob/main/results/README.md)", "[a](../results/README.md)"),
        (f"[a]({HOST}/blob/main/LICENSE)", f"[a]({HOST}/blob/main/LICENSE)"),
        (f"![a]({HOST}/raw/main/docs/images/demo.png)", "![a](images/demo.png)"),
        (
            "```python\nx[0](../gone)\n```\n[a](gradients.md)",
            "```python\nx[0](../gone)\n```\n[a](gradients.md)",
        ),
    ],
)
def test_links_lead_to_pages_of_the_site_or_to_the_code_host(site: Any, link: str, expected: str) -> None:
    assert site("links").for_site(link, "docs/layers.md", PAGES, ROOT, HOST) == expected


def test_every_page_is_in_the_navigation() -> None:
    index = (SITE / "index.md").read_text("utf-8")
    listed = re.findall(r"^(?:\.\./|/)([\w/-]+)$", index, re.MULTILINE)
    pages = {page.stem for page in ROOT.glob("docs/*.md")}
    elsewhere = {"results/README", "results/gradients/README", "CONTRIBUTING", "SECURITY", "CHANGELOG"}
    elsewhere |= {f"packages/{path.parent.name}/README" for path in ROOT.glob("packages/*/README.md")}
    assert len(listed) == len(set(listed))
    assert set(listed) == pages | elsewhere


def test_the_gallery_shows_every_picture() -> None:
    shown = re.findall(r"^!\[[^\]]+\]\((\S+)\)$", (SITE / "gallery.md").read_text("utf-8"), re.MULTILINE)
    pictures = {*ROOT.glob("results/**/*.png"), *ROOT.glob("docs/images/*.png")}
    assert len(shown) == len(set(shown))
    assert {(SITE / path).resolve() for path in shown} == {path.resolve() for path in pictures}


def test_every_public_module_has_a_page_of_the_reference(site: Any) -> None:
    pages = [page.read_text("utf-8") for page in (SITE / "reference").glob("*.md")]
    made = re.findall(r"<!-- site: reference ([\w.]+) -->", "\n".join(pages))
    assert sorted(made) == sorted(site("reference").MODULES)


def test_the_reference_describes_every_exported_name_once(site: Any) -> None:
    reference = site("reference")
    text = "\n".join(reference.reference(module) for module in reference.MODULES)
    for module in reference.MODULES:
        for name in importlib.import_module(module).__all__:
            assert f"\n## {name}\n" in text
    described = re.findall(r"^\.\. auto(?:class|function|data|module):: (\S+)$", text, re.MULTILINE)
    assert len(described) == len(set(described))
    assert {"qlstm_core.pack", "qlstm_core.packed.Kernel", "qlstm_bench.Record"} <= set(described)
    assert "qlstm_core.packed.pack" not in described


@pytest.mark.parametrize(
    ("target", "name", "file"),
    [
        ("qlstm_core.LSTM", "qlstm_core.LSTM", "layers/lstm.py"),
        ("qlstm_core.layers.lstm.LSTM", "qlstm_core.LSTM", "layers/lstm.py"),
        ("qlstm_core.interfaces.Quantizer.prepare", "qlstm_core.Quantizer.prepare", "interfaces.py"),
        ("Normalizer.forward", "qlstm_core.Normalizer.forward", "interfaces.py"),
        ("qlstm_core.layers.route.choose_route", "qlstm_core.layers.route.choose_route", "layers/route.py"),
        ("qlstm_bench.training.run.resolve", "qlstm_bench.resolve", "training/run.py"),
        ("run_loop", "qlstm_core.layers.sequence.run_loop", "layers/sequence.py"),
        ("fit_normalizers_", "qlstm_core.layers.from_float.fit_normalizers_", "layers/from_float.py"),
        ("qlstm_core.layers.norm_contract", "qlstm_core.layers.norm_contract", "layers/norm_contract.py"),
    ],
)
def test_what_docstrings_name_is_found(site: Any, target: str, name: str, file: str) -> None:
    found, path = site("reference").locate(target)
    assert found == name
    assert path.as_posix().endswith(file)


def test_what_is_not_ours_is_left_to_others(site: Any) -> None:
    assert site("reference").locate("torch.nn.LSTM") is None
    assert site("reference").locate("no_such_name_anywhere") is None


def test_verdicts_on_our_tables_are_those_of_the_results_page(site: Any) -> None:
    """What results/README.md says in words of the characters of the Penn Treebank."""
    from qlstm_bench import decide_claims

    runs = list(site("measured").records("hou2019-char-ptb"))
    outcomes = {verdict.claim.name: verdict.outcome for verdict in decide_claims(runs)}
    assert outcomes["vanilla-fails"] == "holds"
    assert outcomes["normalisation-mends"] == "holds"
    assert outcomes["normalisers-alike"] == "does not hold"
    assert outcomes["shared-like-separate"] == "not decided by the spread"
    assert outcomes["gradients-explode"] == "holds"


def test_the_table_of_quantizers_has_the_figures_of_the_files(
    site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = site("measured")
    monkeypatch.setattr(measured, "_FIGURES", {"hou2019-char-ptb": "bits"})
    monkeypatch.setattr(measured, "preset_names", lambda: ["hou2019-char-ptb"])
    (row,) = [line for line in measured.quantizers().splitlines() if line.startswith("| binary-connect ")]
    frame = pd.read_csv(ROOT / "results" / "hou2019-char-ptb-small.csv")
    own = frame[frame["quantizer"] == "binary-connect"].set_index("normalizer")
    plain, layer = own.loc["none"], own.loc["layer"]
    cells = [cell.strip() for cell in row.strip("| ").split("|")]
    assert cells[1:3] == ["1", f"{plain['size_kb']:.0f}"]
    assert float(cells[3]) == pytest.approx(plain["gradient_growth"], rel=0.05)
    assert cells[4] == f"{plain['test_mean']:.3f} → {layer['test_mean']:.3f}"


def test_what_pages_leave_to_the_site_can_be_made(site: Any) -> None:
    names = [
        name
        for page in ROOT.glob("docs/*.md")
        for name in re.findall(r"<!-- site: (\w+) -->", page.read_text("utf-8"))
    ]
    assert sorted(names) == sorted(site("measured").TABLES)


MESSAGES = ROOT / "docs" / "error-messages.md"


def templates() -> set[str]:
    """Return every text of the sources, with … for what is filled in."""
    return {
        "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
        if isinstance(node, ast.JoinedStr)
        else str(node.value)
        for path in ROOT.glob("packages/*/src/**/*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
    }


def test_messages_that_are_not_provoked_are_those_of_the_sources() -> None:
    shown = re.findall(r"^```text\n(.*?)\n```", MESSAGES.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert len(shown) > 5
    assert set(shown) - templates() == set()
