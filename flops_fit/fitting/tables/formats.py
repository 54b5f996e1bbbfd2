"""A table's cells by column, from a file, a mapping, a data frame or a tracker's project.

Files: CSV and TSV (comma, semicolon, tab, bar or spaces; `sep=;`, a title, blank and comment lines
before the header, or the header in a comment), JSON (a list of objects, a list of lists below their
names, an object of lists, every orient of pandas with names, or these inside an object), JSONL,
`.xlsx` (extra `excel`) and Parquet (extra `parquet`); any of them in gzip. Text is UTF-8, UTF-16 or
Latin-1. A file is known by its first bytes and by its ending.

Reading is bounded: regular files only, MAX_BYTES, MAX_ROWS and MAX_CELLS. A row keeps its place:
the line that it ends on for CSV and JSONL (the header is a line too), the sheet's row for `.xlsx`,
the position from 1 for the rest.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

from flops_fit.errors import Note, ObservationsError
from flops_fit.fitting.points import Excluded
from flops_fit.fitting.tables.numbers import parse_cell

MAX_BYTES = 256 * 2**20
MAX_ROWS = 2_000_000
MAX_COLUMNS = 10_000
MAX_CELLS = 20_000_000
MAX_DEPTH = 4  # of objects inside a JSON row; deeper ones are kept as they are, and no number

Columns = Mapping[str, Sequence[Any]]

_HINT = "give a CSV, JSON, JSONL, .xlsx or Parquet file"
_COMMENTS = ("#", "//", "%")
_SHEET_ERRORS = (
    OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, EOFError,
    zipfile.BadZipFile, zlib.error, ParseError, NotImplementedError,
)  # fmt: skip


@dataclass
class Cells:
    """The raw cells of a table, before numbers are parsed.

    Attributes:
        where: how to name the table in messages.
        columns: the cells by column, all of one length.
        places: of each row: its line or position.
        rejected: rows that are no rows, with the reason.
        notes: how the file was read, where that is not plain.
        delimiter: of a CSV file; empty for the rest.
    """

    where: str
    columns: dict[str, list[Any]]
    places: Sequence[int]
    rejected: list[Excluded] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    delimiter: str = ""


def open_table(source: str | PathLike[str] | Columns | Any) -> Cells:
    """Read all cells of a table.

    Args:
        source: a path, `wandb:ENTITY/PROJECT`, `mlflow:EXPERIMENT`, a mapping of columns, or a data
            frame.

    Raises:
        ObservationsError: it cannot be read, is too large, or is no table.
    """
    if isinstance(source, str | PathLike):
        from flops_fit.fitting.tables.trackers import is_project, read_project

        if is_project(str(source)):
            return _from_records(f"`{source}`", enumerate(read_project(str(source)), start=1))
        return _from_file(Path(source))
    if hasattr(source, "to_pydict"):
        source = source.to_pydict()
    names = getattr(source, "columns", None)
    if names is None:
        if not isinstance(source, Mapping):
            raise ObservationsError(
                f"a {type(source).__name__} is no table",
                hint="give a path, a mapping of columns or a data frame",
            )
        names = source.keys()
    return _from_columns("the table", {str(name): source[name] for name in names})


def _from_file(path: Path) -> Cells:
    """Return the cells of a file; its first bytes and its suffix decide the format."""
    where, data = f"`{path}`", _bytes_of(path)
    if data[:2] == b"\x1f\x8b":
        data, path = _unzipped(where, data), path.with_suffix("")
    if data[:4] == b"PK\x03\x04":
        return _from_sheet(where, data)
    if data[:4] == b"PAR1":
        return _from_parquet(where, data)
    text, notes = _decode(where, data)
    if not text.strip():
        raise ObservationsError(f"{where} is empty", hint=_HINT)
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        found = _from_lines(where, text)
    elif suffix == ".json" or (suffix not in (".csv", ".tsv") and text.lstrip()[:1] in ("{", "[")):
        found = _from_json(where, text)
    else:
        found = _from_csv(where, text)
    found.notes[:0] = notes
    return found


def _bytes_of(path: Path) -> bytes:
    """Return the content of a regular file that is not too large."""
    try:
        about = os.stat(path)  # noqa: PTH116  # the path may hold a null byte, which pathlib hides
        if not stat.S_ISREG(about.st_mode):
            kind = "a folder" if stat.S_ISDIR(about.st_mode) else "no regular file"
            raise ObservationsError(f"`{path}` is {kind}", hint=_HINT)
        if about.st_size > MAX_BYTES:
            raise ObservationsError(
                f"`{path}` has {about.st_size:.3g} bytes, and a table may have {MAX_BYTES:.3g}",
                hint="keep one row for each finished run, and only the columns that a fit uses",
            )
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ObservationsError(f"`{path}` cannot be read: {error}", hint=_HINT) from None
    return data


def _unzipped(where: str, data: bytes) -> bytes:
    """Return the content of a gzip file that is not too large."""
    unzip = zlib.decompressobj(wbits=31)
    try:
        content = unzip.decompress(data, MAX_BYTES + 1)
    except zlib.error as error:
        raise ObservationsError(f"{where} is not a sound gzip file: {error}", hint=_HINT) from None
    if len(content) > MAX_BYTES:
        raise ObservationsError(
            f"{where} holds more than {MAX_BYTES:.3g} bytes",
            hint="keep one row for each finished run, and only the columns that a fit uses",
        )
    return content


def _decode(where: str, data: bytes) -> tuple[str, list[Note]]:
    """Decode bytes: UTF-8, UTF-16 by its mark or its zeros, else Latin-1 with a note."""
    encoding = ""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    elif data[1:2] == b"\0" and data[:1] != b"\0":
        encoding = "utf-16-le"
    elif data[:1] == b"\0" and data[1:2] != b"\0":
        encoding = "utf-16-be"
    try:
        if encoding:
            text = data.decode(encoding)
            if "\0" not in text:
                return text, []
        elif b"\0" not in data:
            return data.decode("utf-8-sig"), []
    except UnicodeDecodeError:
        if not encoding:
            said = "the file is not UTF-8: its text was read as Latin-1"
            return data.decode("latin-1"), [Note("read_as_latin1", said)]
    raise ObservationsError(f"{where} is not text: it has zero bytes", hint=_HINT)


def _from_csv(where: str, text: str) -> Cells:
    """Cells of a CSV text; a row's place is the line that it ends on."""
    start, skipped, delimiter = _find_header(text)
    if delimiter == " ":
        lines = (re.sub(r"[ \t]+", "\t", line.strip()) for line in text[start:].splitlines())
        text, start, delimiter = "\n".join(lines), 0, "\t"
    reader = csv.reader(
        io.StringIO(text[start:], newline=""), delimiter=delimiter, strict=True,
        skipinitialspace=True,
    )  # fmt: skip
    try:
        names = [name.strip() for name in next(reader)]
        while names and not names[-1]:
            names.pop()
        headers = [name or f"column {k}" for k, name in enumerate(names, start=1)]
        _refuse_twins(where, headers)
        return _csv_rows(where, reader, headers, skipped, delimiter)
    except (csv.Error, StopIteration) as error:
        raise ObservationsError(
            f"line {reader.line_num + skipped} of {where} is not CSV: {error}",
            hint="look for a quotation mark that is not closed",
        ) from None


