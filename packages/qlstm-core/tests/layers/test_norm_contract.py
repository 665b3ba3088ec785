"""The promise of ``statistics`` in torch's operations: equal to float64 written out, and to autograd."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from right_plugins import BatchNorm, FeatureNorm, RootMeanSquare

from qlstm_core import Normalizer
from qlstm_core.layers.norm_contract import Norm, gain_and_bias

NORMALIZERS = {"features": FeatureNorm, "uncentred": RootMeanSquare, "batch": BatchNorm}
sizes = st.integers(1, 5)


def prepared(name: str, segments: int, units: int) -> Normalizer:
    """Return a normaliser in float64 whose gain, bias and running statistics are random."""
    normalizer = NORMALIZERS[name]()
    normalizer.eps = 0.01
    normalizer.prepare(torch.zeros(segments, units, 1, dtype=torch.float64))
    for tensor in (*normalizer.parameters(), *normalizer.buffers()):
        tensor.data = 0.5 + torch.rand_like(tensor)
    return normalizer


@given(
    st.sampled_from(sorted(NORMALIZERS)), st.booleans(), st.integers(2, 6), sizes, sizes, st.integers(0, 9999)
)
def test_one_step_equals_the_normaliser_and_its_gradient(
    name: str, training: bool, batch: int, segments: int, units: int, seed: int
) -> None:
    torch.manual_seed(seed)
    normalizer = prepared(name, segments, units).train(training)
    p = torch.randn(batch, segments, units, dtype=torch.float64, requires_grad=True)
    norm, (gain, bias) = Norm.of(normalizer), gain_and_bias(normalizer)
    with torch.no_grad():
        mean, var = (m[0] for m in norm.at_steps(1)) if norm.uses_running else norm.measure(p)
        z, scale = norm.normalize(p, mean, var)
    expected = normalizer(p, 0)
    assert gain is not None
    torch.testing.assert_close(gain * z + (0.0 if bias is None else bias), expected)
    d = torch.randn_like(p)
    (gradient,) = torch.autograd.grad(expected, p, d)
    torch.testing.assert_close(norm.pull_back(gain.detach() * d, z, scale), gradient)


@given(st.booleans(), st.sampled_from(["features", "batch"]), sizes, sizes, sizes, sizes)
def test_moments_are_over_their_axis_of_every_step(
    centered: bool, statistics: str, steps: int, batch: int, segments: int, units: int
) -> None:
    p = torch.randn(steps, batch, segments, units)
    axis = {"features": 3, "batch": 1}[statistics]
    norm = Norm(statistics, centered, 0.25, training=True)  # type: ignore[arg-type]
    mean, var = norm.measure(p)
    _, scale = norm.normalize(p, mean, var)
    exact = p.double()
    origin = exact.mean(axis, keepdim=True) * centered
    spread = (exact - origin).square().mean(axis, keepdim=True)
    for found, expected in ((mean, origin), (var, spread), (scale, (spread + 0.25) ** -0.5)):
        torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-6)


@given(st.integers(1, 12), st.integers(1, 4), st.integers(2, 6), st.floats(0, 1), st.integers(0, 9999))
def test_running_statistics_follow_one_step_after_the_other(
    steps: int, rows: int, batch: int, momentum: float, seed: int
) -> None:
    """Fewer steps than rows of statistics, as many, and more: later steps share the last row."""
    torch.manual_seed(seed)
    normalizer = prepared("batch", 2, 3)
    normalizer.momentum = momentum
    for name, buffer in list(normalizer.named_buffers()):
        setattr(normalizer, name, buffer[:1].repeat(rows, 1, 1))
    normalizer.steps = rows
    norm = Norm.of(normalizer)
    p = torch.randn(steps, batch, 2, 3, dtype=torch.float64)
    fused = BatchNorm()
    fused.prepare(torch.zeros(2, 3, 1, dtype=torch.float64))
    fused.momentum = momentum
    fused.running_mean, fused.running_var = (t.clone() for t in norm.running or ())
    Norm.of(fused).update(*(m.squeeze(1) for m in norm.measure(p)), [batch] * steps)
    for step, preactivation in enumerate(p):
        normalizer(preactivation, step)
    torch.testing.assert_close((fused.running_mean, fused.running_var), norm.running)
    at = [min(step, rows - 1) for step in range(steps)]
    torch.testing.assert_close(norm.at_steps(steps), tuple(t[at] for t in norm.running or ()))
