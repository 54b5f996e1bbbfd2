"""Describes a manifest's first mistake in one sentence: what, where, got, expected, and a hint."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from flops_fit.errors import ManifestError

_LISTS = {
    "too_short": "expected a list of {min_length} or more, got {got}",
    "too_long": "expected a list of {max_length:,} at most, got {actual_length:,}",
    "list_type": "expected a list, got {got}",
    "tuple_type": "expected a list, got {got}",
}
_UNKNOWN_KEY = {"extra_forbidden", "unexpected_keyword_argument"}


def first_mistake(error: ValidationError, model: type[BaseModel], where: str) -> ManifestError:
    """Return the first broken rule as a sentence with its place.

    An unknown key goes before a missing one: it is likely the same key, misspelt.
    """
    found = error.errors()
    first = min(found, key=lambda each: each["type"] not in _UNKNOWN_KEY)
    place = place_of(first["loc"])
    kind, given = first["type"], first.get("input")
    if kind in _UNKNOWN_KEY:
        known = _known_keys(model, first["loc"][:-1])
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"known keys: {', '.join(known)}"
        return ManifestError(f"`{place}` in `{where}` is not a known key", hint=hint)
    if kind in {"missing", "missing_argument"}:
        what = "section" if len(first["loc"]) == 1 else "key"
        return ManifestError(
            f"`{place}` is missing in `{where}`", hint=f"add the {what}; `flops-fit init` shows it"
        )
    if kind == "value_error":
        reason = str(first["ctx"]["error"])
        return ManifestError(f"`{place}` in `{where}`: {reason}{_others(first, found)}",
                             hint=_hint_for(place))  # fmt: skip
    if kind in _LISTS:
        said = _LISTS[kind].format(got=shown(given), **first.get("ctx", {}))
    else:
        message = first["msg"].removeprefix("Input should be ").rstrip(".")
        said = f"expected {message}, got {shown(given)}"
    return ManifestError(
        f"`{place}` in `{where}`: {said}{_others(first, found)}",
        hint=_hint_for(place, is_list=kind in _LISTS),
    )


def _others(first: Any, found: Sequence[Any]) -> str:
    """Return the other keys with broken rules, in brackets."""
    keys = dict.fromkeys(each["loc"][:2] for each in found)
    places = [place_of(key) for key in keys if key != first["loc"][:2]]
    if not places:
        return ""
    listed = ", ".join(f"`{place}`" for place in places[:3])
    return f" ({len(places)} more wrong: {listed})"


def _hint_for(place: str, *, is_list: bool = False) -> str | None:
    """Return an example of a value of this kind."""
    if is_list and "budgets" in place:
        return "write a list, as `budgets = [1e16, 3e16, 1e17, 3e17, 1e18]`"
    if "budgets" in place or place.endswith("_flops") or place == "sweep.goal.at":
        return 'write FLOPs as `1e18` or "1e18"'
    if place.startswith("model.sizes"):
        return "write `sizes = [16, 24, 32]` or `sizes = { min = 16, max = 512, multiple_of = 8 }`"
    return None


def place_of(loc: tuple[int | str, ...]) -> str:
    """`("sweep", "budgets", 2)` as `sweep.budgets[2]`."""
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _known_keys(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Return the keys that the table at `loc` may have."""
    at: Any = model
    for part in loc:
        field = getattr(at, "model_fields", {}).get(part)
        if field is None:
            return []
        at = field.annotation
        among = [option for option in get_args(at) if hasattr(option, "model_fields")]
        at = among[0] if among else at
    if hasattr(at, "model_fields"):
        return list(at.model_fields)
    return [field.name for field in fields(at)] if is_dataclass(at) else []


def shown(value: object) -> str:
    """Return a value as the user wrote it, shortened."""
    text = repr(value) if not isinstance(value, bool) else str(value).lower()
    return f"`{text if len(text) <= 60 else text[:57] + '...'}`"
