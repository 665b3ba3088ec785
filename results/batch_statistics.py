"""One network, three kinds of statistics: why shared ones fail where steps differ.

    python results/batch_statistics.py OUT RUNS…

Two runs that differ only in batch-shared and batch-separate train the same network: in training both use the
statistics of the batch at hand. For every such pair below the folders RUNS, ``OUT.csv`` gets the accuracy in
test with the batch's own statistics, with the running ones of each step and with those that all steps share;
``OUT-steps.csv`` gets, for the pairs at full precision, what the statistics are at each step.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from qlstm_bench import Record, Task, collect, resolve
from qlstm_core import Normalizer, RecurrentLayer


class Trained(NamedTuple):
    """A run's task and its network as it was kept."""

    task: Task
    model: nn.Module
    tensors: dict[str, Tensor]

    @property
    def layer(self) -> RecurrentLayer:
        """The recurrent layer."""
        return self.task.recurrent(self.model)

    @property
    def eps(self) -> float:
        """What batch normalisation adds to variances."""
        eps: float = vars(self.layer.normalizers["ih_l0"])["eps"]
        return eps

    def sigma(self, path: str) -> Tensor:
        """Return the running σ of a path, root mean square over gates and units: ``(steps,)``."""
        variance = self.tensors[f"recurrent.normalizers.{path}_l0.running_var"]
        return variance.flatten(1).mean(1).sqrt()


def read(record: Record) -> Trained:
    """Return what a run has trained."""
    config, task = resolve(record.run.config.model_dump())
    task.prepare(config)
    model = task.model(config.quantizer, config.normalizer)
    tensors = load_file(record.run.directory / "model.safetensors")
    model.load_state_dict(tensors)
    return Trained(task, model.eval(), tensors)


def pairs(records: Iterable[Record]) -> Iterable[tuple[Record, Record]]:
    """Yield the runs with separate and with shared statistics that agree in all other settings."""
    found: dict[tuple[str, ...], dict[str, Record]] = {}
    for record in records:
        name, _, options = record.run.config.normalizer.partition(":")
        shared = [option for option in options.split(",") if not option.startswith("max_steps=")]
        others = record.run.config.model_dump_json(exclude={"normalizer"})
        found.setdefault((others, *filter(None, shared)), {})[name] = record
    for pair in found.values():
        if {"batch-separate", "batch-shared"} <= pair.keys():
            yield pair["batch-separate"], pair["batch-shared"]


def same_weights(first: Trained, second: Trained) -> bool:
    """Return whether all but the running statistics is equal, bit for bit."""
    return all(
        torch.equal(tensor, second.tensors[name])
        for name, tensor in first.tensors.items()
        if "running" not in name
    )


def own_statistics(trained: Trained) -> float:
    """Return the accuracy in test where each batch is normalised by its own statistics, as in training."""
    for module in trained.model.modules():
        if isinstance(module, Normalizer):
            module.train()
    return trained.task.evaluate(trained.model, "test")


def largest(trained: Trained, x: Tensor, statistics: str) -> Tensor:
    """Return the largest \\|x̂\\| of the input path at each step, ``(T,)``.

    Args:
        trained: gives weights and running statistics.
        x: ``(T, B, features)``.
        statistics: ``"own"`` of this batch, or ``"running"``.
    """
    weight = trained.layer.quantized_weights()["ih"].flatten(0, 1)
    z = x @ weight.T
    if statistics == "own":
        mean, variance = z.mean(1), z.var(1, unbiased=False)
    else:
        name = "recurrent.normalizers.ih_l0.running_"
        mean, variance = (trained.tensors[name + part].flatten(1) for part in ("mean", "var"))
    eps = trained.eps
    return ((z - mean.unsqueeze(1)).abs() / (variance + eps).sqrt().unsqueeze(1)).flatten(1).amax(1)


def at_each_step(each: Trained, one: Trained) -> pd.DataFrame:
    """Return the statistics of two runs of one network, and how far they put the inputs of a training batch.

    Args:
        each: with statistics for each step.
        one: with shared ones.
    """
    x, _ = each.task.batch(0)
    steps = len(x)
    return pd.DataFrame(
        {
            "step": range(steps),
            "input_sigma": each.sigma("ih"),
            "input_sigma_shared": one.sigma("ih").expand(steps),
            "recurrent_sigma": each.sigma("hh"),
            "recurrent_sigma_shared": one.sigma("hh").expand(steps),
            "largest_own": largest(each, x, "own"),
            "largest_per_step": largest(each, x, "running"),
            "largest_shared": largest(one, x, "running"),
        }
    )


@torch.no_grad()
def main(out: str, runs: list[Path]) -> None:
    """Measure every pair below the folders ``runs``."""
    rows: list[dict[str, Any]] = []
    tables: list[pd.DataFrame] = []
    for separate, shared in pairs(collect(runs)[0]):
        if "diverged" in (separate.result.status, shared.result.status):
            continue
        config = separate.run.config
        each, one = read(separate), read(shared)
        row = {
            "task": config.task,
            "quantizer": config.quantizer,
            "eps": each.eps,
            "steps": separate.result.steps,
            "same_weights": same_weights(each, one),
            "shared": one.task.evaluate(one.model, "test"),
            "per_step": each.task.evaluate(each.model, "test"),
        }
        if config.quantizer == "none":
            table = at_each_step(each, one)
            tables.append(table.assign(task=config.task, eps=row["eps"]))
        rows.append(row | {"own": own_statistics(each)})  # last: it moves the running statistics
        print(rows[-1], flush=True)
    pd.DataFrame(rows).to_csv(f"{out}.csv", index=False, float_format="%.4g")
    pd.concat(tables).to_csv(f"{out}-steps.csv", index=False, float_format="%.4g")


if __name__ == "__main__":
    main(sys.argv[1], [Path(folder) for folder in sys.argv[2:]])
