"""torch.func on every quantizer: vmap is a loop, forward mode the transpose of backward."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import grad, jvp, vmap
from weight_cases import FACTORIES, moments, prepared, weights

from qlstm_core import LSTM

# torch's own: some operators are run once for each sample.
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")


@settings(max_examples=4, deadline=None)
@given(weights(largest=5), st.integers(2, 3))
@pytest.mark.parametrize("name", FACTORIES)
def test_vmap_is_a_loop(name: str, weight: Tensor, count: int) -> None:
    quantizer = prepared(name, weight).eval()
    samples = torch.stack([weight * (k + 1) - k / 50 for k in range(count)])
    curvature = torch.stack([moments(sample) for sample in samples])
    found = vmap(quantizer)(samples, curvature)
    expected = torch.stack([quantizer(w, v) for w, v in zip(samples, curvature, strict=True)])
    assert torch.equal(found, expected)

    per_sample = vmap(grad(lambda w: quantizer(w).square().sum()))(samples)
    for sample, found in zip(samples, per_sample, strict=True):
        leaf = sample.clone().requires_grad_()
        quantizer(leaf).square().sum().backward()
        torch.testing.assert_close(found, leaf.grad)


@settings(max_examples=4, deadline=None)
@given(weights(largest=5, dtype=torch.float64), st.integers(0, 999))
@pytest.mark.parametrize("name", FACTORIES)
def test_forward_mode_is_the_transpose_of_backward(name: str, weight: Tensor, seed: int) -> None:
    quantizer = prepared(name, weight).eval()
    torch.manual_seed(seed)
    tangents = {key: torch.randn_like(p) for key, p in quantizer.named_parameters()}
    primals = {key: p.detach() for key, p in quantizer.named_parameters()}
    change = torch.randn_like(weight)

    def run(w: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(quantizer, parameters, (w,))

    y, dy = jvp(run, (weight, primals), (change, tangents))
    assert torch.equal(y, quantizer(weight))
    probe = torch.randn_like(y)
    leaf = weight.clone().requires_grad_()
    back = torch.autograd.grad((quantizer(leaf) * probe).sum(), [leaf, *quantizer.parameters()])
    pulled = sum((g * t).sum() for g, t in zip(back, [change, *tangents.values()], strict=True))
    torch.testing.assert_close((probe * dy).sum(), pulled)


@pytest.mark.parametrize("name", ["sbn", "stn", "binary-connect:stochastic", "ter-connect:stochastic"])
def test_vmap_samples_as_its_randomness_says(name: str) -> None:
    weight = torch.zeros(5, 2, 4, 8) + 1e-3
    quantizer = prepared(name, weight[0]).train()
    same = vmap(quantizer, randomness="same")(weight)
    assert (same == same[0]).all()
    different = vmap(quantizer, randomness="different")(weight)
    assert name.startswith("ter") or any((different[0] != other).any() for other in different[1:])
    with pytest.raises(RuntimeError, match="randomness"):
        vmap(quantizer)(weight)


@pytest.mark.parametrize("quantizer", ["bwn", "lat", "lsq", "alternating"])
def test_ensembles_and_gradients_of_each_sequence(quantizer: str) -> None:
    torch.manual_seed(0)
    layers = [LSTM(4, 5, quantizer=quantizer, normalizer="layer") for _ in range(2)]
    parameters, buffers = torch.func.stack_module_state(layers)
    for x in (torch.randn(3, 2, 4), torch.randint(4, (3, 2))):
        found = vmap(lambda p, b, x: torch.func.functional_call(layers[0], (p, b), (x,))[0], (0, 0, None))(
            parameters, buffers, x
        )
        torch.testing.assert_close(found, torch.stack([layer(x)[0] for layer in layers]))

        def loss(p: dict[str, Tensor], sequence: Tensor) -> Tensor:
            return torch.func.functional_call(layers[0], p, (sequence,))[0].square().sum()

        own = dict(layers[0].named_parameters())
        gradients = vmap(grad(loss), (None, 1))(own, x)
        for k in range(2):
            expected = torch.autograd.grad(layers[0](x[:, k : k + 1])[0].square().sum(), list(own.values()))
            for name, gradient in zip(own, expected, strict=True):
                torch.testing.assert_close(gradients[name][k], gradient, rtol=1e-4, atol=1e-5)
