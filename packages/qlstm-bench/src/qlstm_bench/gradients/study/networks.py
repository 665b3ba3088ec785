"""Measuring trained networks: from run folders and model files to analyses."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from qlstm_bench.config import RunConfig
from qlstm_bench.errors import RunError
from qlstm_bench.gradients.analysis import LayerAnalysis, LayerSummary
from qlstm_bench.gradients.of_task import analyze_task
from qlstm_bench.gradients.study.metrics import gradient_decades
from qlstm_bench.gradients.study.recording import Recording, recordings
from qlstm_bench.tasks import Task
from qlstm_bench.training.trained import read_trained
from qlstm_core import Normalizer
from qlstm_core.plugins import registry


@dataclass(frozen=True)
class Measurement:
    """One network on one batch.

    Args:
        name: name of its run or file.
        dataset: what it was trained on.
        cell, quantizer, normalizer: settings of its layers, as measured.
        trained_as: quantizer and normaliser that it was trained with.
        layers: one for each layer and direction.
        recorded: what was recorded during training, if anything.
    """

    name: str
    dataset: str
    cell: str
    quantizer: str
    normalizer: str
    trained_as: tuple[str, str]
    layers: tuple[LayerAnalysis, ...]
    recorded: tuple[Recording, ...]

    @property
    def summaries(self) -> list[LayerSummary]:
        """The figures of each layer and direction."""
        return [layer.summary() for layer in self.layers]

    @property
    def title(self) -> str:
        """Quantizer and normaliser in words, and what the network was trained with where that differs."""
        trained = (
            ""
            if self.trained_as == (self.quantizer, self.normalizer)
            else f", of {'/'.join(self.trained_as)}"
        )
        return f"{self.quantizer}, {self.normalizer}{trained}"


@dataclass(frozen=True)
class GainEffect:
    """A network whose recurrent gains were all multiplied by one factor.

    Args:
        factor: the multiple.
        decades: log10 of the largest over the smallest gradient norm.
        growth: growth of the gradient from the last step to the first.
        lambda1: median over the steps.
    """

    factor: float
    decades: float
    growth: float
    lambda1: float


@dataclass(frozen=True)
class Network:
    """A trained network and its task, ready to be measured.

    Args:
        name: name of its run or file.
        config: settings of its run.
        task: prepared.
        model: the model with the trained parameters.
        recorded: what was recorded during training.
    """

    name: str
    config: RunConfig
    task: Task
    model: nn.Module
    recorded: tuple[Recording, ...]

    @classmethod
    def load(cls, path: Path) -> Network:
        """Return the network of a run folder or of a ``model.safetensors``.

        Raises:
            RunError: a file that is missing, damaged, or was not written by a run.
            BenchError, PluginError: its task, data or plugins are not there.
        """
        config, model, task = read_trained(path)
        folder = path if path.is_dir() else path.parent
        return cls(folder.name, config, task, model, tuple(recordings(folder)))

    def other(self, quantizer: str | None, normalizer: str | None) -> Network:
        """Return the network with the same weights under another quantizer or normaliser, newly made.

        A normalised layer has one bias where another has two: they are added, or the second is zero.
        """
        names = {
            "quantizer": registry.quantizers.canonical(quantizer or self.config.quantizer),
            "normalizer": registry.normalizers.canonical(normalizer or self.config.normalizer),
        }
        model = self.task.model(**names)
        theirs, own = dict(self.model.state_dict()), dict(model.state_dict())
        for name, value in theirs.items():
            new = ".quantizers." in name or (normalizer is not None and ".normalizers." in name)
            if name in own and not new:
                own[name] = value
            elif "bias_hh" in name and name not in own:
                own[name.replace("bias_hh", "bias_ih")] = theirs[name.replace("bias_hh", "bias_ih")] + value
        for name in own:
            if "bias_hh" in name and name not in theirs:
                own[name] = torch.zeros_like(own[name])
        model.load_state_dict(own)
        if normalizer is not None:
            # Gains that come from the weight, as weight normalisation's do, shall come from this one.
            layer = self.task.recurrent(model)
            for key, norm in layer.normalizers.items():
                if key[:2] in ("ih", "hh") and isinstance(norm, Normalizer):
                    norm.prepare(
                        layer.get_parameter(f"weight_{key}")
                        .detach()
                        .unflatten(0, (len(layer.cell.gates), -1))
                    )
        return Network(self.name, self.config.model_copy(update=names), self.task, model, ())

    def measure(self, trained_as: tuple[str, str] | None = None) -> Measurement:
        """Return the analysis on a batch of the validation part.

        Args:
            trained_as: quantizer and normaliser that the weights were trained with, if others.
        """
        names = (self.config.quantizer, self.config.normalizer)
        return Measurement(
            name=self.name,
            dataset=self.task.dataset,
            cell=self.config.cell,
            quantizer=names[0],
            normalizer=names[1],
            trained_as=trained_as or names,
            layers=tuple(analyze_task(self.task, self.model, self.config.seed)),
            recorded=self.recorded,
        )

    def effect_of_gains(self, factors: Sequence[float]) -> list[GainEffect]:
        """Measure the network with the gains of its recurrent normalisers multiplied.

        Args:
            factors: each multiplies the gains as trained.

        Raises:
            RunError: a network whose normaliser has no gain.
        """
        found = []
        for factor in factors:
            model = copy.deepcopy(self.model)
            norms = self.task.recurrent(model).normalizers.items()
            gains = [
                parameter
                for key, norm in norms
                for name, parameter in norm.named_parameters()
                if key.startswith("hh") and name == "gain"
            ]
            if not gains:
                raise RunError(f"{self.name}: normaliser {self.config.normalizer!r} has no gain to vary")
            with torch.no_grad():
                for gain in gains:
                    gain.mul_(factor)
            layers = [
                layer.summary()
                for layer in analyze_task(self.task, model, self.config.seed, both_sides=False)
            ]
            lambdas = [layer.bounds.lambda1 for layer in layers if layer.bounds is not None]
            found.append(
                GainEffect(
                    factor,
                    gradient_decades(layer.norms for layer in layers),
                    max(layer.norms.growth for layer in layers),
                    max(lambdas, default=float("nan")),
                )
            )
        return found


def find_models(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield every run folder with a model among folders, and every file given.

    Args:
        paths: run folders, folders that hold run folders at any depth, or files.

    Raises:
        RunError: a path that holds none.
    """
    for path in paths:
        found = sorted(model.parent for model in path.rglob("model.safetensors")) if path.is_dir() else [path]
        if not found:
            raise RunError(f"{path}: no model.safetensors in it or below: expected runs that have ended")
        yield from found
