"""Plant one-line mistakes, one at a time, and see that the test named for each fails.

    python tools/planted.py                         every mistake of planted/*.yaml, on all cores
    python tools/planted.py -j 2 core quant         two side by side, of two areas
    python tools/planted.py cell.py 'gru-*'         by file, by name
    python tools/planted.py --list fused            what there is, without running it

A mistake is an entry of planted/AREA.yaml:

    - name: lstm-forget-gate-unsquashed             unique over all areas
      file: packages/qlstm-core/src/qlstm_core/layers/cell.py
      old: "c = f.sigmoid() * c"                    occurs exactly once in the file; may span lines
      new: "c = f * c"
      tests: ["packages/qlstm-core/tests/layers/test_lstm.py::test_unquantized_equals_torch"]
      reason: "…"                                   only where no test can notice it: why

The checkout is not touched: each process works on a copy of its own, of all files that git tracks or does not
ignore. The named tests first run there without a mistake: they must pass. One line per mistake says what
became of it: killed (a named test failed, crashed or passed the time limit), SURVIVED, baseline fails,
skipped (the tests do not run on this host) or does not apply. The exit status is 1 if one survived without a
reason, does not apply, or its tests fail without it.
"""

from __future__ import annotations

import argparse
import ast
import fnmatch
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from itertools import count
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("qlstm-core", "qlstm-quant", "qlstm-norm", "qlstm-bench")
FIELDS = {"name", "file", "old", "new", "tests"}
GROUP = 32
"""Mistakes that one baseline run serves, at most."""
PRELOADED = [
    *("torch", "torch._dynamo", "numpy", "numba", "pytest", "hypothesis.strategies"),
    *("pandas", "pydantic", "safetensors.torch", "yaml"),
]
"""What the tests import, and no mistake is in: loaded once, not once for each mistake."""


@dataclass(frozen=True)
class Mistake:
    """One line changed for the worse, and the tests of which one must fail."""

    area: str
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    reason: str | None = None

    def apply(self, text: str) -> str | None:
        """Return the file's text with the mistake, or ``None`` where it does not apply."""
        return text.replace(self.old, self.new) if text.count(self.old) == 1 else None


def load(folder: Path = ROOT / "planted") -> list[Mistake]:
    """Read all mistakes.

    Raises:
        ValueError: an entry of another form, which it names.
    """
    mistakes = []
    for path in sorted(folder.glob("*.yaml")):
        for position, entry in enumerate(yaml.safe_load(path.read_text("utf-8")) or []):
            where = f"{path.name}, entry {position + 1}"
            if not isinstance(entry, dict) or not set(entry) - {"reason"} == FIELDS:
                raise ValueError(f"{where}: its keys must be {', '.join(sorted(FIELDS))}, and reason or not")
            where += f" ({entry['name']})"
            texts = [entry[field] for field in entry if field != "tests"]
            if not all(isinstance(text, str) for text in texts) or "" in (entry["name"], entry["old"]):
                raise ValueError(f"{where}: all but tests must be texts, and only new may be empty")
            tests = entry["tests"]
            if not isinstance(tests, list) or not tests or not all(isinstance(t, str) for t in tests):
                raise ValueError(f"{where}: tests must be a list of at least one test's id")
            mistakes.append(Mistake(path.stem, **{**entry, "tests": tuple(tests)}))
    return mistakes


def problems(mistakes: Iterable[Mistake], root: Path = ROOT) -> Iterator[str]:
    """Yield what is wrong with mistakes, one line each: without running a test."""
    for name, times in Counter(mistake.name for mistake in mistakes).items():
        if times > 1:
            yield f"{name}: {times} mistakes have this name"
    for mistake in mistakes:
        if not (root / mistake.file).is_file():
            yield f"{mistake.name}: there is no file {mistake.file}"
            continue
        times = (root / mistake.file).read_text("utf-8").count(mistake.old)
        if times != 1:
            yield f"{mistake.name}: old occurs {times} times in {mistake.file}, it must once"
        if mistake.old == mistake.new:
            yield f"{mistake.name}: new is old"
        for test in mistake.tests:
            if not _test_exists(test, root):
                yield f"{mistake.name}: there is no test {test}"


def _test_exists(test: str, root: Path) -> bool:
    path, *names = test.split("[")[0].split("::")
    if not (root / path).is_file():
        return False
    body: list[Any] = ast.parse((root / path).read_text("utf-8")).body
    for name in names:
        found = [node for node in body if getattr(node, "name", None) == name]
        if not found:
            return False
        body = found[0].body
    return True