def _find_header(text: str) -> tuple[int, int, str]:
    """Find the header: its position, the number of lines before it, and the delimiter.

    A comment directly above a row of numbers is the header, as `numpy.savetxt` writes it.
    """
    start, skipped, stated = 0, 0, ""
    comment: tuple[int, int] | None = None
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end + 1
        line = text[start:end].strip()
        if line.lower().startswith("sep=") and len(line) <= 5:
            stated = line[4:] or "\t"
        elif line.startswith(_COMMENTS):
            comment = (start + text[start:end].index(line[0]) + 1, skipped)
        elif line.strip(",;\t| ") and not _is_title(line, text[end : end + 10_000]):
            break
        start, skipped = end, skipped + 1
    header = text[start:].split("\n", 1)[0]
    delimiter = stated or _delimiter_of(header)
    if comment is not None and _is_all_numbers(header, delimiter):
        names = text[comment[0] :].split("\n", 1)[0]
        if _cells_of(names, delimiter) == _cells_of(header, delimiter):
            return *comment, delimiter
    return start, skipped, delimiter


def _delimiter_of(line: str) -> str:
    """Return the delimiter of a header: the one that gives most cells; spaces if none does."""
    counts = {each: _cells_of(line, each) for each in ",;\t|"}
    best = max(counts, key=lambda each: counts[each])
    return " " if counts[best] == 1 and len(line.split()) > 1 else best


