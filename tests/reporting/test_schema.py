"""The report as data keeps the schema that is published in docs/."""

import copy
import json
from pathlib import Path

import pytest
from planted_results import observe, planted_result, surface_fit, with_outlier

from flops_fit.errors import FitError, Note
from flops_fit.fitting.points import Excluded, Optimum

SCHEMA = json.loads(
    (Path(__file__).parents[2] / "docs" / "report.schema.json").read_text(encoding="utf-8")
)
_TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "number": (int, float),
    "integer": int,
    "null": type(None),
    "boolean": bool,
}
_KNOWN = {
    "$schema", "$id", "$defs", "$ref", "title", "description", "type", "required", "properties",
    "additionalProperties", "items", "enum", "minimum", "exclusiveMinimum", "minItems", "maxItems",
}  # fmt: skip


def problems(value, schema, where="$"):
    """What in `value` breaks `schema`: the part of JSON Schema that the file uses."""
    assert set(schema) <= _KNOWN, f"{where}: the checker does not know {set(schema) - _KNOWN}"
    if "$ref" in schema:
        yield from problems(value, SCHEMA["$defs"][schema["$ref"].rsplit("/", 1)[1]], where)
    allowed = schema.get("type", [])
    allowed = [allowed] if isinstance(allowed, str) else allowed
    if allowed and not any(
        isinstance(value, _TYPES[name]) and (name == "boolean" or not isinstance(value, bool))
        for name in allowed
    ):
        yield f"{where}: {value!r} is none of {allowed}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where}: {value!r} is none of {schema['enum']}"
    if isinstance(value, int | float):
        if value < schema.get("minimum", value):
            yield f"{where}: {value} is too small"
        if "exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"]:
            yield f"{where}: {value} is too small"
    if isinstance(value, dict):
        yield from problems_of_object(value, schema, where)
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            yield f"{where}: {len(value)} items"
        for place, item in enumerate(value):
            yield from problems(item, schema.get("items", {}), f"{where}[{place}]")


def problems_of_object(value, schema, where):
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{where}: {name} is missing"
    for name, item in value.items():
        rest = schema.get("additionalProperties", True)
        if name in schema.get("properties", {}):
            yield from problems(item, schema["properties"][name], f"{where}.{name}")
        elif rest is False:
            yield f"{where}: {name} is not in the schema"
        elif rest is not True:
            yield from problems(item, rest, f"{where}.{name}")


def rich_result():
    seen, excluded = with_outlier(observe([1e17, 3e17, 1e18, 3e18, 1e19]), 4)
    return planted_result(
        observations=seen,
        excluded=(*excluded, Excluded("row 12", "loss is not a number")),
        failures={"envelope": FitError("no curves", code="no_curves")},
        notes=(Note("flops_assumed", "6 N D"),),
        predictions=(Optimum(5e19, 1e9, 8.4e9, None, (9e8, 1.1e9), method="surface"),),
    )


@pytest.mark.parametrize(
    "result",
    [
        planted_result(),
        rich_result(),
        planted_result(fits={}, failures={"surface": FitError("5 runs", code="too_few")}),
        planted_result(fits={"surface": surface_fit(objective=float("nan"))}),
    ],
    ids=["trust", "provisional", "refuse", "not finite"],
)
def test_every_kind_of_report_keeps_the_schema(result):
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert list(problems(data, SCHEMA)) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("verdict",), "maybe"),
        (("observations", "used"), -1),
        (("predictions", 0, "params"), None),
        (("predictions", 0, "loss_interval"), [1.0]),
        (("fits", "surface", "exponents"), {"params": 0.5}),
        (("reasons",), [{"code": "x"}]),
        (("surprise",), 1),
    ],
)
def test_the_schema_refuses_what_the_report_never_says(path, value):
    data = copy.deepcopy(rich_result().to_dict())
    place = data
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert list(problems(json.loads(json.dumps(data)), SCHEMA))
