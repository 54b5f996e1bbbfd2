"""Plain arithmetic over names, for `[model.derive]`: evaluated here, never executed as code.

Numbers, the names given, `+ - * / // % **`, brackets, and `min`, `max`, `round`, `ceil`, `floor`,
`sqrt`, `abs`. `/` gives a float as in Python, `//` a whole number of whole numbers.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping

Number = int | float

_LARGEST = 10.0**18
"""Beyond it no constructor's argument can be meant; it keeps powers from filling the memory."""

_OPERATIONS: Mapping[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_FUNCTIONS: Mapping[str, Callable[..., Number]] = {
    "min": min,
    "max": max,
    "round": round,
    "ceil": math.ceil,
    "floor": math.floor,
    "sqrt": math.sqrt,
    "abs": abs,
}


def names_in(formula: str) -> set[str]:
    """Return the names that a formula uses.

    Raises:
        ValueError: it is not plain arithmetic.
    """
    tree = _parse(formula)
    return {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and node.id not in _FUNCTIONS
    }


def evaluate(formula: str, names: Mapping[str, Number]) -> Number:
    """Return the value of a formula.

    Raises:
        ValueError: it is not plain arithmetic, needs an unknown name, or has no value.
    """
    try:
        return _bounded(_value(_parse(formula).body, names))
    except ZeroDivisionError:
        raise ValueError(f"`{formula}` divides by zero") from None
    except (OverflowError, TypeError) as error:
        raise ValueError(f"`{formula}` has no value: {error}") from None


def _parse(formula: str) -> ast.Expression:
    """Return the formula's tree of allowed nodes."""
    try:
        tree = ast.parse(formula.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(f"`{formula}` is not arithmetic, such as `size // 64`") from None
    for node in ast.walk(tree):
        _check(node, formula)
    return tree


def _check(node: ast.AST, formula: str) -> None:
    """Refuse everything but plain arithmetic."""
    fine: tuple[type[ast.AST], ...] = (
        ast.Expression, ast.BinOp, ast.UnaryOp, ast.USub, ast.UAdd, ast.Name, ast.Load, ast.Pow,
        *_OPERATIONS,
    )  # fmt: skip
    if isinstance(node, fine):
        return
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return
    if isinstance(node, ast.Call):
        name = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)
        if name in _FUNCTIONS and node.args and not node.keywords:
            return
        known = ", ".join(f"`{each}`" for each in _FUNCTIONS)
        raise ValueError(f"`{formula}` calls `{name}`; there are {known}, without keywords")
    raise ValueError(
        f"`{formula}` holds more than plain arithmetic (numbers, names, + - * / // % ** and "
        f"brackets): {type(node).__name__}"
    )


def _value(node: ast.AST, names: Mapping[str, Number]) -> Number:
    """Return the value of a checked tree."""
    match node:
        case ast.Constant(value=int() | float() as value):
            return value
        case ast.Name(id=name):
            if name not in names:
                known = ", ".join(f"`{each}`" for each in names)
                raise ValueError(f"there is no `{name}`; known are {known}")
            return names[name]
        case ast.UnaryOp(op=op, operand=operand):
            value = _value(operand, names)
            return -value if isinstance(op, ast.USub) else value
        case ast.BinOp(left=left, op=op, right=right):
            first, second = _value(left, names), _value(right, names)
            if isinstance(op, ast.Pow):
                return _bounded(_power(first, second))
            return _bounded(_OPERATIONS[type(op)](first, second))
        case ast.Call(func=ast.Name(id=name), args=args):
            values = [_value(each, names) for each in args]
            try:
                return _bounded(_FUNCTIONS[name](*values))
            except ValueError as error:
                given = ", ".join(str(value) for value in values)
                raise ValueError(f"`{name}({given})` has no value: {error}") from None
    raise AssertionError("every node was checked")


def _power(base: Number, exponent: Number) -> Number:
    """Return a power, if it fits in memory."""
    if abs(base) > 1 and abs(exponent) * math.log(abs(base)) > math.log(_LARGEST):
        if exponent > 0:
            raise ValueError(f"{base} ** {exponent} is too large")
        return 0.0
    power: Number = base**exponent
    return power


def _bounded(value: Number) -> Number:
    """Return a real number of a plausible size."""
    if isinstance(value, complex) or not math.isfinite(value) or abs(value) > _LARGEST:
        raise ValueError(f"a value of {value} is out of range")
    return value
