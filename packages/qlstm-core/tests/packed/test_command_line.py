"""``qlstm inspect`` and ``qlstm warmup``."""

from __future__ import annotations

import pytest
import torch
from packed_layers import Features, Sign

from qlstm_core import LSTM, cli, pack
from qlstm_core.packed.dispatch import choose


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    layer = LSTM(50, 64, proj_size=16, num_layers=2, quantizer=Sign(), normalizer={"hh": Features()})
    path = tmp_path / "m.safetensors"
    pack(layer, activation_bits=8).save(path)
    return layer, path


def test_inspect_says_what_is_in_a_file(saved, capsys):
    layer, path = saved
    assert cli.main(["inspect", str(path)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "LSTM: 50 inputs, 64 units, projected to 16, 2 layers"
    assert "quantizer Sign" in printed
    assert f"runs with kernel {choose().name}, 8-bit tables" in printed
    parts = {line.split("  ")[0]: line.split()[-1] for line in printed if line.startswith("layer")}
    assert parts["layer 0 ih"] == f"{4 * 64 * 50 // 8 + 16:,}"
    assert parts["layer 1 hr"] == f"{64 * 16 * 4:,}"
    assert parts["layer 1 norm hh"] == f"{2 * 4 * 64 * 4:,}"
    assert printed[-1].split()[-1] == f"{layer.storage_bytes():,}"


@pytest.mark.parametrize("command", ["inspect", "warmup"])
def test_a_file_that_cannot_be_read_is_one_line(command, tmp_path, capsys):
    path = tmp_path / "m.safetensors"
    for content, message in ((None, "No such file"), (b"not at all", "truncated, or no safetensors file")):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(SystemExit) as stopped:
            cli.main([command, str(path)])
        assert stopped.value.code == 2
        printed = capsys.readouterr().err
        assert message in printed
        assert printed.count("\n") == 1


def test_warmup_compiles_what_a_file_needs(saved, capsys):
    assert cli.main(["warmup", str(saved[1])]) == 0
    assert f"8-bit tables, kernel {choose().name}" in capsys.readouterr().out
    assert cli.main(["warmup", "--activation-bits", "8"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in printed] == ["1-bit weights", "ternary weights"]
