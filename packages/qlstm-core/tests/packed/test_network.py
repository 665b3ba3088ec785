"""What a packed network consists of: bits as stored."""

from __future__ import annotations

import pytest
import torch

from qlstm_core import BitPlanes
from qlstm_core.packed.network import Bits


@pytest.mark.parametrize(
    ("second", "stored"),
    [([0.5, 0.25], 1), ([0.5, 0.3], 2), ([0.75, 0.375], 2)],
    ids=["half of the first in both gates", "half in one gate", "three quarters in both"],
)
def test_planes_share_a_scale_where_they_differ_by_a_power_of_two_in_every_gate(second, stored):
    scales = torch.tensor([[1.0, 0.5], second]).unsqueeze(-1)  # (planes, gates, 1)
    planes = BitPlanes(torch.tensor([[[[True, False]]] * 2, [[[False, False]]] * 2]), scales)
    bits = Bits.of(planes)
    assert len(bits.scales) == stored
    torch.testing.assert_close(bits.unpack().scales, scales, rtol=0, atol=0)
