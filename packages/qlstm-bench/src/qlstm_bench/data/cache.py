"""Where downloads and encoded texts are kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return ``$QLSTM_CACHE``, else ``qlstm`` in the system's cache folder; it need not exist."""
    setting = os.environ.get("QLSTM_CACHE")
    if setting:
        return Path(os.path.expanduser(setting))  # leaves the ~ of an unknown user as it is
    import pooch

    return Path(pooch.os_cache("qlstm"))
