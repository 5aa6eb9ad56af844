"""Runs the host tests on several ComfyUI checkouts, one after the other, and prints a table.

python tools/hosts.py ~/comfy/ComfyUI ~/comfy/hosts/* [-- pytest arguments]

The requirements of the newest checkout have to be installed. The exit status is 1 if any checkout fails, or if all of
its tests were skipped; 2 if a folder is no ComfyUI.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from tempfile import TemporaryDirectory

PACK = Path(__file__).parents[1]


def version_of(host: Path) -> str:
    text = (host / "comfyui_version.py").read_text("utf-8")
    match = re.search(r'__version__ = "([^"]+)"', text)
    return match[1] if match else "unknown"


def counts(report: Path) -> dict[str, int]:
    """Of pytest's JUnit report: passed, failed (errors included) and skipped. All 0 without a report."""
    if not report.exists():
        return {"passed": 0, "failed": 0, "skipped": 0}
    suites = ElementTree.parse(report).getroot().iter("testsuite")
    totals = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for suite in suites:
        for name in totals:
            totals[name] += int(suite.get(name, 0))
    failed = totals["failures"] + totals["errors"]
    return {"passed": totals["tests"] - failed - totals["skipped"], "failed": failed, "skipped": totals["skipped"]}


def run(host: Path, arguments: list[str]) -> tuple[bool, str]:
    """Tests the pack on one checkout. Returns whether all is well, and the table's row."""
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        environment = {
            **os.environ,
            "COMFYUI_PATH": str(host),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(PACK), os.environ.get("PYTHONPATH")])),
        }
        command = [sys.executable, "-P"] if sys.version_info >= (3, 11) else [sys.executable]
        start = time.monotonic()
        status = subprocess.call(
            [*command, "-m", "pytest", "-m", "host", "-q", f"--junit-xml={report}", *arguments],
            cwd=PACK,
            env=environment,
        )
        seconds = time.monotonic() - start
        count = counts(report)
    ok = status == 0 and count["passed"] > 0
    cells = [version_of(host), *(str(count[name]) for name in ("passed", "failed", "skipped")), f"{seconds:.0f}"]
    return ok, f"| {' | '.join(cells)} |"


def main(arguments: list[str]) -> int:
    split = arguments.index("--") if "--" in arguments else len(arguments)
    hosts = [Path(name).expanduser().resolve() for name in arguments[:split]]
    wrong = [host for host in hosts if not (host / "comfyui_version.py").is_file()]
    if wrong or not hosts:
        found = wrong[0] if wrong else "none"
        print(f"Expected folders of ComfyUI (with comfyui_version.py), but got {found}.", file=sys.stderr)
        return 2
    results = [run(host, arguments[split + 1 :]) for host in hosts]
    print("\n| ComfyUI | passed | failed | skipped | seconds |\n|---|---|---|---|---|")
    print("\n".join(row for _, row in results))
    return 0 if all(ok for ok, _ in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
