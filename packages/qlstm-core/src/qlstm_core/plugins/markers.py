"""What marks hooks: the name of the pluggy project, and its two decorators."""

from __future__ import annotations

import pluggy

PROJECT = "qlstm"
"""Name of the pluggy project and of the entry-point group."""

hookspec = pluggy.HookspecMarker(PROJECT)
"""Marks a function as the specification of a hook."""

hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a function as a plugin's implementation of a hook."""
