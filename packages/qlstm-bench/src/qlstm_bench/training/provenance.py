"""Where a result comes from: versions, commit and device."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from qlstm_core.plugins import registry


def versions() -> dict[str, str]:
    """Return the versions of Python, PyTorch, NumPy and every active plugin's distribution."""
    plugins = {
        record.distribution: record.version for record in registry.plugins() if record.status == "active"
    }
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    } | plugins


def git_commit() -> str | None:
    """Return the commit of the repository around the working directory, if there is one.

    ``-dirty`` follows where files have changed since.
    """
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def device_title(device: torch.device) -> str:
    """Return the device and what it is: ``cuda:0 (NVIDIA H200)``, ``cpu (x86_64, 2 threads)``."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    threads = torch.get_num_threads()
    return f"{device} ({platform.machine()}, {threads} thread{'s' if threads > 1 else ''})"


def machine_title() -> str:
    """Return processor, architecture, number of cores and system: what durations were measured on."""
    processor = platform.processor()
    with suppress(OSError, StopIteration):  # elsewhere than on Linux, whose platform.processor() says little
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    name = processor if processor not in ("", platform.machine()) else "CPU"
    return f"{name}, {platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
