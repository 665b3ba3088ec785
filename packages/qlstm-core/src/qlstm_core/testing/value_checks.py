"""What holds for the values of quantizers and normalisers alike: shape, finiteness, determinism, gates apart.

Every check takes a plugin as a user would give it to a layer, a template, and works on prepared copies.
"""

from __future__ import annotations

import torch

from qlstm_core.testing.assertions import require, require_close, require_equal, require_finite
from qlstm_core.testing.inputs import MODES, SHAPE, Plugin, normal, prepared, uses

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check_shape_dtype_device(plugin: Plugin) -> None:
    """The result has the input's shape, dtype and device, for every floating-point dtype."""
    require_results_fit(plugin, DTYPES)


@torch.no_grad()
def require_results_fit(plugin: Plugin, dtypes: tuple[torch.dtype, ...]) -> None:
    """Raise AssertionError unless the results for ``dtypes`` have the input's shape, dtype and device."""
    for device in ("cpu", *(("cuda",) if torch.cuda.is_available() else ())):
        for use in uses(plugin):
            for dtype in dtypes:
                for description, given in use.inputs(dtype).items():
                    value = given.to(device)
                    module = prepared(plugin, use.weight_for(value))
                    for mode, training in MODES.items():
                        where = f"in {mode}, for a {use.what} {description} of {dtype} on {device},"
                        use.apply(module.train(training), value, where=where)


@torch.no_grad()
def check_finite_values(plugin: Plugin) -> None:
    """The result is finite for huge, tiny, all-equal and all-zero input."""
    for use in uses(plugin):
        for description, value in use.inputs(torch.float32).items():
            for initial in (use.weight_for(value), value if use.gates == 0 else use.weight_for(value) * 0):
                module = prepared(plugin, initial)
                for mode, training in MODES.items():
                    where = f"in {mode}, for a {use.what} {description},"
                    require_finite(use.apply(module.train(training), value), f"{where} the result")
                for name, tensor in module.state_dict().items():
                    require_finite(tensor, f"after a {use.what} {description}, {name!r}")


def check_empty(plugin: Plugin) -> None:
    """An empty weight gives an empty result, and so does an empty batch in ``eval()``; gradients pass."""
    for use in uses(plugin):
        for description, shape in use.empty.items():
            value = torch.empty(shape, dtype=torch.float32, device="cpu", requires_grad=True)
            for mode, training in MODES.items():
                if training and use.gates == 1:
                    continue  # no batch, no batch statistics
                module = prepared(plugin, use.weight_for(value)).train(training)
                result = use.apply(module, value, where=f"in {mode}, for a {use.what} {description},")
                if result.requires_grad:  # otherwise check_gradient says so
                    result.sum().backward()


@torch.no_grad()
def check_non_contiguous(plugin: Plugin) -> None:
    """The layout of the input in memory does not matter."""
    for use in uses(plugin):
        value = use.ordinary()
        # The same values in another order in memory, with gaps.
        scattered = value.transpose(-1, -2).repeat_interleave(2, dim=-1)[..., ::2].transpose(-1, -2)
        # Not compared in training: torch.rand_like fills memory in its own order.
        sampled = use.apply(prepared(plugin, use.weight_for(value)), scattered)
        require_finite(sampled, f"in training, the result for a non-contiguous {use.what}")
        expected, found = (
            use.apply(prepared(plugin, use.weight_for(value)).eval(), given) for given in (value, scattered)
        )
        message = f"in eval(), a non-contiguous {use.what} gives another result"
        # Sums may be rounded in another order.
        require_close(found, expected, message, tolerance=1e-5 * float(expected.abs().max()))


@torch.no_grad()
def check_input_unchanged(plugin: Plugin) -> None:
    """No method but ``constrain_`` modifies what it is given."""
    weight = normal() / 4
    prepared(plugin, weight)
    require_equal(weight, normal() / 4, "prepare modifies the weight")
    for mode, training in MODES.items():
        for use in uses(plugin):
            value = use.ordinary()
            use.apply(prepared(plugin, use.weight_for(value)).train(training), value)
            require_equal(value, use.ordinary(), f"in {mode}, the {use.what} is modified")


@torch.no_grad()
def check_eval_deterministic(plugin: Plugin) -> None:
    """In ``eval()`` the same input gives the same result, whatever the seed and the calls before."""
    for use in uses(plugin):
        value = use.ordinary()
        module = prepared(plugin, use.weight_for(value)).eval()
        first = use.apply(module, value, seed=0)
        for seed in (1, 2):
            use.apply(module, value * 2, seed=seed)
            again = use.apply(module, value, seed=seed)
            require_equal(again, first, f"in eval(), the same {use.what} gives another result")


@torch.no_grad()
def check_eval_keeps_state(plugin: Plugin) -> None:
    """In ``eval()`` no parameter and no buffer changes."""
    for use in uses(plugin):
        value = use.ordinary()
        module = prepared(plugin, use.weight_for(value)).eval()
        before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        use.apply(module, value)
        after = module.state_dict()
        require(after.keys() == before.keys(), f"in eval(), the state's names change to {sorted(after)}")
        for name, tensor in before.items():
            require_equal(after[name], tensor, f"in eval(), {name!r} changes")


@torch.no_grad()
def check_training_reproducible(plugin: Plugin) -> None:
    """In training all that is drawn comes from torch's generators, so that a seed repeats it."""
    for use in uses(plugin):
        value = use.ordinary()
        for seed in range(3):
            first, second = (
                use.apply(prepared(plugin, use.weight_for(value)), value, seed=seed) for _ in range(2)
            )
            require_equal(second, first, "in training, the same torch.manual_seed gives another result")


@torch.no_grad()
def check_gates_independent(plugin: Plugin) -> None:
    """Changing one gate's input changes no other gate's result."""
    for use in uses(plugin):
        value = use.ordinary()
        for mode, training in MODES.items():
            expected = use.apply(prepared(plugin, use.weight_for(value)).train(training), value)
            for gate in range(SHAPE[0]):
                changed = value.clone()
                one = changed.select(use.gates, gate)
                one.copy_(8 * normal(tuple(one.shape), seed=5))
                found = use.apply(prepared(plugin, use.weight_for(value)).train(training), changed)
                for other in set(range(SHAPE[0])) - {gate}:
                    message = f"in {mode}, changing gate {gate} changes gate {other}"
                    require_equal(found.select(use.gates, other), expected.select(use.gates, other), message)
