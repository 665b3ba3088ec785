"""The plugins that the docstrings of the hooks show."""

from __future__ import annotations

import inspect
import textwrap
import types

from qlstm_bench import hookspecs


def example(hook: str) -> types.ModuleType:
    """Return the plugin that a hook's docstring shows."""
    code = inspect.getdoc(getattr(hookspecs, hook))
    assert code is not None
    module = types.ModuleType(f"example_of_{hook}")
    exec(textwrap.dedent(code.partition("Example::")[2]), module.__dict__)
    return module
