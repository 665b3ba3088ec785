"""Suites: which runs follow from a file and from names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from qlstm_bench.compare.reference import read_reference
from qlstm_bench.compare.suite import find_methods, plan_contests, read_suite, suite_names
from qlstm_bench.config import ConfigError
from qlstm_bench.training.result import Result
from qlstm_core.plugins import PluginError


def write(path: Path, **changes: Any) -> str:
    """Write a suite of one task, changed as said; ``None`` takes a key away."""
    suite: dict[str, Any] = {
        "version": 1, "title": "small", "minutes": 1, "seeds": 2,
        "tasks": {"images": {"settings": {"task": "digits", "data": "digits", "hidden": 8, "steps": 2}}},
        "rivals": {
            "quantizer": {"settings": {"normalizer": "layer"}, "grid": {"quantizer": ["none", "bwn"]}},
            "cell": {"grid": {"cell": ["lstm", "gru"], "quantizer": ["none", "bwn"]}},
        },
        "speed": "4,2,3,4",
    }  # fmt: skip
    suite = {name: value for name, value in (suite | changes).items() if value is not None}
    path.write_text(yaml.safe_dump(suite))
    return str(path)


def test_named_methods_take_the_place_of_the_rivals_with_every_seed(tmp_path: Path) -> None:
    suite = read_suite(write(tmp_path / "suite.yaml"))
    (contest,) = plan_contests(suite, {"quantizer": ["twn", "lsq:bits=2"]})
    runs = [(config.quantizer, config.normalizer, config.seed) for config in contest.configs]
    methods = ["twn", "lsq:bits=2", "none", "bwn"]
    assert runs == [(name, "layer", seed) for name in methods for seed in (0, 1)]
    assert contest.named == 4
    assert {(config.hidden, config.steps) for config in contest.configs} == {(8, 2)}
    assert contest.labels[0] == "images: twn, layer, seed 0"


def test_cells_are_tried_with_what_the_grid_says_beside_them(tmp_path: Path) -> None:
    suite = read_suite(write(tmp_path / "suite.yaml", seeds=1))
    (contest,) = plan_contests(suite, {"cell": ["f-lstm:rank=3"]})
    assert [contest.method(config) for config in contest.configs] == [
        "f-lstm, none, rank 3", "f-lstm, bwn, rank 3", "lstm, none", "lstm, bwn", "gru, none", "gru, bwn",
    ]  # fmt: skip
    assert contest.named == 2


def test_a_rival_that_is_named_runs_once_and_counts_as_named(tmp_path: Path) -> None:
    (contest,) = plan_contests(read_suite(write(tmp_path / "suite.yaml")), {"quantizer": ["bwn"]})
    assert [config.quantizer for config in contest.configs] == ["bwn", "bwn", "none", "none"]
    assert contest.named == 2


def test_a_method_that_does_not_fit_a_task_is_left_out_and_said(tmp_path: Path) -> None:
    settings = {"task": "digits", "data": "digits", "hidden": 8, "steps": 2, "optimizer": "sgd"}
    suite = read_suite(write(tmp_path / "suite.yaml", tasks={"plain": {"settings": settings}}))
    (contest,) = plan_contests(suite, {"quantizer": ["lab", "twn"]})
    assert [config.quantizer for config in contest.configs[::2]] == ["twn", "none", "bwn"]
    (line,) = contest.refused
    assert line.startswith("lab is left out: ")
    assert "second moments" in line


def test_a_task_may_take_the_settings_of_a_preset_and_change_them(tmp_path: Path) -> None:
    tasks = {"images": {"preset": "digits", "scale": "small", "settings": {"steps": 5}}}
    suite = read_suite(write(tmp_path / "suite.yaml", tasks=tasks, settings={"hidden": 3, "device": "cpu"}))
    (contest,) = plan_contests(suite, {"quantizer": []})
    config = contest.configs[0]
    assert (config.task, config.hidden, config.steps, config.eval_every) == ("digits", 50, 5, 100)
    assert config.device == "cpu"
    assert contest.named == 0


def test_names_find_their_kinds_and_one_spelling() -> None:
    names = ["layer", "twn", "alternating:bits=2", "gru", "qlstm-quant/twn", "alternating:bits=3"]
    assert find_methods(names) == {
        "normalizer": ["layer"],
        "quantizer": ["twn", "alternating", "alternating:bits=3"],
        "cell": ["gru"],
    }
    assert find_methods(["none"], "normalizer") == {"normalizer": ["none"]}


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("none", None, "'none' is the name of a quantizer and of a normalizer: say which with --kind quant"),
        ("twm", None, "is called 'twm' (did you mean 'twn'?)"),
        ("twn:bit=2", None, "quantizer 'twn' has no option 'bit'"),
        ("lstn", "cell", "unknown cell 'lstn' (did you mean 'lstm'"),
    ],
)
def test_names_that_mean_nothing_or_two_things_are_refused(name: str, kind: str | None, said: str) -> None:
    with pytest.raises((ConfigError, PluginError)) as raised:
        find_methods([name], kind)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": None}, "no key 'version' here, and it is needed"),
        ({"version": 0}, "version: input should be greater than or equal to 1, got 0"),
        ({"taks": {}}, "no key 'taks' here (did you mean 'tasks'?); allowed: version, title"),
        ({"tasks": {}}, "tasks: dictionary should have at least 1 item"),
        ({"tasks": {"a": {"setings": {}}}}, "no key 'setings' here (did you mean 'settings'?)"),
        ({"rivals": {"quantizer": {"grid": {"cell": ["lstm"]}}}}, "expected a list of rivals, as in quant"),
        ({"rivals": {"cell": {}}}, "line 3: no key 'grid' here, and it is needed"),
        ({"rivals": {"quantiser": {"grid": {}}}}, "quantiser: input should be 'quantizer', 'normalizer'"),
        ({"speed": "4,2,3"}, "speed: shape '4,2,3' is not STEPS,BATCH,INPUT,HIDDEN"),
        ({"seeds": 0}, "seeds: input should be greater than or equal to 1, got 0"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_suite_is_one_line(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    source = write(tmp_path / "suite.yaml", **changes)
    with pytest.raises(ConfigError) as raised:
        read_suite(source)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({}, "normalizer", "has no rivals of a normalizer: it compares by cell, quantizer"),
        ({"tasks": {"a": {"preset": "digts", "scale": "small"}}}, "quantizer", "(did you mean 'digits'?)"),
        ({"tasks": {"a": {"preset": "digits"}}}, "quantizer", "has no scale None; expected one of small,"),
        (
            {"tasks": {"a": {"settings": {"hiden": 3}}}},
            "quantizer",
            "task a: no setting 'hiden' (did you mean 'hidden'?)",
        ),
    ],
)  # fmt: skip
def test_a_suite_that_cannot_be_run_is_one_line(
    tmp_path: Path, changes: dict[str, Any], kind: Any, said: str
) -> None:
    suite = read_suite(write(tmp_path / "suite.yaml", **changes))
    with pytest.raises(ConfigError) as raised:
        plan_contests(suite, {kind: ["twn"] if kind == "quantizer" else ["layer"]})
    assert said in str(raised.value)


ONLY_WITH_SECOND_MOMENTS = {"lab", "lat"}


@pytest.mark.parametrize("name", suite_names())
def test_every_rival_of_the_packages_suites_runs_on_every_task(name: str) -> None:
    suite = read_suite(name)
    contests = plan_contests(suite, {kind: [] for kind in suite.file.rivals})
    assert len(contests) == 3 * len(suite.file.tasks)
    for contest in contests:
        refused = {line.partition(" ")[0] for line in contest.refused}
        assert refused <= (ONLY_WITH_SECOND_MOMENTS if contest.task == "words" else set())
        methods = {getattr(config, contest.kind) for config in contest.configs}
        assert len(methods) == len(suite.file.rivals[contest.kind].grid[contest.kind]) - len(refused)
        seeds = suite.file.seeds
        assert {config.seed for config in contest.configs} == set(
            range(seeds) if isinstance(seeds, int) else seeds
        )


@pytest.mark.parametrize("name", suite_names())
def test_shipped_runs_are_those_of_the_suite_as_it_is(name: str) -> None:
    """Whoever changes a suite, or a preset that it takes settings from, makes the shipped runs again."""
    suite = read_suite(name)
    reference = read_reference(suite)
    if reference is None:
        return
    assert reference.version == suite.file.version
    configs = [
        config
        for contest in plan_contests(suite, {kind: [] for kind in suite.file.rivals})
        for config in contest.configs
    ]
    for config in configs:
        found = reference.find(config, "")  # no data has this SHA-256
        assert found == "data", f"{config.quantizer}, {config.normalizer}, {config.cell}: no {found}"
    assert len(reference.runs) == len({config.model_dump_json() for config in configs})
    results: list[Result] = [run.result for run in reference.runs]
    assert {result.status for result in results} <= {"completed", "diverged"}
