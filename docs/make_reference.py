"""Write the pages of the reference that follow from the code.

    python docs/make_reference.py          writes docs/reference/{manifest_keys,commands,records}.md

The manifest's keys come from its pydantic models, the commands from typer, and the records from the
dataclasses that are written to the run directory. `tests/docs/test_reference.py` fails if a page
differs from what this script writes.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from dataclasses import MISSING, fields
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from typer.main import get_command

from flops_fit.cli.main import app
from flops_fit.manifest.manifest import Manifest
from flops_fit.manifest.recipe import TRACKERS, Recipe
from flops_fit.manifest.slurm_section import SlurmSection
from flops_fit.manifest.sweep_section import Goal, SweepSection
from flops_fit.manifest.trials import Details, Outcome, Size, Trial, _FlatTrial
from flops_fit.sweep.entries import ENTRY_OF

FOLDER = Path(__file__).parent / "reference"
_LIMITS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
_UNTOLD = "This page is written by `docs/make_reference.py`. Do not edit it.\n"


def attributes_of(thing: type) -> dict[str, str]:
    """The meaning of each attribute, as the class docstring states it."""
    found: dict[str, str] = {}
    for parent in reversed(thing.__mro__):
        _, _, text = (parent.__dict__.get("__doc__") or "").partition("Attributes:\n")
        names: list[str] = []
        for line in text.splitlines():
            if line.strip() and not line.startswith("        "):
                break
            head = re.match(r" {8}(\w+(?:, \w+)*): (.*)", line)
            if head:
                names = head[1].split(", ")
                found.update(dict.fromkeys(names, head[2]))
            elif line.strip():
                found.update({name: f"{found[name]} {line.strip()}" for name in names})
    return found


def _table(header: list[str], rows: list[list[str]]) -> Iterator[str]:
    """A Markdown table."""
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |"
    yield ""


def _sentence(text: str) -> str:
    """A meaning, with a capital and a full stop."""
    if not text:
        return ""
    text = text[:1].upper() + text[1:] if not text.startswith("`") else text
    return text if text.endswith((".", "?")) else f"{text}."


def _schema_type(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """The type that a JSON schema describes, in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        referred = definitions[name]
        return "table" if referred.get("type") == "object" else _schema_type(referred, definitions)
    if "anyOf" in schema:
        kinds = [each for each in schema["anyOf"] if each.get("type") != "null"]
        return " or ".join(dict.fromkeys(_schema_type(each, definitions) for each in kinds))
    if "const" in schema:
        return f'`"{schema["const"]}"`'
    if "enum" in schema:
        return ", ".join(f'`"{each}"`' for each in schema["enum"])
    kind = schema.get("type", "any")
    limits = "".join(f", {sign} {schema[key]:g}" for key, sign in _LIMITS.items() if key in schema)
    if kind == "array":
        of = schema.get("items") or {}
        words = (
            _schema_type(of, definitions).replace("number", "numbers").replace("string", "strings")
        )
        return f"list of {words}" if of else "list of numbers"
    words = {"object": "table", "integer": "whole number", "boolean": "true or false",
             "any": "any"}  # fmt: skip
    return words.get(kind, kind) + limits


def _shown_default(schema: dict[str, Any], *, is_required: bool) -> str:
    """The default as TOML would write it."""
    if is_required:
        return "required"
    default = schema.get("default")
    if default is None or default == {}:
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, str):
        return f'`"{default}"`'
    if isinstance(default, float):
        return f"`{default:g}`"
    return f"`{list(default) if isinstance(default, tuple) else default}`"


def sections() -> dict[str, tuple[type, dict[str, Any]]]:
    """The manifest's sections by name, each with its class and JSON schema; "" is the top level."""
    hints = {name: info.annotation for name, info in Manifest.model_fields.items()}
    found: dict[str, tuple[type, dict[str, Any]]] = {"": (Manifest, _schema(Manifest))}
    for name, kind in hints.items():
        if isinstance(kind, type) and kind not in (str, int):
            found[name] = (kind, _schema(kind))
    found["execution.slurm"] = (SlurmSection, _schema(SlurmSection))
    found["sweep.goal"] = (Goal, _schema(Goal))
    return found


def _schema(kind: type) -> dict[str, Any]:
    return TypeAdapter(kind).json_schema()


def manifest_page() -> str:
    """docs/reference/manifest_keys.md: every key, its type, default and meaning."""
    lines = [
        "# Every key of the manifest", "",
        "A manifest is a TOML file. The sections `[model]`, `[data]`, `[loss]` and `[sweep]` are "
        "required; every other section and key has a default. An unknown key is refused with the "
        "nearest known one. Numbers of FLOPs may be written `1e18` or `\"1e18\"`. "
        "[How to write a manifest](../manifest.md) explains the parts that need more than a line.",
        "", _UNTOLD,
    ]  # fmt: skip
    for name, (kind, schema) in sections().items():
        title = {"": "Top level", "sweep.goal": "sweep.goal"}.get(name, f"[{name}]")
        lines += [f"## {title}", ""]
        meanings, definitions = attributes_of(kind), schema.get("$defs", {})
        needed = schema.get("required", [])
        rows = []
        for key, described in schema["properties"].items():
            if name == "" and key not in ("name", "seed"):
                continue
            rows.append([
                f"`{key}`",
                "list of tracker names" if key == "log_with" else
                _schema_type(described, definitions),
                _shown_default(described, is_required=key in needed),
                _sentence(meanings[key]),
            ])  # fmt: skip
        lines += _table(["key", "type", "default", "meaning"], rows)
        if kind is Recipe:
            known = ", ".join(f"`{each}`" for each in TRACKERS)
            lines += [
                f"Trackers: {known}. [How a trial is trained](../training.md) holds the rules and "
                "their sources.", "",
            ]  # fmt: skip
        if kind is SweepSection:
            lines += ["A key that belongs to another design is refused.", ""]
    return "\n".join(lines).rstrip() + "\n"