def select(mistakes: list[Mistake], patterns: list[str]) -> list[Mistake]:
    """Return the mistakes of which area, name or end of the file matches a pattern; all for no pattern.

    Raises:
        ValueError: a pattern that matches none, with the nearest names.
    """
    chosen: dict[str, Mistake] = {}
    for pattern in patterns or ["*"]:
        hits = [
            mistake
            for mistake in mistakes
            if pattern == mistake.area
            or fnmatch.fnmatch(mistake.name, pattern)
            or ("/" + mistake.file).endswith("/" + pattern)
        ]
        if not hits:
            known = (
                {m.area for m in mistakes}
                | {m.name for m in mistakes}
                | {Path(m.file).name for m in mistakes}
            )
            near = ", ".join(get_close_matches(pattern, sorted(known), 3)) or "see --list"
            raise ValueError(f"no area, name or file of a mistake is {pattern!r}; nearest: {near}")
        chosen.update((mistake.name, mistake) for mistake in hits)
    return list(chosen.values())


# What runs in a process of its own


class _Outcomes:
    """A pytest plugin that takes down how each test ended."""

    def __init__(self) -> None:
        self.ended: dict[str, str] = {}

    def pytest_sessionstart(self) -> None:
        """Let Hypothesis stop at the first example that fails: finding the least one takes minutes."""
        from hypothesis import Phase, settings

        phases = (Phase.explicit, Phase.generate)
        settings.register_profile("planted", settings.default, phases=phases, report_multiple_bugs=False)
        settings.load_profile("planted")

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Take down passed, failed or skipped; a failure of any phase stays."""
        says = report.failed or report.skipped or report.when == "call"
        if says and self.ended.get(report.nodeid) != "failed":
            self.ended[report.nodeid] = report.outcome

    def pytest_collectreport(self, report: Any) -> None:
        """Take down files that cannot be imported, or are skipped whole."""
        if not report.passed:
            self.ended[report.nodeid] = report.outcome


def run_tests(
    tree: str, tests: list[str], log: str, cache: str, digests: str, *, planted: str, stop: bool
) -> None:
    """Run tests in a copy of the tree; end the process with pytest's exit status.

    Args:
        tree: the copy.
        tests: what to run.
        log: where to write pytest's output; beside it, ``.json``, how each test ended.
        cache: folder of compiled code.
        digests: file with the digests of the sources of compiled code before the mistake.
        planted: ``"nothing"``, a mistake in ``"compiled"`` code, or in ``"other"`` code.
        stop: whether the first failure ends the run.
    """
    os.setsid()
    os.chdir(tree)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sources = [f"{tree}/packages/{package}/src" for package in PACKAGES]
    os.environ["PYTHONPATH"] = os.pathsep.join(sources)
    os.environ["NUMBA_CACHE_DIR"] = cache
    sys.path[:0] = sources
    import pytest
    from numba.core.config import reload_config

    reload_config()  # since it was loaded before the folder of compiled code was known
    outcomes = _Outcomes()
    keep = _keep_digests(Path(digests), planted)
    quiet = ["-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    arguments = [*quiet, *(["-x"] if stop else []), *tests]
    code = int(pytest.main(arguments, plugins=[outcomes]))
    if planted == "nothing":
        keep()
    Path(log + ".json").write_text(json.dumps(outcomes.ended))
    sys.stdout.flush()
    os._exit(code)


def _keep_digests(path: Path, planted: str) -> Any:
    """Let compiled code be found although a file beside it, of which it takes nothing, has a mistake.

    ``qlstm_core.kernels.compile`` compiles again whenever a source beside a kernel changes, and is right to:
    it cannot know which of them matter. Here it is known which file changed.

    Returns:
        A function that writes the digests down, for runs without a mistake.
    """
    known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    try:
        from qlstm_core.kernels import compile
    except Exception:  # the mistake shows at import: so it will in the tests
        return lambda: None
    digest = compile.source_digest.__wrapped__
    seen: dict[str, str] = {}

    @cache
    def source_digest(folder: Path) -> str:
        if planted == "other" and str(folder) in known:
            return known[str(folder)]
        seen[str(folder)] = digest(folder)
        return seen[str(folder)]

    compile.source_digest = source_digest  # type: ignore[assignment]
    return lambda: path.write_text(json.dumps({**known, **seen}))


# What runs the processes


def makes_compiled_code(root: Path, file: str) -> bool:
    """Return whether a file has compiled functions, or others take names from it into compiled functions."""
    for source in (root / "packages" / package / "src" for package in PACKAGES):
        if (root / file).is_relative_to(source):
            compiled = [path for path in source.rglob("*.py") if _uses_numba(path.read_text("utf-8"))]
            return root / file in {
                *compiled,
                *(taken for path in compiled for taken in _imported(path, source)),
            }
    return False


def _uses_numba(text: str) -> bool:
    return any(
        word in text
        for word in ("qlstm_core.kernels.compile import", "import numba", "from numba", "llvmlite")
    )


def _imported(path: Path, root: Path) -> Iterator[Path]:
    """Yield the files from which a module takes names when it is imported itself."""
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("qlstm_"):
            module = root / node.module.replace(".", "/")
            yield module.with_suffix(".py")
            yield from (module / f"{alias.name}.py" for alias in node.names)


class Copy:
    """A copy of the tree, in which one mistake after the other is planted."""

    def __init__(self, folder: Path, limit: float) -> None:
        self.folder = folder
        self.tree = folder / "tree"
        self.cache = folder / "cache"
        self.log = folder / "log.txt"
        self.limit = self.patience = limit
        self.process: Any = None
        self._stamps = count(int(time.time()) - 10**6, 2)
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, check=True, capture_output=True,
        )  # fmt: skip
        for name in listed.stdout.decode().split("\0"):
            if name and (ROOT / name).is_file():
                (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.tree / name)
        self.cache.mkdir()

    def baseline(self, mistakes: list[Mistake]) -> dict[str, str]:
        """Run the tests of some mistakes without one; return what is wrong with those of each."""
        tests = sorted({test for mistake in mistakes for test in mistake.tests})
        since = time.monotonic()
        code, ended = self._run(tests, self.cache, "nothing", self.limit * len(mistakes))
        # What never ends should not take long to say so; what compiles may.
        self.patience = min(self.limit, 60 + 3 * (time.monotonic() - since))
        found = {}
        for mistake in mistakes:
            outcomes = set()
            for test in mistake.tests:
                outcomes |= {
                    outcome
                    for node, outcome in ended.items()
                    if node == test
                    or node.startswith((test + "[", test + "::"))
                    or node == test.split("::")[0]
                }
            if "failed" in outcomes or not outcomes or code in (None, 3, 4) or (code or 0) < 0:
                found[mistake.name] = "baseline fails"
            elif "passed" not in outcomes:
                found[mistake.name] = "skipped"
        return found

    def plant(self, mistake: Mistake) -> str:
        """Return what becomes of a mistake: ``"killed"`` and how, ``"SURVIVED"`` or ``"does not apply"``."""
        path = self.tree / mistake.file
        before = path.read_bytes() if path.is_file() else b""
        text = mistake.apply(before.decode("utf-8"))
        if text is None:
            return "does not apply"
        compiled = makes_compiled_code(self.tree, mistake.file)
        borrows = compiled or "/qlstm_core/" in mistake.file
        try:
            self._write(path, text.encode("utf-8"))
            with self._borrowed_cache() if borrows else _as_it_is(self.cache) as cache:
                kind = "compiled" if compiled else "other"
                limit = self.limit if compiled else self.patience
                code, _ = self._run(list(mistake.tests), cache, kind, limit, stop=True)
        finally:
            self._write(path, before)
        if code == 0:
            return "SURVIVED"
        return "killed" + (" (time limit)" if code is None else f" (signal {-code})" if code < 0 else "")

    def _write(self, path: Path, content: bytes) -> None:
        # Python takes compiled modules for those of a source by its size and its time in seconds.
        path.write_bytes(content)
        stamp = next(self._stamps)
        os.utime(path, (stamp, stamp))

    @contextmanager
    def _borrowed_cache(self) -> Iterator[Path]:
        """Yield compiled code to read and to add to, without a mistake's getting into that of the others."""
        folder = self.folder / "borrowed"
        shutil.copytree(self.cache, folder, copy_function=os.link)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _run(
        self, tests: list[str], cache: Path, planted: str, limit: float, *, stop: bool = False
    ) -> tuple[int | None, dict[str, str]]:
        """Return pytest's exit status, ``None`` past the time limit, and how each test ended."""
        outcomes = self.folder / "log.txt.json"
        outcomes.unlink(missing_ok=True)
        arguments = (str(self.tree), tests, str(self.log), str(cache), str(self.folder / "digests.json"))
        process = multiprocessing.get_context("forkserver").Process(
            target=run_tests, args=arguments, kwargs={"planted": planted, "stop": stop}
        )
        process.start()
        self.process = process
        process.join(limit)
        code = process.exitcode
        self.end()
        process.join()
        return code, json.loads(outcomes.read_text()) if outcomes.exists() else {}

    def end(self) -> None:
        """End the process that runs, and all that it has started."""
        if self.process is not None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                self.process.kill()


