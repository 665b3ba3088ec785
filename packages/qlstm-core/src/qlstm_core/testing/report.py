"""The conformance checks of installed plugins as a table: what ``qlstm check`` prints."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from qlstm_core.plugins import AmbiguousNameError, OptionError, PluginError, PluginRecord, registry
from qlstm_core.printable import printable
from qlstm_core.testing.runner import (
    CheckResult,
    all_catalogues,
    checks_of,
    known_checks,
    providers,
    run_checks,
)


def report(
    names: Sequence[str], only: Iterable[str] = (), write: Callable[[str], None] | None = None
) -> bool:
    """Check what ``names`` stand for, write a table as results come, and return whether nothing failed.

    Args:
        names: of quantizers, normalisers and cells, with options or without, and of plugins or distributions,
            for all that they provide; none for everything installed.
        only: names of the checks to run; none for all.
        write: called with each line; default: prints it.

    Raises:
        PluginError: a name that nothing installed has, an option that does not fit, or no check selected.
    """
    try:
        selected = known_checks(only)
    except ValueError as error:
        raise PluginError(str(error)) from error
    write = write or partial(print, file=sys.stdout)  # that of now: a plugin may put another in its place
    # Before anything runs, so that a typing mistake is told at once.
    targets = [_target(name) for name in names] or [_everything()]
    counts: Counter[str] = Counter()
    titles: list[str] = []
    for target in targets:
        for result in _results(*target, selected):
            if result.plugin not in titles:
                title = printable(result.plugin)
                write(f"\n{title}" if titles else title)
                titles.append(result.plugin)
            reason = printable(" ".join(result.reason.split()))
            write(f"  {result.name:<28}  {result.status:<7}  {reason}".rstrip())
            counts[result.status] += 1
    if not counts:
        raise PluginError("no check is selected: nothing given has those named")
    total = (
        f"{counts['passed'] + counts['failed']} run, {counts['failed']} failed, {counts['skipped']} skipped"
    )
    write(f"\n{total}" if len(titles) == 1 else f"\n{len(titles)} checked: {total}")
    return counts["failed"] == 0


def _target(name: str) -> tuple[list[PluginRecord], list[str]]:
    """Return the plugins that ``name`` stands for, if any, and the texts of what is to be checked."""
    if catalogues := providers(name):
        for catalogue in catalogues:
            try:
                catalogue.canonical(name)
            except (AmbiguousNameError, OptionError):
                raise
            except PluginError:  # it cannot be imported: a failure of its own among the others' results
                continue
        return [], [name]
    records = [record for record in registry.plugins() if name in (record.name, record.distribution)]
    if not records:
        checks_of(name)  # raises, with the nearest names
    texts = [f"{record.distribution}/{text}" for record in records for text in _provided(record)]
    if not texts and all(record.status == "active" for record in records):
        raise PluginError(f"plugin {name!r} has no quantizer, normaliser or cell to check")
    return records, texts


def _everything() -> tuple[list[PluginRecord], list[str]]:
    return registry.plugins(), sorted({name for catalogue in all_catalogues() for name in catalogue.names()})


def _results(records: list[PluginRecord], texts: list[str], selected: set[str]) -> Iterator[CheckResult]:
    """Yield what becomes of the selected checks (of all, when empty)."""
    for record in records:
        if record.status in ("failed", "incompatible"):
            yield CheckResult("works", record.name, "failed", f"{record.status}: {record.reason}")
    for text in dict.fromkeys(texts):
        try:
            checks = checks_of(text)
        except PluginError as error:
            yield CheckResult("can be built", text, "failed", str(error))
        else:
            yield from run_checks(check for check in checks if not selected or check.name in selected)


def _provided(record: PluginRecord) -> list[str]:
    return [name for catalogue in all_catalogues() for name in record.provides.get(catalogue.kind, ())]