def _is_title(line: str, below: str) -> bool:
    """Return whether a line is a title: one cell of text, above a line of several."""
    following = next((each for each in below.splitlines() if each.strip(",;\t| ")), "")
    delimiter = _delimiter_of(following)
    cells = [cell for cell in line.split(delimiter) if cell.strip()]
    names = [cell.strip() for cell in following.split(delimiter) if cell.strip()]
    if delimiter == " " or len(cells) != 1 or len(names) < 2:
        return False
    return not any(parse_cell(name)[0] is not None for name in names)


def _is_all_numbers(line: str, delimiter: str) -> bool:
    """Return whether every cell of a line is a number."""
    cells = line.split() if delimiter == " " else line.split(delimiter)
    return all(parse_cell(cell)[0] is not None for cell in cells)


def _cells_of(line: str, delimiter: str) -> int:
    """Return the number of cells of a line with this delimiter."""
    if delimiter == " ":
        return len(line.split())
    try:
        return len(next(csv.reader([line], delimiter=delimiter)))
    except (csv.Error, StopIteration):
        return 0


def _csv_rows(where: str, reader: Any, headers: list[str], skipped: int, delimiter: str) -> Cells:
    """Yield the rows below a header, without empty lines, comments and repeated headers."""
    width = len(headers)
    columns: list[list[Any]] = [[] for _ in headers]
    places: list[int] = []
    rejected: list[Excluded] = []
    for cells in reader:
        place = reader.line_num + skipped
        if len(cells) != width:
            while len(cells) > width and not cells[-1].strip():
                cells.pop()
            if not any(cell.strip() for cell in cells) or cells[0].startswith(_COMMENTS):
                continue
            if len(cells) != width:
                reason = f"{len(cells)} cells where the header has {width}"
                rejected.append(Excluded(f"row {place}", reason))
                continue
        if cells[0].strip() == headers[0] and [cell.strip() for cell in cells] == headers:
            continue
        if not cells[0].strip(" :-") and not any(cell.strip(" :-") for cell in cells):
            continue  # blank, or the line below a header in Markdown
        places.append(place)
        _refuse_too_many(where, len(places), width)
        for column, cell in zip(columns, cells, strict=True):
            column.append(cell)
    return Cells(
        where, dict(zip(headers, columns, strict=True)), places, rejected, delimiter=delimiter
    )


def _refuse_twins(where: str, headers: Sequence[str]) -> None:
    """Refuse two columns of one name, and more columns than any table of runs has."""
    if len(headers) > MAX_COLUMNS:
        raise ObservationsError(
            f"{where} has {len(headers):,} columns, and a table may have {MAX_COLUMNS:,}",
            hint="keep only the columns that a fit uses",
        )
    if len(set(headers)) != len(headers):
        twice = sorted({name for name in headers if headers.count(name) > 1})
        raise ObservationsError(
            f"{where} has two columns called `{twice[0]}`", hint="give each column its own name"
        )


def _refuse_too_many(where: str, rows: int, width: int) -> None:
    """Refuse a table with more rows or cells than are read."""
    if rows > MAX_ROWS or rows * width > MAX_CELLS:
        raise ObservationsError(
            f"{where} has more than {rows - 1:,} rows of {width} columns",
            hint="keep one row for each finished run, and only the columns that a fit uses",
        )


def _from_lines(where: str, text: str) -> Cells:
    """Return the cells of a JSONL text; a line that is no object becomes a rejected row."""

    def rows() -> Iterator[tuple[int, Any]]:
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except (ValueError, RecursionError):
                    yield number, None

    return _from_records(where, rows())


