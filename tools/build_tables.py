"""Makes the tables of a documentation page anew, each by the command that the page shows above it.

    python tools/build_tables.py docs/harmonise.md --images PHOTOS... [--taef2 FOLDER] [--only TEXT...] [--list]

A table belongs to a command if the paragraph before it begins with one (`python …` between backticks), or is one in a
bash block. In the command, the words PHOTOS and FOLDER stand for what is given here. The first table of its output, or
of the report that it writes, takes the old one's place; the page is written after each. `--only`: of commands that hold
one of these texts.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

TABLE = re.compile(r"(?:^\|.*\n?)+", re.MULTILINE)
INLINE, BLOCK = re.compile(r"`(python [^`]+)`"), re.compile(r"```bash\n(python [^`]+)```$")


def tables(page: str) -> list[tuple[str, tuple[int, int]]]:
    """Each command of a page, and where its table begins and ends."""
    found: list[tuple[str, tuple[int, int]]] = []
    for table in TABLE.finditer(page):
        before = page[: table.start()].rstrip("\n").rsplit("\n\n", 1)[-1]
        command = INLINE.match(before) or BLOCK.match(before)
        if command:
            found.append((" ".join(command[1].replace("\\\n", " ").split()), table.span()))
    return found


def made(command: str, images: list[str], taef2: str | None) -> str:
    """The first table that a command prints, or writes into its report.

    Raises:
        ValueError: the command needs a folder that was not given, failed, or made no table.
    """
    words = shlex.split(command)[1:]
    if "FOLDER" in words and taef2 is None:
        raise ValueError(f"Expected --taef2, which '{command}' needs. Give it, or leave that table out with --only.")
    with tempfile.TemporaryDirectory() as folder:
        given = {"PHOTOS": images, "FOLDER": [taef2 or ""], "report": [f"{folder}/report"]}
        arguments = [value for word in words for value in given.get(word, [word])]
        run = subprocess.run([sys.executable, *arguments], stdout=subprocess.PIPE, text=True, check=False)
        report = Path(folder, "report", "report.md")
        found = TABLE.search(report.read_text("utf-8") if report.exists() else run.stdout)
    if run.returncode or found is None:
        raise ValueError(f"Expected a table from '{command}', but it ended with {run.returncode}: {run.stdout[-300:]}")
    return found[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--images", nargs="+", default=[])
    parser.add_argument("--taef2", help="folder of the real TAEF2's two files")
    parser.add_argument("--only", nargs="+", default=[""], metavar="TEXT")
    parser.add_argument("--list", action="store_true", help="print the commands, and run none")
    args = parser.parse_args()
    commands = [command for command, _ in tables(args.page.read_text("utf-8"))]
    if args.list:
        print("\n".join(commands))
        return
    for number, command in enumerate(commands):
        if not any(text in command for text in args.only):
            continue
        print(command, flush=True)
        table = made(command, args.images, args.taef2)
        page = args.page.read_text("utf-8")
        _, (start, stop) = tables(page)[number]
        args.page.write_text(page[:start] + table + page[stop:], "utf-8")


if __name__ == "__main__":
    main()
