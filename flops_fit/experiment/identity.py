"""Digests of an experiment's source files, versions and data, for comparison.

Trials form one law only if each was trained by the same code on the same data. The source files are
the modules that the plugins loaded from the folders where plugins are looked for; versions are
those of Python packages that the numbers depend on. Data is compared by a digest of up to 512
held-out examples, and of 64 examples of a training set that can be indexed.
"""

from __future__ import annotations

import difflib
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from flops_fit.experiment.loading import Experiment

_PACKAGES = ("flops-fit", "torch", "transformers", "datasets", "timm", "diffusers", "torchvision")
_HELDOUT_EXAMPLES, _TRAIN_EXAMPLES = 512, 64
_MOST_LINES = 6  # of a changed file that are quoted


@dataclass(frozen=True)
class Identity:
    """The code, versions and data that one process trains with.

    Attributes:
        files: SHA-256 of each source file by its path.
        versions: of packages, by name.
        heldout: digest of the held-out set.
        train: digest of a sample of the training set; None where it cannot be indexed, or gives
            other examples each time.
        train_examples: how many examples the training set has; None where it does not say.
    """

    files: dict[str, str]
    versions: dict[str, str]
    heldout: str | None = None
    train: str | None = None
    train_examples: int | None = None

    @property
    def code(self) -> str:
        """Return 12 hexadecimal digits that change with the source files and the versions."""
        text = repr((sorted(self.files.values()), sorted(self.versions.items())))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, Any]:
        """Return the identity as plain data."""
        return asdict(self)


def identity_of(experiment: Experiment, *, search_path: Sequence[Path]) -> Identity:
    """Return what this process would train with; the plugins are loaded."""
    heldout, train, count = _data_of(experiment)
    files = {str(path): digest_of(path) for path in _loaded_files(search_path)}
    return Identity(files, versions_of(_PACKAGES), heldout, train, count)


def versions_of(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file; empty if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def code_changes(was: Identity, kept: Path) -> list[str]:
    """Return what changed in the source files and versions since `was`, one sentence each.

    Args:
        was: what the run directory recorded.
        kept: the folder of the copies that `keep_files` made.
    """
    said = []
    for name, digest in was.files.items():
        if digest_of(Path(name)) != digest:
            said.append(_file_change(Path(name), kept / _copy_name(name, digest)))
    now = versions_of(list(was.versions))
    for package, before in was.versions.items():
        if now.get(package) != before:
            said.append(f"{package} {before} -> {now.get(package, 'not installed')}")
    return said


def differences(was: Identity, now: Identity, kept: Path) -> list[str]:
    """Return what differs between the recorded identity and this process's, one sentence each."""
    said = code_changes(was, kept)
    new = [Path(name).name for name in now.files if name not in was.files]
    said += [f"the plugins load `{name}`, which they did not before" for name in new]
    if was.heldout is not None and now.heldout is not None and was.heldout != now.heldout:
        said.append("the held-out set has other examples")
    if was.train_examples != now.train_examples:
        said.append(f"the training set has {now.train_examples} examples, not {was.train_examples}")
    elif was.train is not None and now.train is not None and was.train != now.train:
        said.append("the training set has other examples")
    return said


def keep_files(identity: Identity, folder: Path) -> None:
    """Copy the source files into a folder, where a later change can be compared with them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, digest in identity.files.items():
        copy = folder / _copy_name(name, digest)
        if not copy.exists():
            copy.write_bytes(Path(name).read_bytes())


def _copy_name(name: str, digest: str) -> str:
    return f"{digest[:12]}-{Path(name).name}"


def _file_change(path: Path, copy: Path) -> str:
    """Return how a source file changed: lines added and removed, and the first of them."""
    try:
        before = copy.read_text(encoding="utf-8", errors="replace").splitlines()
        after = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return f"`{path.name}` is gone or cannot be read"
    lines = list(difflib.unified_diff(before, after, lineterm="", n=0))[2:]
    added = [line for line in lines if line.startswith("+")]
    removed = [line for line in lines if line.startswith("-")]
    quoted = " | ".join(line.strip() for line in (*removed, *added)[:_MOST_LINES])
    return f"`{path.name}` changed (+{len(added)} -{len(removed)} lines: {quoted})"


def _loaded_files(search_path: Sequence[Path]) -> list[Path]:
    """Return the source files of loaded modules that lie under the folders of plugins."""
    folders = [folder.resolve() for folder in search_path]
    ours = Path(__file__).resolve().parents[1]
    found = set()
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or not file.endswith(".py"):
            continue
        if not Path(file).is_absolute() or not Path(file).is_file():
            continue  # torch has modules whose file is a bare name
        path = Path(file).resolve()
        is_installed = "site-packages" in path.parts or path.is_relative_to(ours)
        if not is_installed and any(path.is_relative_to(folder) for folder in folders):
            found.add(path)
    return sorted(found)


def _data_of(experiment: Experiment) -> tuple[str | None, str | None, int | None]:
    """Return (digest of the held-out set, digest of a training sample, training examples)."""
    from flops_fit.experiment.checks.data import digests
    from flops_fit.training.data.batches import example_count, heldout_batches

    data = experiment.data

    def digest(source: Any, examples: int) -> str:
        hashed = hashlib.sha256()
        for batch in heldout_batches(source, batch=64, examples=examples):
            for each in digests(batch):
                hashed.update(each)
        return hashed.hexdigest()[:24]

    count = example_count(data.train)
    train = None
    if count:
        first, second = (digest(data.train, _TRAIN_EXAMPLES) for _ in range(2))
        train = first if first == second else None
    return digest(data.heldout, _HELDOUT_EXAMPLES), train, count
