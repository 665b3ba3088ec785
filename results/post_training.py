"""What it costs to quantize a trained character model after training: bits per character, error and bytes.

    qlstm-bench run char-lm --data ptb-char --hidden 256 --lr 0.004 --steps 1600 --eval-symbols 64000
    python results/post_training.py runs/char-lm-none-none-… post-training.csv

Beside ours, dynamic quantization to 8 bits by torch and by ONNX Runtime, of the same float model. A
calibrated row has shared batch normalisation, fitted to what the float layer has on 16 training batches.
"""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from qlstm_bench import Peer, load_model, onnx_runtime_int8, onnx_runtime_missing
from qlstm_core import PackedModel, RecurrentLayer, convert, model_bytes, pack

BATCHES = 16
BITS = (8, 4, 3, 2)


class Characters(nn.Module):
    """A trained character model on torch's layers, as somebody has it who comes from torch."""

    def __init__(self, recurrent: nn.LSTM, output: nn.Linear) -> None:
        super().__init__()
        self.recurrent, self.output = recurrent, output
        self.symbols = recurrent.input_size

    def forward(self, characters: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Return the logits ``(T, B, symbols)`` of the next characters, and the last state."""
        takes_tokens = isinstance(self.recurrent, RecurrentLayer)
        x = characters if takes_tokens else one_hot(characters, self.symbols).float()
        h, state = self.recurrent(x, state)
        return self.output(h), state

    def packed_stages(self) -> list[nn.Module]:
        """Return what is applied, one after the other."""
        return [self.recurrent, self.output]


class OfPeer(nn.Module):
    """A peer's LSTM, called as torch's is."""

    def __init__(self, peer: Peer, hidden: int) -> None:
        super().__init__()
        self.forward_of, self.hidden = peer.forward, hidden

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Return output and state."""
        zero = np.zeros((1, x.shape[1], self.hidden), np.float32)
        given = (zero, zero) if state is None else tuple(part.numpy() for part in state)
        y, new = self.forward_of(x.numpy(), given)
        return torch.from_numpy(y), tuple(torch.from_numpy(part) for part in new)


def main(run: Path, out: Path) -> None:
    """Measure a run's model in every form, and write a table."""
    trained, task = load_model(run)
    lstm, linear = trained.recurrent.to_float(), trained.output.to_float()
    model = Characters(lstm, linear).eval()
    batches = [task.batch(step)[0] for step in range(BATCHES)]
    sample = task.batch(BATCHES)[0]
    with torch.no_grad():
        wanted = model(sample)[0]

    def row(name: str, form: nn.Module, size: int, bits: int, calibrated: bool = False) -> dict[str, Any]:
        with torch.no_grad():
            error = float((form(sample)[0] - wanted).norm() / wanted.norm())
            found = {part: task.evaluate(form, part) for part in ("valid", "test")}
        print(f"{name:<22} {bits:>2} bits  {found['valid']:.4f}  {error:.1e}  {size:,} bytes", flush=True)
        return {"form": name, "bits": bits, "calibrated": calibrated, **found, "error": error, "bytes": size}

    rows = [row("torch float32", model, model_bytes(model), 32), *_peers(model, row)]
    for bits in BITS:
        quantizer = f"uniform:bits={bits},per_row=true"
        for calibrated in (False, True):
            normalizer = "batch-shared" if calibrated else "none"
            form, _ = convert(model, quantizer, normalizer, data=batches if calibrated else None, tokens=True)
            rows.append(row("ours", form.eval(), model_bytes(form), bits, calibrated))
            packed = pack(form, activation_bits=12)
            assert isinstance(packed, PackedModel)
            rows.append(row("ours, packed", packed, packed.nbytes, bits, calibrated))
    pd.DataFrame(rows).to_csv(out, index=False, float_format="%.6g")


def _peers(model: Characters, row: Any) -> list[dict[str, Any]]:
    """Return the rows of dynamic quantization; the small output layer is torch's in both."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that this will move to another package
        quantized = torch.ao.quantization.quantize_dynamic(model, {nn.LSTM, nn.Linear}, dtype=torch.qint8)
    file = io.BytesIO()
    torch.save(quantized.state_dict(), file)
    rows = [row("torch int8", quantized, file.tell(), 8)]
    if (missing := onnx_runtime_missing()) is None:
        own = onnx_runtime_int8(model.recurrent)
        head = io.BytesIO()
        torch.save(quantized.output.state_dict(), head)
        form = Characters(model.recurrent, model.output)
        form.recurrent, form.output = OfPeer(own, model.recurrent.hidden_size), quantized.output
        rows.append(row("ONNX Runtime int8", form, (own.nbytes or 0) + head.tell(), 8))
    else:
        print(f"without ONNX Runtime: {missing}", file=sys.stderr)
    return rows


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
