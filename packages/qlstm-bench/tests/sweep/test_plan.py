"""What a sweep's file asks for, and how its mistakes are named."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qlstm_bench.config import ConfigError
from qlstm_bench.sweep.plan import Plan, read_plan
from qlstm_bench.sweep.presets import load, preset_names
from qlstm_bench.sweep.yaml_lines import Document
from qlstm_bench.theory.rounded_training.rounding_adam import METHODS, RoundingAdam

BASE = "settings: {task: char-lm, data: toy, hidden: 4, steps: 2}\n"


def plan(text: str, scale: str | None = None) -> Plan:
    return read_plan(Document.parse(text, "my.yaml"), scale)


def pairs(text: str, scale: str | None = None) -> list[tuple[str, str, int]]:
    return [(c.quantizer, c.normalizer, c.seed) for c in plan(text, scale).configs]


def test_every_combination_is_run_with_every_seed() -> None:
    text = BASE + "grid:\n  quantizer: [none, bwn]\n  normalizer: [none, layer]\nseeds: 2\n"
    assert pairs(text) == list(product(["none", "bwn"], ["none", "layer"], [0, 1]))
    assert [c.seed for c in plan(BASE + "seeds: [7, 3]").configs] == [7, 3]
    assert {c.hidden for c in plan(text).configs} == {4}


def test_combinations_are_left_out_and_others_added() -> None:
    text = (
        BASE
        + """
grid: {quantizer: [none, bwn, twn], normalizer: [none, layer]}
exclude:
  - {quantizer: [bwn, twn], normalizer: none}
include:
  - {quantizer: sbn, normalizer: ["batch-shared", "batch-separate:cell=true"], hidden: 5}
"""
    )
    assert [(q, n) for q, n, _ in pairs(text)] == [
        ("none", "none"), ("none", "layer"), ("bwn", "layer"), ("twn", "layer"),
        ("sbn", "batch-shared"), ("sbn", "batch-separate:cell=true"),
    ]  # fmt: skip
    assert [c.hidden for c in plan(text).configs] == [4, 4, 4, 4, 5, 5]
    assert plan(text).labels[0] == "none, none, hidden 4"


def test_without_a_grid_only_what_is_included_is_run() -> None:
    assert pairs(BASE) == [("none", "none", 0)]
    assert pairs(BASE + "include: [{quantizer: bwn}]") == [("bwn", "none", 0)]


def test_one_run_under_two_spellings_is_run_once() -> None:
    text = BASE + "grid: {quantizer: [bwn, 'bwn:per_row=false', qlstm-quant/bwn]}"
    assert pairs(text) == [("bwn", "none", 0)]
    assert plan(text).labels == ["bwn, none"]


SCALES = """
settings: {task: char-lm, data: toy}
grid: {quantizer: [none, bwn]}
seeds: 3
scales:
  small: {about: tiny, minutes: 2, settings: {hidden: 4, steps: 2}, seeds: 1}
  paper:
    settings: {steps: 9, quantizer: twn}
    grid: {hidden: [300, 650]}
    include: [{quantizer: sbn, hidden: 7}]
