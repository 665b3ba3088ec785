"""What asv measures at every commit: accuracy, gradients, time, memory, size, conformance.

See docs/benchmarking.md. The modules are those of the newest commit and run on every other, too: what they
measure is imported inside the functions, and ``setup`` raises NotImplementedError where a commit does not
have it yet. They import one another relatively: asv knows the folder as ``benchmarks``, beside whatever
qlstm_bench a commit installs. A plugin's repository imports them from here, see :func:`follow`.
"""

import contextlib
import importlib

from .choice import follow

__all__ = ["choice", "follow", "trained"]

# asv forks one process per measurement from a server that has imported this: else each would spend seconds
# on importing torch. A commit whose packages cannot be imported fails where they are used.
for _name in ("torch", "numba", "qlstm_core", "qlstm_quant", "qlstm_norm", "qlstm_bench.training.run"):
    with contextlib.suppress(Exception):
        importlib.import_module(_name)
