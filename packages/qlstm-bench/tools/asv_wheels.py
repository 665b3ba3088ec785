"""Build and install the wheels of one commit, for asv: its commands are no shell, and know one package.

python asv_wheels.py build SOURCE WHEELS     the packages that the commit has, as wheels
python asv_wheels.py install SOURCE WHEELS   what they depend on, then they themselves, by force
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def build(source: Path, wheels: Path) -> None:
    """Build every package below ``source/packages``; where there is none, the one in ``source`` itself."""
    found = source.glob("packages/*/pyproject.toml"), source.glob("pyproject.toml")
    packages = next(filter(None, (sorted(path.parent for path in files) for files in found)), None)
    if packages is None:
        raise SystemExit(f"no packages in {source}")
    wheels.mkdir(parents=True, exist_ok=True)
    for stale in wheels.glob("*.whl"):
        stale.unlink()
    _pip("wheel", "--no-deps", "--wheel-dir", wheels, *packages)


def install(source: Path, wheels: Path) -> None:
    """Install the wheels, and what they need as ``source/constraints.txt``, if there, pins it."""
    files = sorted(wheels.glob("*.whl"))
    if not files:
        raise SystemExit(f"no wheels in {wheels}")
    constraints = source / "constraints.txt"
    _pip("install", *(["--constraint", constraints] if constraints.exists() else []), *files)
    _pip("install", "--no-deps", "--force-reinstall", *files)


def _pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    code = subprocess.run(command, check=False).returncode
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    commands = {"build": build, "install": install}
    if len(sys.argv) != 4 or sys.argv[1] not in commands:
        raise SystemExit(__doc__)
    commands[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
