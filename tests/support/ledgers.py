"""Lines of a ledger for tests: entries by the name of their event, and ledgers edited by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flops_fit.sweep.entries import ENTRY_OF, Entry, Event


def entry(event: str, trial_id: str | None = None, **fields: Any) -> Entry:
    """An entry of this event."""
    named = fields if trial_id is None else {"trial_id": trial_id, **fields}
    return ENTRY_OF[Event(event)](**named)


def said(held: Entry) -> dict[str, Any]:
    """What an entry says, less its event, its time and what has no value."""
    known = {name: value for name, value in vars(held).items() if value is not None}
    return {name: value for name, value in known.items() if name not in ("at", "trial_id")}


def rewrite(path: Path, lines: list[str]) -> None:
    """Write a ledger's lines anew as one without checks, as a person may edit it on purpose."""
    bare = []
    for line in lines:
        data = json.loads(line)
        data.pop("check", None)
        bare.append(json.dumps(data))
    path.write_text("".join(f"{line}\n" for line in bare), encoding="utf-8")
