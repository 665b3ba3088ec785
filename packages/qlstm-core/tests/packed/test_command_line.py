"""``qlstm inspect`` and ``qlstm warmup``."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from packed_layers import Features, Sign

from qlstm_core import LSTM, cli, pack
from qlstm_core.packed.kernels.choose import choose


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
    assert "runs with 8-bit tables" in printed
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


def test_labels_of_a_file_do_not_steer_the_terminal(tmp_path, capsys):
    packed = pack(LSTM(5, 6, quantizer=Sign()))
    packed.network.config.labels["quantizer\x1b[2J"] = "bwn\x1b]0;title\x07\nlayer 0 ih  forged"
    path = tmp_path / "m\x1b[1m.safetensors"
    packed.save(path)
    assert cli.main(["inspect", str(path)]) == 0
    printed = capsys.readouterr().out
    assert r"quantizer\x1b[2J bwn\x1b]0;title\x07\nlayer 0 ih  forged" in printed.splitlines()
    assert "\x1b" not in printed
    path.write_bytes(b"")
    with pytest.raises(SystemExit):
        cli.main(["inspect", str(path)])
    assert r"m\x1b[1m.safetensors: truncated" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX")
def test_what_is_no_regular_file_is_one_line(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    for path, message in (
        (tmp_path / "pipe", "not a regular file"),
        ("/dev/zero", "not a regular file"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["inspect", str(path)])
        assert stopped.value.code == 2
        assert capsys.readouterr().err == f"qlstm: error: {path}: {message}\n"


def qlstm(*arguments, **options):
    command = [sys.executable, "-m", "qlstm_core.cli", *arguments]
    return subprocess.run(command, stderr=subprocess.PIPE, check=False, timeout=300, **options)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux")
@pytest.mark.parametrize("arguments", [["plugins"], ["inspect"]])
def test_output_that_cannot_be_written_is_no_traceback(saved, arguments):
    if arguments == ["inspect"]:
        arguments = ["inspect", str(saved[1])]
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as broken:
        gone = qlstm(*arguments, stdout=broken)
    assert (gone.returncode, gone.stderr) == (1, b"")
    with open("/dev/full", "wb") as full:
        refused = qlstm(*arguments, stdout=full)
    message = b"qlstm: error: the output cannot be written: No space left on device\n"
    assert (refused.returncode, refused.stderr) == (1, message)
    closed = qlstm(*arguments, preexec_fn=lambda: os.close(1))
    assert (closed.returncode, closed.stderr) == (0, b"")


def test_characters_that_an_encoding_lacks_are_written_as_escapes(saved):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = qlstm("inspect", str(saved[1]), stdout=subprocess.PIPE, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"4\xd764\xd750" in done.stdout
