"""Mutants of Python code, from its syntax tree.

Strings, annotations, imports and decorators are not changed. Neither are f-strings, because Python
3.11 does not know the positions of the expressions in them.
"""

import ast
import re
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

from tests.mutate.mutant import Mutant, shorten

_COMPARISONS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
}
# Dropping an element of a pair only raises an exception.
_SHORTEST_TUPLE = 3


def mutants(source: bytes) -> list[Mutant]:
    """Return the mutants of a module; `is_valid` excludes those with a syntax error."""
    return list(_Finder(source).all(ast.parse(source)))


def is_valid(source: bytes, mutant: Mutant) -> bool:
    """Return whether a mutant parses and differs from the original code."""
    try:
        changed = ast.parse(mutant.apply(source))
    except SyntaxError:
        return False
    return ast.dump(changed) != ast.dump(ast.parse(source))


class _Finder:
    """Finds the mutants of one module."""

    def __init__(self, source: bytes) -> None:
        self._source = source
        self._lines = [0, *accumulate(map(len, source.splitlines(keepends=True)))]

    def all(self, node: ast.AST) -> Iterator[Mutant]:
        match node:
            case ast.Compare():
                yield from self._comparisons(node)
            case ast.BoolOp():
                yield from self._drops("condition", node.values)
            case ast.UnaryOp(op=ast.Not()):
                yield from self._negation(node)
            case ast.Constant():
                yield from self._constant(node)
            case ast.Call():
                yield from self._keywords(node)
                yield from self._swap(node)
            case ast.List() | ast.Set():
                yield from self._drops("element", node.elts)
            case ast.Tuple() if len(node.elts) >= _SHORTEST_TUPLE:
                yield from self._drops("element", node.elts)
            case ast.Dict():
                yield from self._entries(node)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield from self._returns(node)
        for child in _children(node):
            yield from self.all(child)

    def _comparisons(self, node: ast.Compare) -> Iterator[Mutant]:
        operands = [node.left, *node.comparators]
        for op, (left, right) in zip(node.ops, pairwise(operands), strict=True):
            old, new = _COMPARISONS[type(op)]
            start, end = self._span(left)[1], self._span(right)[0]
            gap = self._source[start:end]
            match = re.search(rb"\s+".join(map(re.escape, old.encode().split())), gap)
            if match:
                at = start + match.start(), start + match.end()
                yield self._edit("comparison", f"`{old}` to `{new}`", *at, new.encode())

    def _negation(self, node: ast.UnaryOp) -> Iterator[Mutant]:
        start, end = self._offsets(node)[0], self._span(node.operand)[0]
        what = f"drop `not` of `{shorten(self._text(node.operand))}`"
        yield self._edit("negation", what, start, end, b"")

    def _constant(self, node: ast.Constant) -> Iterator[Mutant]:
        value = node.value
        old = self._text(node)
        if isinstance(value, bool):
            new = str(not value)
        elif isinstance(value, int | float):
            new = f"0o{value + 1:o}" if old.startswith(b"0o") else str(value + 1)
        else:
            return
        what = f"`{old.decode()}` to `{new}`"
        yield self._edit("constant", what, *self._offsets(node), new.encode())

    def _keywords(self, node: ast.Call) -> Iterator[Mutant]:
        arguments: list[ast.expr | ast.keyword] = [*node.args, *node.keywords]
        arguments.sort(key=self._offsets)
        for number, argument in enumerate(arguments):
            # `check=False` of subprocess.run is the default.
            if isinstance(argument, ast.keyword) and not _is_default(argument):
                yield self._drop("keyword", arguments, number)

    def _swap(self, node: ast.Call) -> Iterator[Mutant]:
        match node.args:
            case [ast.Starred(), *_] | [_, ast.Starred(), *_]:
                return
            case [first, second, *_]:
                a, b = self._span(first), self._span(second)
                texts = [self._source[slice(*span)] for span in (a, b)]
                between = self._source[a[1] : b[0]]
                what = f"swap `{shorten(texts[0])}` and `{shorten(texts[1])}`"
                yield self._edit("swap", what, a[0], b[1], texts[1] + between + texts[0])

    def _entries(self, node: ast.Dict) -> Iterator[Mutant]:
        """Drop a dict entry, from its key or `**` to the next entry."""
        starts = [
            self._offsets(key)[0] if key else self._source.rindex(b"**", 0, self._offsets(value)[0])
            for key, value in zip(node.keys, node.values, strict=True)
        ]
        spans = [
            (start, self._span(value)[1]) for start, value in zip(starts, node.values, strict=True)
        ]
        for number in range(len(spans)):
            yield self._drop_span("element", spans, number)

    def _returns(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Mutant]:
        """Return before a statement of a function that returns nothing, or that yields."""
        returns = node.returns
        gives_nothing = isinstance(returns, ast.Constant) and returns.value is None
        if not gives_nothing and not any(isinstance(child, ast.Yield) for child in ast.walk(node)):
            return
        for statement in node.body[1 if ast.get_docstring(node) else 0 :]:
            if not isinstance(statement, ast.FunctionDef | ast.ClassDef | ast.Pass):
                start = self._offsets(statement)[0]
                indent = b" " * statement.col_offset
                what = f"return before `{shorten(self._text(statement))}`"
                yield self._edit("return", what, start, start, b"return\n" + indent)

    def _drops(self, kind: str, nodes: Sequence[ast.expr]) -> Iterator[Mutant]:
        for number in range(len(nodes)):
            yield self._drop(kind, nodes, number)

    def _drop(self, kind: str, nodes: Sequence[ast.expr | ast.keyword], number: int) -> Mutant:
        # The brackets around a single element are those of the list or the call.
        spans = [self._span(node) if len(nodes) > 1 else self._offsets(node) for node in nodes]
        return self._drop_span(kind, spans, number)

    def _drop_span(self, kind: str, spans: Sequence[tuple[int, int]], number: int) -> Mutant:
        """Drop one of several spans, with the separator to its neighbour."""
        start, end = spans[number]
        what = f"drop {kind} `{shorten(self._source[start:end])}`"
        if number + 1 < len(spans):
            end = spans[number + 1][0]
        elif number:
            start = spans[number - 1][1]
        return self._edit(kind, what, start, end, b"")

    def _edit(self, kind: str, what: str, start: int, end: int, replacement: bytes) -> Mutant:
        return Mutant(kind=kind, what=what, start=start, end=end, replacement=replacement)

    def _text(self, node: ast.expr | ast.stmt) -> bytes:
        return self._source[slice(*self._offsets(node))]

    def _offsets(self, node: ast.expr | ast.stmt | ast.keyword) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = self._lines[node.lineno - 1] + node.col_offset
        return start, self._lines[node.end_lineno - 1] + node.end_col_offset

    def _span(self, node: ast.expr | ast.stmt | ast.keyword) -> tuple[int, int]:
        """Return a node's offsets, with the parentheses around it."""
        start, end = self._offsets(node)
        while True:
            before, after = start - 1, end
            while self._source[before : before + 1].isspace():
                before -= 1
            while self._source[after : after + 1].isspace():
                after += 1
            if (self._source[before : before + 1], self._source[after : after + 1]) != (b"(", b")"):
                return start, end
            start, end = before, after + 1


def _is_default(keyword: ast.keyword) -> bool:
    return keyword.arg == "check" and ast.unparse(keyword.value) == "False"


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes below a node that can have mutants."""
    match node:
        case ast.JoinedStr() | ast.Import() | ast.ImportFrom():
            return
        case ast.AnnAssign():
            if node.value:
                yield node.value
        case ast.Assign(targets=[ast.Name("__all__")]):
            return
        case ast.If(test=ast.Name("TYPE_CHECKING") | ast.Compare(left=ast.Name("__name__"))):
            return
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            yield from (default for default in node.args.defaults)
            yield from (default for default in node.args.kw_defaults if default)
            yield from node.body
        case ast.ClassDef():
            yield from node.body
        case ast.Subscript(slice=ast.Tuple()):
            yield node.value
        case _:
            yield from ast.iter_child_nodes(node)
