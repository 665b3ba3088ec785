"""What a packed network is measured against: other LSTMs on a CPU, made from one ``torch.nn.LSTM``."""

from __future__ import annotations

import copy
import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Array = NDArray[np.float32]
State = tuple[Array, Array]

INSTALL = "pip install 'qlstm-bench[peers]'"

_IOFC = (0, 3, 1, 2)
"""ONNX's order of the gates (i, o, f, c) in torch's (i, f, g, o)."""

_OPSET = 17


@dataclass(frozen=True)
class Peer:
    """An LSTM of one layer and direction.

    Args:
        name: name in the table.
        forward: from input ``(steps, batch, input)`` and state, ``(1, batch, hidden)`` each, to output
            ``(steps, batch, hidden)`` and state.
        nbytes: bytes of its file, where it is made from one.
    """

    name: str
    forward: Callable[[Array, State], tuple[Array, State]]
    nbytes: int | None = None


def torch_float32(lstm: nn.LSTM) -> Peer:
    """Return ``torch.nn.LSTM`` itself."""
    return Peer("torch.nn.LSTM", _torch_forward(lstm))


def torch_int8(lstm: nn.LSTM) -> Peer:
    """Return torch's dynamically quantized LSTM: weights of 8 bits, activations quantized at each call."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that this will move to another package
        module = torch.ao.quantization.quantize_dynamic(copy.deepcopy(lstm), {nn.LSTM}, dtype=torch.qint8)
        # a bare nn.LSTM is not replaced in place, one inside a module is
        if isinstance(module, nn.LSTM):
            holder = nn.ModuleDict({"lstm": copy.deepcopy(lstm)})
            module = torch.ao.quantization.quantize_dynamic(holder, {nn.LSTM}, dtype=torch.qint8)["lstm"]
    return Peer("torch int8", _torch_forward(module))


def torch_cell(lstm: nn.LSTM) -> Peer:
    """Return ``torch.nn.LSTMCell``, for steps one by one."""
    cell = nn.LSTMCell(lstm.input_size, lstm.hidden_size)
    with torch.no_grad():
        for name, parameter in cell.named_parameters():
            parameter.copy_(getattr(lstm, f"{name}_l0"))

    def forward(x: Array, state: State) -> tuple[Array, State]:
        with torch.inference_mode():
            h, c = (torch.from_numpy(part[0]) for part in state)
            outputs = []
            for x_t in torch.from_numpy(x):
                h, c = cell(x_t, (h, c))
                outputs.append(h)
        return torch.stack(outputs).numpy(), (h[None].numpy(), c[None].numpy())

    return Peer("torch.nn.LSTMCell", forward)


def onnx_runtime_missing() -> str | None:
    """Return what ONNX Runtime's peers lack here, and how to get it; None where nothing is missing."""
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} not installed ({INSTALL})" if missing else None


def onnx_runtime_float32(lstm: nn.LSTM) -> Peer:
    """Return ONNX Runtime's LSTM operator."""
    return Peer("ONNX Runtime float32", _session_forward(_onnx_model(lstm).SerializeToString()))


def onnx_runtime_int8(lstm: nn.LSTM) -> Peer:
    """Return ONNX Runtime's dynamically quantized LSTM operator."""
    import llvmlite.binding as llvm
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "float32.onnx"), Path(folder, "int8.onnx")
        source.write_bytes(_onnx_model(lstm).SerializeToString())
        level = logging.getLogger().level
        logging.getLogger().setLevel(logging.ERROR)  # it recommends a preparation that changes nothing here
        try:
            # Where the processor has no VNNI, sums of two products of 8 bits each overflow 16: take 7.
            features = llvm.get_host_cpu_features()
            narrow = not (features.get("avx512vnni") or features.get("avxvnni"))
            quantize_dynamic(source, target, weight_type=QuantType.QInt8, reduce_range=narrow)
        finally:
            logging.getLogger().setLevel(level)
        model = target.read_bytes()
        return Peer("ONNX Runtime int8", _session_forward(model), len(model))


def _torch_forward(module: nn.Module) -> Callable[[Array, State], tuple[Array, State]]:
    def forward(x: Array, state: State) -> tuple[Array, State]:
        with torch.inference_mode():
            h, c = (torch.from_numpy(part) for part in state)
            y, (h, c) = module(torch.from_numpy(x), (h, c))
        return y.numpy(), (h.numpy(), c.numpy())

    return forward


def _session_forward(model: bytes) -> Callable[[Array, State], tuple[Array, State]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def forward(x: Array, state: State) -> tuple[Array, State]:
        h, c = state
        y, h, c = session.run(None, {"x": x, "h0": h, "c0": c})
        return y[:, 0], (h, c)

    return forward


def _onnx_model(lstm: nn.LSTM) -> Any:
    """Return the ONNX model of one operator that computes what ``lstm`` does."""
    from onnx import TensorProto, helper, numpy_helper

    hidden = lstm.hidden_size

    def rows(name: str) -> Array:
        gates = getattr(lstm, name).detach().numpy().reshape(4, hidden, -1)
        reordered: Array = np.ascontiguousarray(gates[list(_IOFC)].reshape(4 * hidden, -1))
        return reordered

    weights = {
        "w": rows("weight_ih_l0")[None],
        "r": rows("weight_hh_l0")[None],
        "b": np.concatenate([rows("bias_ih_l0"), rows("bias_hh_l0")]).reshape(1, -1),
    }

    def value(name: str, shape: Sequence[int | str]) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    node = helper.make_node("LSTM", ["x", "w", "r", "b", "", "h0", "c0"], ["y", "h", "c"], hidden_size=hidden)
    state = (1, "batch", hidden)
    graph = helper.make_graph(
        [node],
        "lstm",
        [value("x", ("steps", "batch", lstm.input_size)), value("h0", state), value("c0", state)],
        [value("y", ("steps", 1, "batch", hidden)), value("h", state), value("c", state)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    # The versions that ONNX Runtime reads, rather than the newest that the installed onnx writes.
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)
