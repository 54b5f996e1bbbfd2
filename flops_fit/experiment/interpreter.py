"""Starts Python for a child process that loads the user's code."""

from __future__ import annotations

import sys
from pathlib import Path


def python_command() -> list[str]:
    """Return the interpreter with its options: `[..., "-P"]`, then `-m MODULE`.

    `-P` keeps the current folder out of the import path, where a file of the user's called
    `types.py` or `random.py` would be imported in place of Python's own. The folder is kept only
    where this package itself is found through it.
    """
    is_found_there = Path(__file__).resolve().parents[2] == Path.cwd().resolve()
    return [sys.executable] if is_found_there else [sys.executable, "-P"]
