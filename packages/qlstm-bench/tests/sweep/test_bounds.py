"""Files that are damaged or hostile: told in one line, before anything is built."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from qlstm_bench.bounded_yaml import MAX_BYTES
from qlstm_bench.config import ConfigError, RunConfig
from qlstm_bench.sweep.plan import MAX_RUNS, read_plan
from qlstm_bench.sweep.presets import load
from qlstm_bench.sweep.yaml_lines import Document

BASE = "settings: {task: char-lm, data: toy, hidden: 4, steps: 2}\n"
NINES = ", ".join("*a{0}" for _ in range(9))
LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{NINES.format(n - 1)}]\n" for n in range(1, 10))
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 60))
MANY = ", ".join(str(n) for n in range(1, 200))
GRID = (
    BASE + "grid:\n" + "".join(f"  {name}: [{MANY}]\n" for name in ("batch", "unroll", "layers", "patience"))
)


def from_sweep(text: str, folder: Path) -> object:
    return Document.parse(text, "file.yaml")


def from_config(text: str, folder: Path) -> object:
    path = folder / "config.yaml"
    path.write_text(text)
    return RunConfig.from_yaml(path)


@pytest.mark.parametrize("read", [from_sweep, from_config])
@pytest.mark.parametrize(
    ("text", "named"),
    [
        (LAUGHS, "line 6: more than 20,000 values, with aliases counted"),
        (CHAIN, "line 20: lists and mappings stand more than 20 deep"),
        ("&a [*a]", "line 1: an alias stands inside what it stands for"),
        ("[" * 3000, "line 1: lists and mappings stand more than 20 deep"),
        ("\n\nhidden: " + "9" * 5000, "line 3: a number of 5000 characters; at most 40"),
        ("hidden: 0x" + "f" * 5000, "a number of 5002 characters"),
        ("hidden: !!int abc", "line 1: 'abc' is no int"),
        ("hidden: !!bool abc", "line 1: 'abc' is no bool"),
        ("hidden: !!timestamp 2024-13-45", "could not determine a constructor for the tag"),
        ("? [a, b]\n: 1", "line 1: expected a name before ':', got a list or mapping"),
        ("data: x\n3: 4", "line 2: expected a name before ':', got '3'"),
        ("data: x\non: 4", "line 2: expected a name before ':', got 'on'"),
        ("data: x\ndata: y", "line 2: 'data' is given twice, first on line 1"),
        ("#" * (MAX_BYTES + 1), "larger than 256 KiB"),
        ("a: 1\n---\nb: 2", "line 2: not YAML: but found another document"),
        ("!!python/object/apply:os.getcwd []", "line 1: not YAML: could not determine a constructor"),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else "",
)
def test_what_is_beyond_the_bounds_has_one_line(
    read: Callable[[str, Path], object], text: str, named: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text, tmp_path)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


def test_what_is_within_the_bounds_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anchors and merge keys included; a date is text, as no setting is one."""
    text = "a: &a {x: 1, y: [2024-13-45, 2e3, 1_000, 0x10, yes, ~, '5']}\nb: {<<: *a, x: 2}\n"
    y = ["2024-13-45", "2e3", 1000, 16, True, None, "5"]
    assert Document.parse(text, "f").value == {"a": {"x": 1, "y": y}, "b": {"x": 2, "y": y}}
    monkeypatch.setattr("qlstm_bench.bounded_yaml.MAX_PARTS", 50)
    most = "1," * 48  # the mapping and the list count, too
    assert Document.parse(f"a: [{most}]", "f").value == {"a": [1] * 48}
    for more in ("1", "&b 1, *b"):
        with pytest.raises(ConfigError, match="more than 50 values"):
            Document.parse(f"a: [{most}{more}]", "f")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (GRID, "line 2: 1,568,239,201 combinations with 1 seed each are .* runs; .* at most 10,000"),
        (BASE + "seeds: 20240601", r"line 2: seeds: .*the one seed 20240601 is written \[20240601\]"),
        (BASE + "seeds: 9" + "0" * 30, "line 2: seeds: a number of seeds"),
        (
            BASE + "grid: {batch: [1, 2, 3, 4, 5]}\nseeds: 2024",
            r"line 3: 5 combinations with 2,024 seeds .* 10,120 runs; .* is written \[2024\]",
        ),
        (BASE + "seeds: true", "line 2: seeds: .*valid integer"),
        (BASE + "seeds: [-1]", "line 2: seeds: .*greater than or equal to 0, got -1"),
        (BASE + "seeds: [4294967296]", "line 2: seeds: .*less than 4294967296"),
        (BASE + "include: [{batch: [" + MANY + "], unroll: [" + MANY + "]}]", "39,601 runs"),
    ],
)  # fmt: skip
def test_too_many_runs_are_refused_before_they_are_built(
    text: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*_: object) -> RunConfig:
        raise AssertionError("built")

    monkeypatch.setattr("qlstm_bench.sweep.plan._config", build)
    with pytest.raises(ConfigError, match=named):
        read_plan(Document.parse(text, "my.yaml"))


def test_as_many_runs_as_are_allowed_are_a_sweep() -> None:
    seeds = [config.seed for config in read_plan(Document.parse(BASE + f"seeds: {MAX_RUNS}", "f")).configs]
    assert seeds == list(range(MAX_RUNS))


def test_long_values_are_shortened_in_messages() -> None:
    with pytest.raises(ConfigError, match=r"title: .*\.\.\.") as caught:
        read_plan(Document.parse(BASE + f"title: [{'x' * 10_000}]", "my.yaml"))
    assert len(str(caught.value)) < 200


def test_what_is_no_ordinary_file_is_not_waited_for(tmp_path: Path) -> None:
    fifo = tmp_path / "grid.yaml"
    os.mkfifo(fifo)
    with pytest.raises(ConfigError, match=r"grid\.yaml: cannot be read: not an ordinary file"):
        load(str(fifo))
    with pytest.raises(ConfigError, match=r"grid\.yaml: cannot be read: not an ordinary file"):
        RunConfig.from_yaml(fifo)
    with pytest.raises(ConfigError, match="neither a file nor a preset"):
        load("x" * 5000)