def _from_json(where: str, text: str) -> Cells:
    """Cells of a JSON text, in any of the layouts that name their columns."""
    try:
        data = json.loads(text)
    except RecursionError:
        raise ObservationsError(f"{where} is nested too deeply", hint=_HINT) from None
    except ValueError as error:
        lines = text.strip().splitlines()
        if len(lines) > 1 and _is_object(lines[0]) and _is_object(lines[1]):
            return _from_lines(where, text)
        raise ObservationsError(
            f"{where} is not JSON: {error}", hint="one object a line goes into a .jsonl file"
        ) from None
    if isinstance(data, list) and any(isinstance(row, dict) for row in data):
        return _from_records(where, enumerate(data, start=1))
    if isinstance(data, list) and data and all(isinstance(row, list) for row in data):
        names = data[0]
        if len(names) > 1 and all(isinstance(name, str) for name in names):
            records = (dict(zip(names, row, strict=False)) for row in data[1:])
            return _from_records(where, enumerate(records, start=2))
    if isinstance(data, dict) and data:
        found = _from_object(where, data)
        if found is not None:
            return found
    raise ObservationsError(
        f"{where} holds no table", hint="give a list of objects, or an object of lists"
    )


def _is_object(line: str) -> bool:
    """Return whether a line is a JSON object."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _from_object(where: str, data: dict[str, Any]) -> Cells | None:
    """Cells of a JSON object: of lists, of objects, or with one list of rows inside."""
    names, rows = data.get("columns"), data.get("data")
    if isinstance(names, list) and isinstance(rows, list):  # pandas: orient="split"
        records = [
            dict(zip(map(str, names), row, strict=False)) if isinstance(row, list) else None
            for row in rows
        ]
        return _from_records(where, enumerate(records, start=1))
    values = list(data.values())
    if all(isinstance(value, list) for value in values) and not any(
        isinstance(each, dict) for value in values for each in value
    ):
        return _from_columns(where, data)
    tables = [value for value in values if _may_be_table(value)]
    if all(isinstance(value, dict) for value in values) and len(tables) < len(values):
        return _from_objects(where, data)
    lists = [value for value in tables if isinstance(value, list)]
    if len(tables) == 1 or len(lists) == 1:
        inner = lists[0] if lists else tables[0]
        if isinstance(inner, list):
            return _from_records(where, enumerate(inner, start=1))
        return _from_object(where, inner)
    if len(tables) == len(values) and all(isinstance(value, list) for value in values):
        labelled = [
            {"group": name, **row} if isinstance(row, dict) else row
            for name, rows in data.items()
            for row in rows
        ]
        return _from_records(where, enumerate(labelled, start=1))
    return None


def _may_be_table(value: Any) -> bool:
    """Return whether a JSON value has rows: a list of objects, or an object of objects or lists."""
    if isinstance(value, list):
        return any(isinstance(each, dict) for each in value)
    return isinstance(value, dict) and any(
        isinstance(each, dict) or (isinstance(each, list) and len(each) > 1)
        for each in value.values()
    )


def _from_objects(where: str, data: dict[str, dict[str, Any]]) -> Cells:
    """Return the cells of an object of objects: of runs by name, or of columns by row."""
    values = list(data.values())
    inner = list(dict.fromkeys(key for value in values for key in value))
    by_index = all(key.isdigit() for key in data) or (
        not all(key.isdigit() for key in inner) and not any("loss" in key.lower() for key in data)
    )
    if by_index:
        return _from_records(where, enumerate(values, start=1))
    columns = {name: [cells.get(key) for key in inner] for name, cells in data.items()}
    return _from_columns(where, columns)


def _from_records(where: str, rows: Iterable[tuple[int, Any]]) -> Cells:
    """Return the cells of a list of objects, with columns in order of appearance."""
    columns: dict[str, list[Any]] = {}
    places: list[int] = []
    rejected: list[Excluded] = []
    for place, row in rows:
        if not isinstance(row, dict):
            rejected.append(Excluded(f"row {place}", "not a JSON object"))
            continue
        done = len(places)
        for name, cell in _flat(row):
            column = columns.get(name)
            if column is None:
                column = columns[name] = []
            column.extend([None] * (done - len(column)))
            column.append(cell)
        places.append(place)
        _refuse_too_many(where, len(places), len(columns))
    if not columns:
        raise ObservationsError(f"{where} has no object with columns", hint="see docs/tables.md")
    for column in columns.values():
        column.extend([None] * (len(places) - len(column)))
    return Cells(where, columns, places, rejected)


def _flat(row: Mapping[Any, Any], above: str = "", depth: int = 1) -> Iterator[tuple[str, Any]]:
    """The cells of an object; those of an object inside it are named `outer.inner`."""
    seen: set[str] = set()
    for key, cell in row.items():
        name = f"{above}{str(key).strip()}"
        if isinstance(cell, dict) and depth < MAX_DEPTH:
            yield from _flat(cell, f"{name}.", depth + 1)
        elif name not in seen:
            seen.add(name)
            yield name, cell


def _from_columns(where: str, table: Columns) -> Cells:
    """Cells of a mapping from column to values."""
    columns: dict[str, list[Any]] = {}
    for name, values in table.items():
        try:
            columns[str(name).strip()] = (
                values.tolist() if hasattr(values, "tolist") else list(values)
            )
        except TypeError:
            raise ObservationsError(
                f"the column `{name}` of {where} is no list of values",
                hint="give one value a row in every column",
            ) from None
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ObservationsError(
            f"the columns of {where} differ in length: {lengths}",
            hint="give one value a row in every column",
        )
    rows = next(iter(lengths.values()), 0)
    _refuse_too_many(where, rows, len(columns))
    return Cells(where, columns, range(1, rows + 1))


def _from_sheet(where: str, data: bytes) -> Cells:
    """Return the cells of the first sheet of an Excel file that is not empty."""
    try:
        import openpyxl
    except ImportError:
        raise ObservationsError(
            f"{where} is an Excel file, and the package that reads it is not installed",
            hint='pip install "flops-fit[excel]", or save the sheet as CSV',
        ) from None
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(each.file_size for each in archive.infolist())
        if size > MAX_BYTES:
            raise ObservationsError(
                f"{where} holds {size:.3g} bytes, and a table may have {MAX_BYTES:.3g}",
                hint="keep one row for each finished run, and only the columns that a fit uses",
            )
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        for sheet in book.worksheets:
            found = _sheet_rows(where, sheet.iter_rows(values_only=True))
            if found is not None:
                if len(book.worksheets) > 1:
                    said = f"the sheet `{sheet.title}` was read, of {len(book.worksheets)}"
                    found.notes.append(Note("sheet_read", said))
                return found
    except _SHEET_ERRORS as error:
        raise ObservationsError(
            f"{where} cannot be read as an Excel file: {error}", hint="save the sheet as CSV"
        ) from None
    raise ObservationsError(f"{where} is empty", hint=_HINT)


def _sheet_rows(where: str, rows: Iterable[Sequence[Any]]) -> Cells | None:
    """Cells below the first row of a sheet that has two texts or more; None if there is none."""
    headers: list[str] = []
    kept: list[tuple[int, dict[str, Any]]] = []
    for place, row in enumerate(rows, start=1):
        if headers:
            if any(cell is not None for cell in row):
                kept.append((place, dict(zip(headers, row, strict=False))))
                _refuse_too_many(where, len(kept), len(headers))
        elif sum(isinstance(cell, str) and bool(cell.strip()) for cell in row) > 1:
            headers = [str(cell or f"column {k}").strip() for k, cell in enumerate(row, start=1)]
            _refuse_twins(where, headers)
        elif place > MAX_ROWS:
            return None
    return _from_records(where, kept) if kept else None


def _from_parquet(where: str, data: bytes) -> Cells:
    """Cells of a Parquet file."""
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise ObservationsError(
            f"{where} is a Parquet file, and the package that reads it is not installed",
            hint='pip install "flops-fit[parquet]", or save the table as CSV',
        ) from None
    try:
        file = parquet.ParquetFile(arrow.BufferReader(data))
        _refuse_too_many(where, file.metadata.num_rows, max(1, file.metadata.num_columns))
        return _from_columns(where, file.read().to_pydict())
    except (OSError, ValueError, MemoryError, arrow.ArrowException) as error:
        raise ObservationsError(
            f"{where} cannot be read as a Parquet file: {error}", hint="save the table as CSV"
        ) from None
