"""Columns that are computed from others, such as a mass from momenta: arithmetic and a few functions, nothing else.

The text is parsed, never executed: whatever is not listed here is refused.
"""

import ast
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._text import counted, listed

_FUNCTIONS: dict[str, np.ufunc] = {
    name: getattr(np, name)
    for name in (
        *("sqrt", "exp", "log", "log10", "abs", "hypot"),
        *("sin", "cos", "tan", "arcsin", "arccos", "arctan", "arctan2", "sinh", "cosh", "tanh"),
    )
}
_OPERATORS: dict[type[ast.AST], np.ufunc] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.Pow: np.power,
    ast.UAdd: np.positive,
    ast.USub: np.negative,
}
_Value = Callable[[Mapping[str, NDArray[np.float64]]], Any]
_LONGEST = 1000  # characters
_GRAMMAR = f"Allowed are numbers, names of columns (odd ones in `backquotes`), + - * / ** and {listed(_FUNCTIONS)}"


class Expression:
    """A formula with the names of columns.

    Parameters
    ----------
    text : str
        The formula, such as "sqrt(E**2 - p**2)".

    Attributes
    ----------
    names : tuple of str
        The columns in it.

    Raises
    ------
    ValueError
        If the text is no such formula.

    Examples
    --------
    >>> from sagips_kit.events.expressions import Expression
    >>> Expression("hypot(px, py)").names
    ('px', 'py')
    >>> Expression("2 * px + 1")({"px": [1, 2]})
    array([3., 5.])
    """

    def __init__(self, text: str):
        self._quoted: list[str] = []
        self._names: list[str] = []
        try:
            if len(text) > _LONGEST:
                raise ValueError(f"it has more than {_LONGEST} characters")
            plain = re.sub(r"`([^`]+)`", self._placeholder, text)
            self._value = self._compiled(ast.parse(plain.strip(), mode="eval").body)
        except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
            raise ValueError(f"{text!r} is no formula: {getattr(error, 'msg', error)}. {_GRAMMAR}.") from None
        self.names = tuple(dict.fromkeys(self._names))

    def __call__(self, columns: Mapping[str, Any]) -> NDArray[np.float64]:
        """The values (row,) for columns by name."""
        with np.errstate(all="ignore"):  # what is not finite is refused with its row
            return self._value({name: np.asarray(columns[name], np.float64) for name in self.names})

    def _placeholder(self, quoted: re.Match[str]) -> str:
        self._quoted.append(quoted[1])
        return f" _quoted_{len(self._quoted) - 1} "

    def _compiled(self, node: ast.AST) -> _Value:
        """The value of a part of the formula; raises ValueError if it holds anything that is not allowed."""
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            given: Any = node.value
            number = np.float64(given)
            if isinstance(given, int) and int(number) != given:
                raise ValueError(f"double precision would round {given}")
            return lambda _: number
        if isinstance(node, ast.UnaryOp | ast.BinOp) and type(node.op) in _OPERATORS:
            function = _OPERATORS[type(node.op)]
            operands = [node.operand] if isinstance(node, ast.UnaryOp) else [node.left, node.right]
        elif isinstance(node, ast.Call) and not node.keywords:
            name, operands = ast.unparse(node.func), node.args
            if name not in _FUNCTIONS:
                raise ValueError(f"{name} is no function here")
            function = _FUNCTIONS[name]
            if len(operands) != function.nin:
                raise ValueError(f"{name} takes {counted(function.nin, 'number')}, not {len(operands)}")
        else:
            name = self._name(node)
            self._names.append(name)
            return lambda columns: columns[name]
        values = [self._compiled(operand) for operand in operands]
        return lambda columns: function(*(value(columns) for value in values))

    def _name(self, node: ast.AST) -> str:
        """The column that a node names; "s.a" is a name, too."""
        if isinstance(node, ast.Attribute):
            return f"{self._name(node.value)}.{node.attr}"
        if not isinstance(node, ast.Name):
            raise ValueError(f"{ast.unparse(node)} is not allowed")
        quoted = {f"_quoted_{k}": name for k, name in enumerate(self._quoted)}
        return quoted.get(node.id, node.id)


def needed_for(name: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """The columns, out of those of a file, that give the one called `name`: itself, or those in the formula.

    Raises
    ------
    ValueError
        If it is a formula that is not allowed.
    """
    if name in names or not re.search(r"[-+*/(`]", name):
        return (name,)
    if not (found := Expression(name).names):
        raise ValueError(f"{name!r} is no formula: it has no column.")
    return found