"""


def test_a_scale_changes_and_adds() -> None:
    small, paper = plan(SCALES), plan(SCALES, "paper")
    assert (small.scale, small.about, small.minutes) == ("small", "tiny", 2)
    assert [(c.quantizer, c.hidden, c.steps) for c in small.configs] == [("none", 4, 2), ("bwn", 4, 2)]
    assert [(c.quantizer, c.hidden, c.steps, c.seed) for c in paper.configs] == [
        *[("twn", hidden, 9, seed) for hidden in (300, 650) for seed in range(3)],
        *[("sbn", 7, 9, seed) for seed in range(3)],
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grid: {quantiser: [bwn]}", "my.yaml, line 2: no setting 'quantiser' .did you mean 'quantizer'"),
        ("grid:\n  quantizer: [bwn]\n  hiden: [4]", "line 4: no setting 'hiden' .did you mean 'hidden'"),
        ("gird: {quantizer: [bwn]}", "line 2: no key 'gird' here .did you mean 'grid'"),
        ("quantizer: [bwn]", "line 2: no key 'quantizer' here; a setting of the runs goes below 'settings'"),
        ("grid:\n  quantizer:\n    - none\n    - bwm", "line 5: .*'bwm'.*did you mean 'bwn'"),
        ("grid:\n  cell:\n    - lstm\n    - lsmt", "line 5: unknown cell 'lsmt' .did you mean 'lstm'"),
        ("grid:\n  cell:\n    - [lstm]", "line 4: cell: expected a name, got .'lstm'."),
        (
            "grid:\n  optimizer:\n    - adam\n    - sgdd",
            "line 5: unknown optimizer 'sgdd' .did you mean 'sgd'",
        ),
        ("grid:\n  optimizer: [adam,\n    'adam:lr=1']", "line 4: optimizer: 'adam:lr=1' gives the learning"),
        ("grid: {optimizer: [[adam]]}", "line 2: optimizer: expected a name, got .'adam'."),
        ("include:\n- lr: 0.1\n  log: wand", "line 4: unknown logger 'wand' .did you mean 'wandb'"),
        ("grid:\n  quantizer: [none,\n    'bwn:per_rwo=true']", "line 4: .*'per_rwo'.*'per_row'"),
        ("grid:\n  quantizer: bwn", "line 3: quantizer: expected a list of values, .* got 'bwn'"),
        ("grid:\n  batch: []", "line 3: batch: expected a list"),
        ("grid:\n  batch: [4,\n  0]", "line 4: batch: .*1, got 0"),
        (
            "scales:\n  small:\n    settings: {batch: [4, 8]}",
            r"line 4: batch: .*got \[4, 8\]; values to be tried",
        ),
        ("grid: {normalizer: [no]}", "line 2: normalizer: expected a name, got False"),
        ("grid: {hidden: [4, 5]}", "line 1: 'hidden' stands both under 'settings' and under 'grid'"),
        ("grid: {epochs: [1]}", "my.yaml: give either epochs or steps"),
        ("grid: {seed: [1]}", "line 2: 'seed' is not given here; write 'seeds"),
        ("seeds: 0", "line 2: seeds: "),
        ("exclude:\n- {quantizer: bwn}", "line 3: this 'exclude' fits no combination"),
        ("exclude:\n- {quantizer: none}\ngrid: {quantizer: [none]}", "nothing to run"),
        ("include:\n- {quantizzer: bwn}", "line 3: no setting 'quantizzer'"),
        (
            "grid: {batch: [1]}\nseeds: 1\ngrid: {batch: [2]}",
            "line 4: 'grid' is given twice, first on line 2",
        ),
        ("grid: {batch: [1]", "my.yaml, line 2: not YAML: "),
        ("scales:\n  big: {minuts: 3}", "line 3: no key 'minuts' here .did you mean 'minutes'"),
        ("scales:\n  big: {minutes: 3}", "no scale 'small'; choose one with --scale: big"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_the_nearest_name(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        plan(BASE + text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "- a\n- b", "3", "\t"])
def test_what_is_no_sweep_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^my.yaml"):
        plan(text)


def test_one_list_of_loggers_is_for_all_runs() -> None:
    logged = plan(BASE + "grid: {quantizer: [none, bwn]}").logged_to("tensorboard,qlstm-bench/mlflow")
    assert [config.log for config in logged.configs] == 2 * [["tensorboard", "mlflow"]]
    assert [config.quantizer for config in logged.configs] == ["none", "bwn"]


def test_the_methods_of_li_et_al_are_those_of_the_theory_experiment() -> None:
    """At scale small with its settings; the four rounded ones store what two levels are."""
    configs = read_plan(load("li2017-rounded-adam"), "small").configs
    theory = RoundingAdam()
    assert {config.task for config in configs} == set(theory.task)
    for task in theory.task:
        own = [config for config in configs if config.task == task]
        assert [(config.rounding, config.batch) for config in own] == [
            ("none", 16), ("binary-connect", 16), ("stochastic", 16), ("deterministic", 16),
            ("stochastic", 96),
        ]  # fmt: skip
        methods = [("none" if mode is None else mode, big) for mode, big in METHODS.values()]
        assert sorted(methods) == sorted((config.rounding, config.batch > 16) for config in own)
        for config in own:
            assert (config.quantizer == "none") == (config.rounding == "none")
            assert config.batch in (theory.batch, theory.batch * theory.big)
            assert (config.hidden, config.steps, config.lr) == (theory.hidden, theory.steps, theory.rate)
            assert (config.optimizer, config.normalizer) == ("adam", theory.normalizer)
            assert (config.rounding_levels, config.rounding_delta) == (2, theory.delta)
            assert (config.clip, config.clipping, config.epoch_decay) == (5.0, "global", 1.0)


def test_a_scale_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"my.yaml has no scales"):
        plan(BASE, "small")
    with pytest.raises(ConfigError, match=r"no scale 'papr' .did you mean 'paper'"):
        plan(SCALES, "papr")


NAMES = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=3, unique=True)


@settings(max_examples=40, deadline=None)
@given(
    st.recursive(
        st.integers(0, 9),
        lambda part: st.lists(part, max_size=3) | st.dictionaries(NAMES.map("".join), part, max_size=3),
    )
)
def test_every_part_has_the_line_it_was_written_on(value: object) -> None:
    """One part on each line, written by hand: the line of a key or an item is found again."""
    written: list[str] = []
    expected: dict[tuple[str | int, ...], int] = {}

    def write(part: object, path: tuple[str | int, ...], lead: str) -> None:
        indent = "  " * len(path)
        if isinstance(part, dict | list) and part:
            if lead:
                written.append(lead)
            for key, item in part.items() if isinstance(part, dict) else enumerate(part):
                mark = f"{key}:" if isinstance(part, dict) else "-"
                if isinstance(part, list) and isinstance(item, dict | list) and item:
                    written.append(f"{indent}- # a part below")
                    write(item, (*path, key), "")
                    continue
                expected[(*path, key)] = len(written) + 1
                write(item, (*path, key), f"{indent}{mark}")
        else:
            written.append(f"{lead} {part}".strip() if not lead else f"{lead} {part}")

    write(value, (), "")
    document = Document.parse("\n".join(written), "f")
    assert document.value == value
    for path, line in expected.items():
        assert document.where(path) == f"f, line {line}"


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_complete_and_says_what_it_is(name: str) -> None:
    document = load(name)
    for scale in document.value["scales"]:
        read = read_plan(document, scale)
        assert len(read.labels) == len(set(read.labels)) > 1
        assert read.title
        assert len(read.about) > 40
    assert {"small", "paper"} <= set(document.value["scales"])
    small = read_plan(document)
    assert small.scale == "small"
    assert small.minutes is not None
    assert small.minutes <= 60


@pytest.mark.parametrize("name", [name for name in preset_names() if "cpu" in load(name).value["scales"]])
def test_a_processor_is_given_the_papers_sizes_for_fewer_epochs(name: str) -> None:
    cpu, paper = (read_plan(load(name), scale).configs for scale in ("cpu", "paper"))
    shorter = {"epochs", "eval_every"}
    sizes = [config.model_dump(exclude=shorter) for config in paper]
    assert all(config.model_dump(exclude=shorter) in sizes for config in cpu)
    assert max(config.epochs or 0 for config in cpu) < min(config.epochs or 0 for config in paper)


@pytest.mark.parametrize(
    ("name", "scale", "expected"),
    [
        *[
            (
                f"hou2019-char-{data}",
                scale,
                {"epoch_decay": 0.98, "epoch_decay_after": 10, "decay_of": "quantized"},
            )
            for data in ("ptb", "war-and-peace")
            for scale in ("cpu", "paper")
        ],
        ("hou2019-cells-and-layers", "paper", {"epoch_decay": 0.98, "decay_of": "quantized"}),
        ("hou2019-char-text8", "paper", {"epoch_decay": 1.0}),
        ("hou2019-word-ptb", "cpu", {"stall_divisor": 4.0, "epoch_decay": 1.0}),
        ("hou2019-word-ptb", "paper", {"stall_divisor": 4.0, "epoch_decay": 1.0, "epochs": 120}),
    ],
)
def test_presets_of_the_papers_size_have_the_authors_recipe(
    name: str, scale: str, expected: dict[str, object]
) -> None:
    """As docs/recipe.md says it: which rates decay, what is tested, where gains of batch statistics start."""
    configs = read_plan(load(name), scale).configs
    for config in configs:
        assert {setting: getattr(config, setting) for setting in expected} == expected
        assert config.tested == "best"
        if config.normalizer.startswith("batch-") and "cell=true" not in config.normalizer:
            assert "gain=0.5" in config.normalizer


def test_the_large_vocabulary_is_trained_as_its_authors_did() -> None:
    """Clipped at norm 1 of a loss summed over 20 steps; the recurrent layers' average is tested."""
    for config in read_plan(load("kuchaiev2017-large-vocabulary"), "paper").configs:
        assert config.task == "large-vocab-lm"  # the embedding has the gradient of the summed loss
        assert (config.clip, config.clipping) == (1 / 20, "recurrent")
        assert (config.average, config.average_of, config.start) == (0.999, "recurrent", "glorot")


