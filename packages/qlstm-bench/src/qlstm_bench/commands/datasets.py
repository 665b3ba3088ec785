"""``qlstm-bench datasets``: what data there is and where."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from qlstm_bench.commands.options import AsJson

if TYPE_CHECKING:
    from qlstm_bench.data.inventory import Holding

HELP = """List the named datasets: where each was found, and what is missing.

A file is looked for in $QLSTM_DATA (under its folder and name, or its bare name), then in the cache,
$QLSTM_CACHE or the system's; what is in neither is downloaded by the first run that needs it, checked by its
SHA-256. $QLSTM_DATA_URL names a mirror to download from.

--json prints [{"name", "kind", "summary", "state", "found": [PATH], "missing": [{"path", "bytes", "sha256",
"url"}]}]; later versions may add keys.

\b
Examples:
  qlstm-bench datasets
  QLSTM_DATA=~/data qlstm-bench datasets --json
"""


def datasets(
    as_json: AsJson = False,
) -> None:
    """List the named datasets."""
    from qlstm_bench.data.inventory import take_inventory

    holdings = take_inventory()
    if as_json:
        print(json.dumps([_record(holding) for holding in holdings], indent=2))
        return
    for holding in holdings:
        dataset = holding.dataset
        print(f"{dataset.name:<14}{dataset.kind:<12}{holding.state}")
        print(f"  {dataset.summary}")
        for path in holding.found:
            print(f"  found    {path}")
        for file in holding.missing:
            print(f"  missing  {file.path}, {file.size / 1e6:.1f} MB from {file.source}")
    absent = [holding for holding in holdings if holding.missing]
    if absent:
        megabytes = sum(holding.missing_bytes for holding in absent) / 1e6
        names = ", ".join(holding.dataset.name for holding in absent)
        print(
            f"\nThe first run on {names} downloads what is missing, {megabytes:.0f} MB in all. Without a "
            "network, place the files in a folder and set QLSTM_DATA to it."
        )


def _record(holding: Holding) -> dict[str, object]:
    return {
        "name": holding.dataset.name,
        "kind": holding.dataset.kind,
        "summary": holding.dataset.summary,
        "state": holding.state,
        "found": [str(path) for path in holding.found],
        "missing": [
            {"path": file.path, "bytes": file.size, "sha256": file.sha256, "url": file.source}
            for file in holding.missing
        ],
    }
