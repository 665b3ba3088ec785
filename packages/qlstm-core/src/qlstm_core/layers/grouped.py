"""G-LSTM: an LSTM whose inputs and states are split into independent groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from qlstm_core.interfaces import Normalizer
from qlstm_core.layers.linear import Grouped, LinearMap
from qlstm_core.layers.lstm import LSTM
from qlstm_core.layers.weights import MatrixShape, reweighted


class GroupedLSTM(LSTM):
    r"""An LSTM of k independent groups: group j of the state sees group j of the input and of the last state.

    .. math::
        x_t = (x_t^1, …, x_t^k), \quad h_t = (h_t^1, …, h_t^k), \quad
        (h_t^j, c_t^j) = LSTM_j(x_t^j, h_{t-1}^j, c_{t-1}^j)

    computed as one batched product. Without projection it equals k small LSTMs; a projection mixes the
    groups. Each group's gates are matrices of their own to the quantizer and the normaliser.

    Parameters per layer and direction: ``weight_ih``, ``(4 · hidden, in / k)``, and ``weight_hh``,
    ``(4 · hidden, out / k)``, the rows of the first group first and its gates in the order i, f, g, o; one
    ``bias_ih`` in the same order; with a projection ``weight_hr``. Behind a bidirectional layer a group sees
    its own features of both directions.

    Example::

        layer = GroupedLSTM(64, 128, num_layers=2, groups=(4, 8))
        output, (h, c) = layer(torch.randn(35, 20, 64))   # (35, 20, 128)

    Args:
        groups: number of groups, or one number for each layer (hierarchical groups); default 4.

    Raises:
        ValueError: an input, hidden or projection size that the groups do not divide.

    Source: Kuchaiev and Ginsburg 2017, arXiv:1703.10722, section 2.2.
    """

    twin: ClassVar[type[nn.RNNBase] | None] = None

    def __init__(self, *args: Any, groups: int | Sequence[int] = 4, **kwargs: Any) -> None:
        self.groups = groups if isinstance(groups, int) else tuple(groups)
        super().__init__(*args, **kwargs)

    def check_sizes(self) -> None:
        """Raise for groups that do not divide the sizes."""
        if not isinstance(self.groups, int) and len(self.groups) != self.num_layers:
            raise ValueError(
                f"groups must be one number or one for each of the {self.num_layers} layers, "
                f"got {self.groups}"
            )
        for layer in range(self.num_layers):
            groups = self.groups_of(layer)
            if not isinstance(groups, int) or groups < 1:
                raise ValueError(f"groups must be positive ints, got {groups!r} for layer {layer}")
            sizes = {"hidden_size": self.hidden_size, "proj_size": self.proj_size}
            if layer == 0:
                sizes["input_size"] = self.input_size
            for name, size in sizes.items():
                if size % groups:
                    raise ValueError(f"{name} must be divisible by groups={groups}, got {size}")

    def groups_of(self, layer: int) -> int:
        """Return the number of groups of a layer."""
        return self.groups if isinstance(self.groups, int) else self.groups[layer]

    def matrix_shapes(self, layer: int) -> dict[str, MatrixShape]:
        """Return the shapes of the blocks of both sides, and of a projection."""
        groups = self.groups_of(layer)
        rows = self.hidden_size // groups
        return {
            "ih": (4 * groups, rows, self.layer_input_size(layer) // groups),
            "hh": (4 * groups, rows, self.output_size // groups),
            **self.projection_shapes(),
        }

    @property
    def bias_names(self) -> tuple[str, ...]:
        """One bias, whatever the normaliser."""
        return ("bias_ih",) if self.bias else ()

    def linear_map(
        self, side: str, layer: int, weights: dict[str, Tensor], normalizer: Normalizer | None
    ) -> LinearMap:
        """Return the block-diagonal map of a side."""
        weight = weights[side]
        if normalizer is not None:
            weight = reweighted(normalizer, weight, f"{side}_l{layer}")
        parts = self.num_directions if side == "ih" and layer > 0 else 1
        return Grouped(weight, self.groups_of(layer), parts)

    def extra_repr(self) -> str:
        """Return torch's text and the groups."""
        return f"{super().extra_repr()}, groups={self.groups}"