@contextmanager
def _as_it_is(cache: Path) -> Iterator[Path]:
    yield cache


def grouped(mistakes: list[Mistake]) -> list[list[Mistake]]:
    """Put mistakes together that share a test file, since they share a baseline; the largest groups first."""
    by_file: dict[str, list[Mistake]] = defaultdict(list)
    for mistake in mistakes:
        by_file[mistake.tests[0].split("::")[0]].append(mistake)
    groups = []
    for members in by_file.values():
        members.sort(key=lambda mistake: mistake.tests)
        groups += [members[start : start + GROUP] for start in range(0, len(members), GROUP)]
    return sorted(groups, key=len, reverse=True)


def run(mistakes: list[Mistake], jobs: int, limit: float) -> dict[str, str]:
    """Plant mistakes side by side; print a line for each, and return what became of them."""
    queue: SimpleQueue[list[Mistake]] = SimpleQueue()
    groups = grouped(mistakes)
    for group in groups:
        queue.put(group)
    ended: dict[str, str] = {}
    errors: list[BaseException] = []
    copies: list[Copy] = []

    def report(mistake: Mistake, verdict: str, since: float) -> None:
        ended[mistake.name] = verdict
        seconds = time.monotonic() - since
        print(f"{verdict:<22} {seconds:6.1f} s  {mistake.area}/{mistake.name}", flush=True)
        if verdict == "SURVIVED" and mistake.reason:
            print(f"{'':<33}its reason: {mistake.reason}", flush=True)

    def work(copy: Copy) -> None:
        try:
            while not errors:
                try:
                    group = queue.get_nowait()
                except Empty:
                    return
                since = time.monotonic()
                wrong = copy.baseline(group)
                print(f"{'without a mistake':<22} {time.monotonic() - since:6.1f} s  ", end="", flush=True)
                print(", ".join(sorted({t.split("::")[0] for m in group for t in m.tests})), flush=True)
                if "baseline fails" in wrong.values():
                    print(copy.log.read_text(errors="replace")[-1500:], flush=True)
                for mistake in group:
                    since = time.monotonic()
                    report(mistake, wrong.get(mistake.name) or copy.plant(mistake), since)
        except BaseException as error:
            errors.append(error)

    with tempfile.TemporaryDirectory(prefix="planted-", ignore_cleanup_errors=True) as scratch:
        try:
            copies += [_new_copy(Path(scratch) / str(k), limit) for k in range(min(jobs, len(groups)))]
            threads = [threading.Thread(target=work, args=(copy,), daemon=True) for copy in copies]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            for copy in copies:
                copy.end()
    if errors:
        raise errors[0]
    return ended


