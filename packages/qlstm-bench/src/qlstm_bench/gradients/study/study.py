"""From run folders to tables and figures in one folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from qlstm_bench.errors import BenchError, RunError
from qlstm_bench.gradients.study import tables
from qlstm_bench.gradients.study.figures import Line, draw_figures, draw_gain_effect, draw_stretch
from qlstm_bench.gradients.study.networks import GainEffect, Measurement, Network, find_models
from qlstm_bench.report.drawing import save_png
from qlstm_bench.tables import to_csv
from qlstm_bench.training.folder import check_writable
from qlstm_core.files import replace_file
from qlstm_core.plugins import PluginError
from qlstm_core.printable import printable


def study(
    paths: Sequence[Path],
    out: Path,
    *,
    quantizer: str | None = None,
    normalizer: str | None = None,
    gains: Sequence[float] = (),
    jacobian: bool = False,
) -> list[Measurement]:
    """Measure trained networks, print the tables, and write tables and figures.

    Args:
        paths: run folders, folders of them, or ``model.safetensors`` files.
        out: folder for the results; figures of several datasets go into one folder each.
        quantizer, normalizer: also measure every network's weights under these.
        gains: factors of the recurrent gains to measure normalised networks with.
        jacobian: whether to compute exact Jacobians through time.

    Raises:
        RunError, GradientAnalysisError: a network that cannot be measured, or the only one that is given
            cannot be read. One of several is named and left out.
    """
    check_writable(out)
    measurements: list[Measurement] = []
    effects: dict[str, list[GainEffect]] = {}
    for network in _networks(list(find_models(paths))):
        own = network.measure()
        measurements.append(own)
        if quantizer is not None or normalizer is not None:
            trained_as = (network.config.quantizer, network.config.normalizer)
            other = network.other(quantizer, normalizer)
            if trained_as != (other.config.quantizer, other.config.normalizer):
                measurements.append(other.measure(trained_as))
        if gains and network.config.normalizer != "none":
            effects[own.title] = network.effect_of_gains(gains)
    measurements.sort(key=_order)
    for dataset in dict.fromkeys(m.dataset for m in measurements):
        shown = [m for m in measurements if m.dataset == dataset]
        print(f"\n{printable(dataset)}\n\n{tables.stability_table(shown)}\n\n{tables.gates_table(shown)}")
    print(f"\n{_LEGEND}")
    for reason in dict.fromkeys(layer.reason for m in measurements for layer in m.layers if layer.reason):
        print(f"qlstm-bench: no bounds: {printable(reason)}", file=sys.stderr)
    _write_tables(measurements, out)
    _write_figures(measurements, out)
    if effects:
        print(f"\n{tables.gains_table(effects)}")
        rows = [{"network": title, **asdict(e)} for title, found in effects.items() for e in found]
        _write(pd.DataFrame(rows), out / "gain-effect.csv")
        save_png(draw_gain_effect(effects), out / "gain-effect.png")
    if jacobian:
        _write_jacobian(measurements, out)
    print(f"\ntables and figures: {out}")
    return measurements


def _networks(paths: Sequence[Path]) -> Iterator[Network]:
    read = 0
    for path in paths:
        try:
            network = Network.load(path)
        except (BenchError, PluginError) as error:
            if len(paths) == 1:
                raise
            print(f"qlstm-bench: skipped: {printable(f'{path.name}: {error}')}", file=sys.stderr)
        else:
            read += 1
            yield network
    if not read:
        raise RunError(f"none of {len(paths)} networks can be read: each is named above")


def _order(m: Measurement) -> tuple[object, ...]:
    names = (m.quantizer, m.normalizer)
    return (m.dataset, m.cell, *((name != "none", name) for name in names), m.name)


def _write(frame: pd.DataFrame, path: Path) -> None:
    try:
        replace_file(path, to_csv(frame, "%.6g"))
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror or error}") from error


def _write_tables(measurements: list[Measurement], out: Path) -> None:
    frames = {
        "norms": tables.norms_frame(measurements),
        "gates": tables.gates_frame(measurements),
        "stability": tables.stability_frame(measurements),
        "bounds": tables.bounds_frame(measurements),
        "recorded": tables.recorded_frame(measurements),
    }
    for name, frame in frames.items():
        if len(frame):
            _write(frame, out / f"{name}.csv")


def _write_figures(measurements: list[Measurement], out: Path) -> None:
    datasets = list(dict.fromkeys(m.dataset for m in measurements))
    for dataset in datasets:
        shown = [m for m in measurements if m.dataset == dataset]
        plain = len({m.cell for m in shown}) == 1
        lines = [
            Line(
                m.quantizer,
                m.normalizer,
                tuple(m.summaries),
                m.recorded,
                ("" if plain else f" ({m.cell})")
                + ("" if m.trained_as == (m.quantizer, m.normalizer) else f", of {'/'.join(m.trained_as)}"),
            )
            for m in shown
        ]
        folder = out if len(datasets) == 1 else out / dataset
        folder.mkdir(exist_ok=True)
        for name, figure in draw_figures(lines).items():
            save_png(figure, folder / f"{name}.png")


def _write_jacobian(measurements: list[Measurement], out: Path) -> None:
    frame = tables.jacobian_frame(measurements)
    _write(frame, out / "jacobian.csv")
    by = ["dataset", "cell", "quantizer", "normalizer", "run", "layer", "direction"]
    rows = [
        (
            f"{key[2]}, {key[3]}",
            {name: part[name].to_numpy() for name in ("t", "exact", "measured_bound", "bound")},
        )
        for key, part in frame.groupby(by, sort=False)
    ]
    if rows:
        save_png(draw_stretch(rows), out / "jacobian.png")
    for key, part in frame.groupby(by, sort=False):
        exponent = part["lyapunov_exponent"].iloc[0]
        network = printable(f"{key[2]}, {key[3]}")
        print(f"{network}, layer {key[5]}: largest Lyapunov exponent {exponent:+.3f} per step")


_LEGEND = """growth     gradient norm at the first time step over that at the last; far above 1 it explodes
λ1(W)      λ1 of the bound on one step without normaliser, from full-precision weights
λ1(Q)      the same from quantized weights; λ1 with the normaliser's gains and σ as measured
λ1 meas.   λ1 with the gates' slopes as they are on the batch instead of their maxima
γ          largest |c| before a step (of a GRU |h|)
tightness  log10 of the bound over what it bounds, median over steps: 0 is attained
B1√d       lower bound of ‖Q(W)‖ for weights of ±B1 or larger; (1−s)B1√d for sparsity s
|g|, σ     mean gain and median σ of W_h h; max |g|/σ: the most that normalising stretches a gradient"""
