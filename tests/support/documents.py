"""Blocks of a Markdown page, and a folder in which they run in order.

A fenced block is a file, a command or an example, by its first line:

    ```toml title="experiment.toml"    written to that file (any language)
    ```bash                            run by bash
    ```console                         lines that begin with `$ ` are run; the others are output
    ```python                          run by python, unless it has a title
    ```text, ```json, ```toml, ...     shown only

Comments before a block change what happens to it, and a page may begin with hidden commands:

    <!-- block: skip, REASON -->       not run
    <!-- block: exit 7 -->             the exit code that is expected
    <!-- page: slow -->                minutes long
    <!-- setup: COMMANDS -->           run before the first block
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUN = ("bash", "console", "python")
_FENCE = re.compile(
    r"(?:<!-- block: (?P<how>[^>]*?) -->\s*\n)?"
    r"^(?P<indent> *)```(?P<language>\w+)?(?P<rest>[^\n]*)\n(?P<body>.*?)^(?P=indent)```\s*$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    line: int
    language: str
    title: str
    body: str
    how: str

    @property
    def is_run(self) -> bool:
        """Whether it is a command, or a program without a file name."""
        return self.language in RUN and not self.title and not self.how.startswith("skip")

    @property
    def exit_code(self) -> int:
        """The exit code that is expected."""
        found = re.search(r"exit (\d+)", self.how)
        return int(found[1]) if found else 0

    @property
    def script(self) -> str:
        """What bash or python runs."""
        if self.language != "console":
            return self.body
        commands = re.findall(r"^\$ ((?:[^\n]*\\\n)*[^\n]*)", self.body, re.MULTILINE)
        return "\n".join(commands) + "\n"


@dataclass(frozen=True)
class Page:
    """A Markdown page."""

    path: Path

    @property
    def text(self) -> str:
        """The page as written."""
        return self.path.read_text(encoding="utf-8")

    @property
    def is_slow(self) -> bool:
        """Whether its blocks take minutes."""
        return "<!-- page: slow -->" in self.text

    @property
    def setup(self) -> str:
        """Commands that the page does not show."""
        return "\n".join(re.findall(r"<!-- setup:(.*?)-->", self.text, re.DOTALL))

    @property
    def blocks(self) -> list[Block]:
        """The fenced blocks, in order."""
        text = self.text
        return [
            Block(
                text.count("\n", 0, each.start("body")),
                each["language"] or "",
                (re.search(r'title="([^"]+)"', each["rest"]) or [None, ""])[1],
                re.sub(rf"^{each['indent']}", "", each["body"], flags=re.MULTILINE),
                each["how"] or "",
            )
            for each in _FENCE.finditer(text)
        ]


def pages() -> list[Page]:
    """README and every page of docs/ that is written by hand."""
    made = {"commands.md", "manifest_keys.md", "records.md", "codes.md"}
    found = [path for path in sorted((ROOT / "docs").rglob("*.md")) if path.name not in made]
    return [Page(path) for path in [ROOT / "README.md", *found]]


def run_page(
    page: Page, folder: Path, *, python: str = sys.executable, is_checkout_found: bool = True
) -> None:
    """Run the blocks of a page in order in a folder; an unexpected exit code fails.

    With `is_checkout_found` the commands use this checkout, else the installed package.
    """
    for name in ("manifests", "examples"):
        shutil.copytree(ROOT / name, folder / name, dirs_exist_ok=True)
    tools = folder / ".tools"
    tools.mkdir()
    for name, module in (("flops-fit", " -m flops_fit"), ("python", ""), ("python3", "")):
        (tools / name).write_text(f'#!/bin/sh\nexec "{python}"{module} "$@"\n')
        (tools / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "COLUMNS": "100"}
    if is_checkout_found:
        environment["PYTHONPATH"] = str(ROOT)

    def run(script: str, language: str, expected: int, line: int) -> None:
        command = [python, "-"] if language == "python" else ["bash", "-euo", "pipefail"]
        if language == "python":
            script_file = folder / f"block_{line}.py"
            script_file.write_text(script, encoding="utf-8")
            command = [python, str(script_file)]
        ended = subprocess.run(
            command, input=None if language == "python" else script, cwd=folder, env=environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert ended.returncode == expected, (
            f"{page.path.name}, line {line}: exit code {ended.returncode}, expected {expected}\n"
            f"{script}\n{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}"
        )

    if page.setup:
        run(page.setup, "bash", 0, 1)
    for block in page.blocks:
        if block.title:
            path = folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.body, encoding="utf-8")
        elif block.is_run:
            run(block.script, block.language, block.exit_code, block.line)