def _new_copy(folder: Path, limit: float) -> Copy:
    folder.mkdir()
    return Copy(folder, limit)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "patterns", nargs="*", metavar="PATTERN", help="an area, a file, or a name with * and ?"
    )
    parser.add_argument(
        "-j", "--jobs", type=int, default=os.cpu_count() or 1, help="side by side (all cores)"
    )
    parser.add_argument("-l", "--list", action="store_true", help="print the mistakes, run nothing")
    parser.add_argument(
        "--time-limit", type=float, default=300, metavar="S", help="seconds per mistake (300)"
    )
    chosen = parser.parse_args(arguments)
    try:
        mistakes = select(load(), chosen.patterns)
    except ValueError as error:
        parser.error(str(error))
    if chosen.list:
        for mistake in mistakes:
            print(f"{mistake.area}/{mistake.name}  {mistake.file}\n    {' '.join(mistake.tests)}")
        print(f"{len(mistakes)} mistakes")
        return 0
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    since = time.monotonic()
    ended = run(mistakes, max(chosen.jobs, 1), chosen.time_limit)
    return summary(mistakes, ended, time.monotonic() - since)


def summary(mistakes: list[Mistake], ended: dict[str, str], seconds: float) -> int:
    """Print the counts and what needs a look; return the exit status."""
    survived = [mistake for mistake in mistakes if ended[mistake.name] == "SURVIVED"]
    excused = [mistake for mistake in survived if mistake.reason]
    broken = [m for m in mistakes if ended[m.name] in ("baseline fails", "does not apply")]
    bad = [mistake for mistake in survived if not mistake.reason] + broken
    print()
    for mistake in bad:
        print(f"{ended[mistake.name]:<22} {mistake.area}/{mistake.name}  {mistake.file}")
    for mistake in mistakes:
        if mistake.reason and ended[mistake.name].startswith("killed"):
            print(f"killed, in spite of its reason: {mistake.area}/{mistake.name}")
    counts = Counter(verdict.split(" (")[0] for verdict in ended.values())
    others = "".join(
        f", {counts[v]} {v}" for v in ("baseline fails", "does not apply", "skipped") if counts[v]
    )
    print(
        f"{counts['killed']} of {len(mistakes)} killed, {counts['SURVIVED']} survived, "
        f"{len(excused)} of them for a reason{others}; {seconds:.0f} s"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
