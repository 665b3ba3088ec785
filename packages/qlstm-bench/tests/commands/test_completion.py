"""``qlstm-bench completion``: what the Tab key offers."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from qlstm_bench.cli import main
from qlstm_bench.sweep.presets import preset_names
from qlstm_bench.theory import installed_experiments
from qlstm_core.plugins import registry


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on this machine")
def test_bash_completes_commands_options_and_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out

    def offered(*words: str) -> list[str]:
        quoted = " ".join(f"'{word}'" for word in ("qlstm-bench", *words))
        ask = f"COMP_WORDS=({quoted}); COMP_CWORD={len(words)}; _shtab_qlstm_bench; echo ${{COMPREPLY[@]}}"
        done = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert offered("sw") == ["sweep"]
    assert offered("run", "char") == ["char-lm"]
    assert offered("run", "char-lm", "--hid") == ["--hidden"]
    assert offered("run", "char-lm", "--normalizer", "batch-") == ["batch-separate", "batch-shared"]
    assert offered("run", "char-lm", "--head-quantizer", "") == registry.quantizers.names()
    assert offered("run", "char-lm", "--precision", "bf") == ["bf16-mixed"]
    assert offered("report", "runs", "--format", "m") == ["md"]
    assert offered("speed", "train", "--no-l") == ["--no-loops"]
    assert offered("sweep", "hou2019-p") == [name for name in preset_names() if name.startswith("hou2019-p")]
    assert offered("theory", "") == [*installed_experiments(), "all"]
    assert offered("theory", "markov", "--no") == ["--noise"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_a_script_of_their_own(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("qlstm-bench", "sweep", "batch-separate", "least-squares"):
        assert word in script
