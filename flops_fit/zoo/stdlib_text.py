"""Text that every machine has: the sources of Python's own standard library, as bytes.

Files are sorted by path and deduplicated by content; a hash of a file's name decides whether it
is trained on or held out, so that a file keeps its side when others come or go. Sources differ
between patch versions of Python, hence the sha256 in `provenance`.
"""

from __future__ import annotations

import hashlib
import platform
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flops_fit.zoo.windows import Windows, spaced_windows

_SKIPPED_FOLDERS = frozenset(
    {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
)
_HELDOUT_OF = 10
"""One file in this many is held out."""


@dataclass(frozen=True)
class StdlibText:
    """A training and a held-out set, with their facts."""

    train: Windows
    heldout: Windows
    units_per_example: int
    unique_units: int
    provenance: dict[str, Any]
    unit: str = "byte"
    loss_unit: str = "nats per byte"
    causal: bool = True


def stdlib_text(
    context: int = 64, heldout_windows: int = 2048, folder: str | None = None
) -> StdlibText:
    """Return the standard library's sources, cut into windows of `context` bytes.

    Args:
        context: bytes in a window.
        heldout_windows: how many windows, evenly spaced over the held-out files, are evaluated;
            none that stands word for word among those trained on.
        folder: where the `.py` files lie; None: this Python's standard library.

    Raises:
        ValueError: the folder does not hold enough text for one window on each side, or only
            the same text on both.
    """
    root = Path(folder) if folder else Path(sysconfig.get_path("stdlib"))
    sides: dict[bool, list[bytes]] = {False: [], True: []}
    seen: set[bytes] = set()
    digest = hashlib.sha256()
    for name in _names(root):
        content = (root / name).read_bytes()
        fingerprint = hashlib.sha256(content).digest()
        if fingerprint in seen:
            continue
        seen.add(fingerprint)
        digest.update(name.encode() + b"\0" + fingerprint)
        is_heldout = hashlib.sha256(name.encode()).digest()[0] % _HELDOUT_OF == 0
        sides[is_heldout].append(content)
    texts = {side: b"\n".join(parts) for side, parts in sides.items()}
    if min(len(text) for text in texts.values()) <= context:
        raise ValueError(f"`{root}` holds too little Python source for windows of {context} bytes")
    train = Windows(_as_tensor(texts[False]), context=context)
    heldout = spaced_windows(
        _as_tensor(texts[True]), context=context, count=heldout_windows, trained_on=train
    )
    if not len(heldout):
        raise ValueError(f"`{root}` has no window of text that is not trained on too")
    provenance = {
        "name": "stdlib-text",
        "python": platform.python_version(),
        "files": len(seen),
        "heldout_files": len(sides[True]),
        "bytes": sum(len(text) for text in texts.values()),
        "sha256": digest.hexdigest(),
    }
    return StdlibText(
        train=train,
        heldout=heldout,
        units_per_example=context,
        unique_units=len(train) * context,
        provenance=provenance,
    )


def _names(root: Path) -> list[str]:
    """Paths of the sources below root, with `/`, sorted.

    Files that describe one build of Python (`_sysconfigdata*`, `config-*`) are left out: they
    would make the text differ between machines.
    """
    names = []
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).parts
        folders = parts[:-1]
        if _SKIPPED_FOLDERS.intersection(folders) or not path.is_file():
            continue
        if parts[-1].startswith("_sysconfigdata") or any(f.startswith("config-") for f in folders):
            continue
        names.append("/".join(parts))
    return sorted(names)


def _as_tensor(text: bytes) -> torch.Tensor:
    """Return the bytes as a new tensor: uint8, shape (len(text),)."""
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)
