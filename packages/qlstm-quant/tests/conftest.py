"""Lets tests import the modules of ``support`` under importlib mode."""

import sys
from pathlib import Path

from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent / "support"))

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
