"""The README's examples run as they stand, and its table lists what is registered."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qlstm_quant.hooks import qlstm_quantizers

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_example_runs(example: str) -> None:
    if "normalizer=" in example:
        pytest.importorskip("qlstm_norm")
    exec(compile(example, "README.md", "exec"), {})


def test_table_lists_every_method_with_its_reference() -> None:
    rows = {row.split("|")[1].strip(" `"): row for row in README.splitlines() if row.startswith("| `")}
    specs = {spec.name: spec for spec in qlstm_quantizers()}
    assert set(specs) <= set(rows)
    for name, spec in specs.items():
        for reference in spec.references:
            assert reference.split("arXiv:")[1] in rows[name], name
