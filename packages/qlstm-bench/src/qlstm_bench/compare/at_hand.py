"""Whether the data of a task is at hand, and what it is: a comparison downloads nothing unasked."""

from __future__ import annotations

import os
import shlex

from qlstm_bench.config import RunConfig
from qlstm_bench.data.catalogue import DATASETS
from qlstm_bench.data.inventory import take_inventory


def missing_data(config: RunConfig) -> str:
    """Return what of a run's data is missing and how to get it, in one line; nothing where all is at hand."""
    if config.data not in DATASETS:
        return "" if os.path.exists(os.path.expanduser(config.data)) else f"there is no file {config.data!r}"
    (holding,) = (one for one in take_inventory() if one.dataset.name == config.data)
    if not holding.missing:
        return ""
    count, size = len(holding.missing), holding.missing_bytes / 1e6
    command = f"qlstm-bench run {shlex.quote(config.task)} --data {config.data} --steps 1"
    return (
        f"{config.data} is not at hand ({count} file{'s' if count > 1 else ''}, {size:.1f} MB): `{command}` "
        "downloads it; or place its files in a folder and set QLSTM_DATA to it, see `qlstm-bench datasets`"
    )


def data_sha256(config: RunConfig) -> str:
    """Return the SHA-256 of a run's data, which is read for it.

    Raises:
        DataError: data that is damaged.
    """
    from qlstm_bench.training.run import resolve

    _, task = resolve(config.model_dump())
    task.prepare(config)
    return task.dataset_sha256
