"""What each process of the data-parallel test runs; in a module of its own, which a new process can find."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from recurrent_cases import Sign, StepGain

from qlstm_core import LSTM


def train_replica(rank: int, port: int, folder: str) -> None:
    """Do one backward pass on half of a batch; the first process stores the gradients."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    torch.manual_seed(0)
    layer = LSTM(4, 6, quantizer=Sign(), normalizer=StepGain())
    model = torch.nn.parallel.DistributedDataParallel(layer)
    torch.manual_seed(1)
    x = torch.randn(3, 4, 4)
    model(x[:, 2 * rank : 2 * rank + 2])[0].sum().backward()
    if rank == 0:
        torch.save([p.grad for p in layer.parameters()], Path(folder) / "gradients.pt")
    torch.distributed.destroy_process_group()
