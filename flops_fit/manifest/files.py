"""Reads and writes every file of a run: bounded, typed reading and atomic writing.

Reading. A file is opened without waiting and must be a regular file of a bounded size, so a FIFO, a
device or a sparse file of many gigabytes is refused at once. Its content is validated against a
type: the fields of a dataclass, with limits. Unknown fields are ignored, so that a file of a later
version with the same format number is still read. Whatever is wrong with it is one `RunDirError`:
the file, the line, the field, what was found and what was expected.

Writing. A file is written under a temporary name beside its place, flushed to the disk, and
renamed. A reader finds the old content or the new; a crash leaves at most a file whose name begins
with `.tmp-`.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Hashable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from flops_fit.errors import RunDirError
from flops_fit.manifest.mistakes import place_of, shown

T = TypeVar("T")

STORED = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)
"""How a dataclass is read from a file: no text for a number, no NaN, unknown fields ignored.

A dataclass takes it as its `__pydantic_config__`.
"""

MOST = 10**18
Count = Annotated[int, Field(ge=0, le=MOST)]
PositiveCount = Annotated[int, Field(gt=0, le=MOST)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**64)]
Positive = Annotated[float, Field(gt=0, le=1e40, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, le=1e40, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
HexId = Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
"""12 hexadecimal digits. Ids name folders, so nothing else may pass for one."""
Text = Annotated[str, Field(max_length=100_000)]

SMALL_FILE = 2**24
LARGE_FILE = 2**29


def read_bytes(path: Path, *, most_bytes: int = LARGE_FILE, is_link_fine: bool = False) -> bytes:
    """Return the content of a regular file of at most `most_bytes` bytes.

    Raises:
        RunDirError: it is missing, a link, no regular file, or too large.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)
    flags |= 0 if is_link_fine else getattr(os, "O_NOFOLLOW", 0)
    try:
        descriptor = os.open(path, flags)
        with os.fdopen(descriptor, "rb") as file:
            require_regular(descriptor, path)
            size = os.fstat(descriptor).st_size
            content = b"" if size > most_bytes else file.read(most_bytes + 1)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise RunDirError(
                f"`{path}` is a link; a run directory holds its own files",
                hint="put the file itself in its place",
            ) from None
        raise RunDirError(
            f"`{path}` cannot be read: {error.strerror}",
            hint="is this a run directory? `flops-fit run MANIFEST` makes one",
        ) from None
    size = max(size, len(content))
    if size > most_bytes:
        raise RunDirError(
            f"`{path}` is too large: it has {size:,} bytes, expected at most {most_bytes:,}",
            hint=_RESTORE,
        )
    return content


_RESTORE = "the file was changed by hand or by another program: restore it from a copy"


def refuse_link(path: Path) -> None:
    """Refuse a link where a folder of a run directory is to be written.

    Raises:
        RunDirError: it is a link, so the files would go elsewhere.
    """
    if path.is_symlink():
        raise RunDirError(
            f"`{path}` is a link to `{path.readlink()}`: a run directory holds its own files",
            hint="put the folder itself in its place",
        )


def require_regular(descriptor: int, path: Path) -> None:
    """Refuse a FIFO, a device, a socket or a folder where a file is expected.

    Raises:
        RunDirError: the open file is no regular file.
    """
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind):
        return
    named = {
        stat.S_IFIFO: "a FIFO", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
        stat.S_IFDIR: "a folder", stat.S_IFSOCK: "a socket",
    }.get(stat.S_IFMT(kind), "no regular file")  # fmt: skip
    raise RunDirError(f"`{path}` is {named}, expected a regular file", hint=_RESTORE)


def read_text(path: Path, *, most_bytes: int = LARGE_FILE, is_link_fine: bool = False) -> str:
    """Return the text of a file in UTF-8.

    Raises:
        RunDirError: it cannot be read, or is not UTF-8.
    """
    try:
        return read_bytes(path, most_bytes=most_bytes, is_link_fine=is_link_fine).decode("utf-8")
    except UnicodeDecodeError as error:
        raise RunDirError(
            f"`{path}` is not text in UTF-8: byte {error.start} is "
            f"0x{error.object[error.start]:02x}",
            hint=_RESTORE,
        ) from None