def commands() -> dict[str, Any]:
    """Every command by name; the program itself is ""."""
    group = typing.cast("Any", get_command(app))
    return {"": group, **group.commands}


def commands_page() -> str:
    """docs/reference/commands.md: every command with its arguments, options and examples."""
    lines = [
        "# Every command and option", "",
        "`flops-fit COMMAND --help` prints the same on a terminal. Standard output carries the "
        "table or the JSON; standard error carries progress, warnings and errors. "
        "[Exit codes](files.md#exit-codes) are the same for every command.", "", _UNTOLD,
    ]  # fmt: skip
    for name, command in commands().items():
        lines += [f"## flops-fit {name}".rstrip(), "", _plain(command.help or ""), ""]
        if command.hidden:
            lines += ["This command is meant for launchers, so `--help` does not list it.", ""]
        hints = typing.get_type_hints(command.callback, include_extras=True)
        rows = [
            _parameter(param, hints.get(param.name, bool))
            for param in command.params
            if not getattr(param, "hidden", False)
        ]
        lines += _table(["argument or option", "value", "default", "meaning"], rows)
        examples = re.findall(r"flops-fit [^\n]*", command.epilog or "")
        if examples:
            lines += ["```text", *(_plain(each) for each in examples), "```", ""]
    return "\n".join(lines).rstrip() + "\n"


def _parameter(param: Any, hint: Any) -> list[str]:
    """One row: names, value, default, meaning."""
    is_option = param.param_type_name == "option"
    names = [*param.opts, *param.secondary_opts] if is_option else [param.name.upper()]
    value = "" if hint is bool else _value_of(hint)
    if is_option and param.metavar:
        value = f"`{param.metavar}`"
    default, shown = param.default, getattr(param, "show_default", False)
    if isinstance(shown, str):
        text = shown
    elif param.required:
        text = "required"
    elif default and isinstance(default, str | int | float | Path | Enum) and default is not True:
        text = f"`{getattr(default, 'value', default)}`"
    else:
        text = "on" if default is True else ""
    return [", ".join(f"`{each}`" for each in names), value, text, _plain(param.help or "")]


def _value_of(hint: Any) -> str:
    """What an argument or option takes, from its annotation."""
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    kinds = [each for each in (typing.get_args(hint) or (hint,)) if each is not type(None)]
    kind = kinds[0]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(f"`{each.value}`" for each in kind)
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(f"`{each}`" for each in kinds)
    if typing.get_args(kind):
        return _value_of(kind)
    return {int: "whole number", float: "number", str: "text", Path: "path", bool: ""}.get(kind, "")


def _plain(text: str) -> str:
    """Help without rich's markup, on one line."""
    text = re.sub(r"\\\[", "[", re.sub(r"\[/?(?:dim|bold|cyan|green|red|yellow)\]", "", text))
    return " ".join(text.replace("\f", " ").split())


def _words_of(hint: Any) -> str:
    """A type hint in a few words."""
    if hint is type(None):
        return ""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _words_of(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(filter(None, map(_words_of, arguments))))
    if origin in (tuple, list, typing.get_origin(typing.Sequence[int])):
        return "list"
    if origin is typing.Literal:
        return ", ".join(f'`"{each}"`' for each in arguments)
    words = {int: "whole number", float: "number", str: "string", bool: "true or false"}
    if isinstance(hint, type) and hint in words:
        return words[hint]
    return "string" if isinstance(hint, type) and issubclass(hint, str) else "object"


def records_page() -> str:
    """docs/reference/records.md: the fields of the plan, of outcomes and of ledger lines."""
    lines = [
        "# Every field of the records", "",
        "The run directory holds these records as JSON. [Files and formats](files.md) says which "
        "file holds which record. A field without a value is left out; a reader ignores fields "
        "that it does not know.", "", _UNTOLD,
    ]  # fmt: skip
    named: list[tuple[str, Any]] = [
        ("A trial (`plan.json`)", _FlatTrial),
        ("An outcome (`trials/ID/outcome.json`)", Outcome),
        ("The details of an outcome", Details),
    ]
    shared = {each.name for each in fields(Details)}
    named += [(f"`{event}` (`ledger.jsonl`)", kind) for event, kind in ENTRY_OF.items()]
    for title, kind in named:
        first = ((Trial if kind is _FlatTrial else kind).__doc__ or "").split("\n\n")[0]
        lines += [f"## {title}", "", _sentence(" ".join(first.split())), ""]
        meanings = {"at": "time of the entry: UTC, ISO 8601", **attributes_of(kind)}
        if kind is _FlatTrial:
            meanings = attributes_of(Size) | attributes_of(Trial)
        hints = typing.get_type_hints(kind, include_extras=True)
        rows, is_outcome = [], issubclass(kind, Details) and kind is not Details
        for each in fields(kind):
            if is_outcome and each.name in shared:
                continue
            needed = each.default is MISSING and each.default_factory is MISSING
            rows.append([
                f"`{each.name}`", _words_of(hints[each.name]), "yes" if needed else "",
                _sentence(meanings.get(each.name, "")),
            ])  # fmt: skip
        lines += _table(["field", "type", "always there", "meaning"], rows)
        if is_outcome:
            lines += ["It also holds the details of the outcome that have a value.", ""]
    return "\n".join(lines).rstrip() + "\n"


PAGES = {
    "manifest_keys.md": manifest_page,
    "commands.md": commands_page,
    "records.md": records_page,
}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")