@pytest.mark.parametrize("name", ["hou2019-mnist", "hou2019-permuted-mnist"])
def test_mnist_starts_as_in_its_authors_code(name: str) -> None:
    """Noise and gains of 0.1 with layer and batch normalisation, whose own default is 0.1 in batches."""
    for scale in ("cpu", "paper"):
        configs = read_plan(load(name), scale).configs
        theirs = [config for config in configs if config.quantizer not in ("sbn", "stn")]
        assert len(theirs) == 30
        for config in theirs:
            assert config.tested == "best"
            assert (config.start, config.initial_state, config.input_quantizer) == (
                "identity",
                "learned",
                "none",
            )
            noisy = config.normalizer.startswith(("layer", "batch"))
            assert config.initial_state_noise == (0.1 if noisy else 0.0)
        kinds = {config.normalizer for config in theirs}
        assert kinds == {"none", "weight", "layer:gain=0.1", "batch-shared", "batch-separate:max_steps=784"}


def test_a_file_or_a_preset_is_found(tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(BASE)
    assert load(str(tmp_path / "grid.yaml")).value["settings"]["hidden"] == 4
    with pytest.raises(
        ConfigError,
        match=r"'hou2019-char-pbt' is neither a file nor a preset .did you mean 'hou2019-char-ptb'",
    ):
        load("hou2019-char-pbt")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"binary\.yaml: cannot be read"):
        load(str(tmp_path / "binary.yaml"))