def adapter(kind: type[T]) -> TypeAdapter[T]:
    """Return the reader and writer of a type, made once."""
    return cast("TypeAdapter[T]", _adapter(cast("Hashable", kind)))


@cache
def _adapter(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast("type[Any]", kind))


def read_as(kind: type[T], path: Path, *, most_bytes: int = LARGE_FILE) -> T:
    """Return a file's JSON as a value of a type.

    Raises:
        RunDirError: the file cannot be read, is not JSON, or breaks a rule of the type.
    """
    return parse_as(kind, read_bytes(path, most_bytes=most_bytes), path=path)


def parse_as(kind: type[T], content: bytes | str, *, path: Path, line: int | None = None) -> T:
    """Return JSON as a value of a type; `path` and `line` name it in the error.

    Raises:
        RunDirError: it is not JSON, or breaks a rule of the type.
    """
    try:
        return adapter(kind).validate_json(content)
    except ValidationError as error:
        where = f"`{path}`" + ("" if line is None else f" line {line}")
        raise RunDirError(f"{where} {_mistake(error)}", hint=_RESTORE) from None


def _mistake(error: ValidationError) -> str:
    """Return what is wrong with a file that breaks a rule."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return f"is not JSON: {first['ctx']['error']}"
    return f"is not usable: {what_is_wrong(error)}"


def what_is_wrong(error: ValidationError) -> str:
    """Return the first broken rule: which field, what was found, what was expected."""
    found = error.errors()
    first = found[0]
    field = f"`{place_of(first['loc'])}`" if first["loc"] else "it"
    more = f" ({len(found) - 1} more fields are wrong)" if len(found) > 1 else ""
    if first["type"] == "missing":
        return f"{field} is missing{more}"
    expected = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return f"{field} is {shown(first['input'])}, expected {expected}{more}"


def from_plain(kind: type[T], data: Any) -> T:
    """Return plain data as a value of a type; a broken rule raises pydantic's `ValidationError`."""
    return adapter(kind).validate_json(json.dumps(data))


def to_plain(value: Any) -> Any:
    """Return a dataclass as plain data, ready for `json.dumps`."""
    return adapter(type(value)).dump_python(value, mode="json")


def read_json(path: Path, *, most_bytes: int = LARGE_FILE) -> dict[str, Any]:
    """Return a file's JSON object as plain data, for a reader that checks it by itself.

    Raises:
        RunDirError: the file cannot be read, is not JSON (NaN included), or is no object.
    """
    content = read_bytes(path, most_bytes=most_bytes)
    try:
        data = from_json(content, allow_inf_nan=False)
    except ValueError as error:
        raise RunDirError(f"`{path}` is not JSON: {error}", hint=_RESTORE) from None
    if not isinstance(data, dict):
        raise RunDirError(f"`{path}` does not hold a JSON object", hint=_RESTORE)
    return cast("dict[str, Any]", data)


def write_atomic(path: Path, content: str | bytes, *, durable: bool = True) -> None:
    """Replace `path` by `content`, as a whole or not at all.

    Args:
        path: where to; its directory is made.
        content: text is written as UTF-8.
        durable: wait until the disk has it; without, a power cut may bring the old file back.

    Raises:
        OSError: it cannot be written; `filename` is `path`, and nothing is left behind.
    """
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # A link of that name would lead the write elsewhere.
        with temporary.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None  # a full disk names no file itself
        raise
    if durable:
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable.

    Without it ext4 may forget a rename, or a new file, after a power cut.
    """
    if os.name == "nt":  # Windows opens no directory.
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems cannot sync a directory; their renames are as durable as they can be.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def write_json(path: Path, data: Mapping[str, Any], *, durable: bool = True) -> None:
    """Write plain data atomically; NaN and infinity are refused, since JSON has none."""
    write_atomic(path, json.dumps(data, indent=1, allow_nan=False) + "\n", durable=durable)


def write_as(path: Path, value: Any, *, durable: bool = True) -> None:
    """Write a dataclass atomically, as `read_as` reads it."""
    write_json(path, to_plain(value), durable=durable)
