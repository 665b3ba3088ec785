"""The conformance checks of installed plugins as a table: what ``qlstm check`` prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from qlstm_core.plugins import PluginError, PluginRecord, UnknownNameError, registry
from qlstm_core.testing.runner import CheckResult, checks_of, known_checks, run_checks


def report(names: Sequence[str], only: Iterable[str] = (), write: Callable[[str], None] = print) -> bool:
    """Check what ``names`` stand for, write a table as results come, and return whether nothing failed.

    Args:
        names: of quantizers and normalisers, with options or without, and of plugins or distributions, for
            all that they provide; none for everything installed.
        only: names of the checks to run; none for all.
        write: called with each line.

    Raises:
        PluginError: a name that nothing installed has, an option that does not fit, or no check selected.
    """
    try:
        selected = known_checks(only)
    except ValueError as error:
        raise PluginError(str(error)) from error
    counts: Counter[str] = Counter()
    titles: list[str] = []
    for name in names or (None,):
        for result in _results(name, selected):
            if result.plugin not in titles:
                write(f"\n{result.plugin}" if titles else result.plugin)
                titles.append(result.plugin)
            write(f"  {result.name:<28}  {result.status:<7}  {' '.join(result.reason.split())}".rstrip())
            counts[result.status] += 1
    if not counts:
        raise PluginError("no check is selected: nothing given has those named")
    total = (
        f"{counts['passed'] + counts['failed']} run, {counts['failed']} failed, {counts['skipped']} skipped"
    )
    write(f"\n{total}" if len(titles) == 1 else f"\n{len(titles)} checked: {total}")
    return counts["failed"] == 0


def _results(name: str | None, selected: set[str]) -> Iterator[CheckResult]:
    """Yield what becomes of the selected checks (of all, when empty) of what ``name`` stands for."""
    if name is not None:
        try:
            checks = checks_of(name)
        except UnknownNameError as error:
            records = [record for record in registry.plugins() if name in (record.name, record.distribution)]
            if not records:
                raise
            texts = [f"{record.distribution}/{text}" for record in records for text in _provided(record)]
            if not texts and all(record.status == "active" for record in records):
                raise PluginError(f"plugin {name!r} has no quantizer and no normaliser to check") from error
        else:
            yield from run_checks(check for check in checks if not selected or check.name in selected)
            return
    else:
        records = registry.plugins()
        texts = sorted({*registry.quantizers.names(), *registry.normalizers.names()})
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
    return [name for kind in ("quantizer", "normalizer") for name in record.provides.get(kind, ())]
