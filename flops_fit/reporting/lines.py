"""Lines for a terminal of a stated width: sentences with a code, actions with a command."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from flops_fit.reporting.tables.cells import printable

_MARK = "  ! "
_FIXED = "\u00a0"  # a blank at which no line is broken


def wrapped(text: str, width: int, *, first: str = "", indent: int = 0) -> list[str]:
    """Return a text as lines of a width; a number is never parted from its `%`."""
    lines = textwrap.wrap(
        text.replace(" %", f"{_FIXED}%"), width,
        initial_indent=first, subsequent_indent=" " * indent, break_on_hyphens=False,
    )  # fmt: skip
    return [line.replace(_FIXED, " ") for line in lines]


def coded_lines(message: str, code: str, width: int, *, most: int | None = None) -> list[str]:
    """Return a warning or a reason, marked with `!`, its code flush right.

    Args:
        message: the sentence; a long one goes on in the next line.
        code: what `flops-fit explain` explains.
        width: columns of the terminal.
        most: lines of the sentence; a longer one ends with dots. None: all of it.
    """
    code, room = printable(code), width - len(_MARK)
    lines = wrapped(printable(message), room) or [""]
    if most is not None and len(lines) > most:
        rest = textwrap.shorten(
            " ".join(lines[most - 1 :]), room - len(code) - 2, placeholder=" ..."
        )
        lines = [*lines[: most - 1], rest]
    if len(lines[-1]) + len(code) + 2 <= room:
        lines[-1] = f"{lines[-1]:<{room - len(code)}}{code}"
    else:
        lines.append(f"{code:>{room}}")
    return [f"{_MARK if k == 0 else '    '}{line}" for k, line in enumerate(lines)]


def command_lines(command: str, width: int, *, first: str = "", indent: int = 6) -> list[str]:
    """Return a command as lines that a shell takes as they stand.

    Args:
        command: words with blanks between.
        width: columns of the terminal; a longer word stands in a line of its own.
        first: what the first line begins with.
        indent: blanks before the other lines.
    """
    if len(first) + len(command) <= width:
        return [first + command]
    lines = textwrap.wrap(
        command, width - 2, initial_indent=first, subsequent_indent=" " * indent,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


def step_lines(action: str, command: str, width: int, *, indent: int = 6) -> list[str]:
    """Return an action and its command: in one line if they fit, else one below the other."""
    action = printable(action)
    both = f"{' ' * indent}{action.removesuffix('.')}: {command}"
    if action and command and len(both) <= width:
        return [both]
    lines = wrapped(action, width, first=" " * indent, indent=indent)
    if command:
        lines += command_lines(command, width, first=" " * indent, indent=indent + 2)
    return lines


def grouped(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return codes with their first message, each code once; further messages are counted.

    Args:
        pairs: codes and messages, in order.
    """
    groups: dict[str, list[str]] = {}
    for code, message in pairs:
        groups.setdefault(code, []).append(message)
    return [
        (code, first if not rest else f"{first}; {len(rest)} more of this kind")
        for code, (first, *rest) in groups.items()
    ]
