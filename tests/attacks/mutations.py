"""Take a defence out at run time and put it back, to see whether it is what stops an attack.

Two ways. `Unraised` takes the `raise SomeError(...)` statements out of one function, so that its
checks find what they find and nothing comes of it. `Replaced` gives a function another body, and
`Set` gives a name another value. Each changes the one object that everybody uses, whatever name
they imported it under, and fails loudly when there is nothing to take out: a defence that moved
elsewhere must be looked for, not believed in.
"""

import ast
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, TypeAlias

from attrs import frozen


@frozen
class Unraised:
    """The function's `raise` statements of this error do nothing."""

    function: Callable[..., Any]
    error: str

    @contextmanager
    def applied(self) -> Iterator[None]:
        function = _plain(self.function)
        before = function.__code__
        function.__code__ = _without(function, self.error)
        try:
            yield
        finally:
            function.__code__ = before


@frozen
class Replaced:
    """The function has another body, which sees the names of the function's own module."""

    function: Callable[..., Any]
    replacement: Callable[..., Any]

    @contextmanager
    def applied(self) -> Iterator[None]:
        function, replacement = _plain(self.function), _plain(self.replacement)
        before = function.__code__, function.__defaults__, function.__kwdefaults__
        function.__code__ = replacement.__code__
        try:
            yield
        finally:
            function.__code__, function.__defaults__, function.__kwdefaults__ = before


@frozen
class Set:
    """An attribute, or an entry of a table, has another value."""

    owner: Any
    name: Any
    value: Any

    @contextmanager
    def applied(self) -> Iterator[None]:
        if isinstance(self.owner, Mapping):
            missing = object()
            before = self.owner.get(self.name, missing)
            self.owner[self.name] = self.value  # type: ignore[index]
            try:
                yield
            finally:
                if before is missing:
                    del self.owner[self.name]  # type: ignore[attr-defined]
                else:
                    self.owner[self.name] = before  # type: ignore[index]
        else:
            before = getattr(self.owner, self.name)
            setattr(self.owner, self.name, self.value)
            try:
                yield
            finally:
                setattr(self.owner, self.name, before)


@frozen
class Together:
    """Several changes that are one defence: what both ends of a channel do, for example."""

    removals: tuple["Removal", ...]

    @contextmanager
    def applied(self) -> Iterator[None]:
        with ExitStack() as stack:
            for removal in self.removals:
                stack.enter_context(removal.applied())
            yield


Removal: TypeAlias = Unraised | Replaced | Set | Together


@frozen(kw_only=True)
class Mutation:
    """A defence, the attacks that it stops, and what must go for them to succeed.

    Several `removes` mean that defences overlap: each of them alone stops the attacks, which
    `test_mutations` shows too.
    """

    defence: str
    attacks: tuple[str, ...]
    removes: tuple[Removal, ...]

    @contextmanager
    def applied(self, *, but: int | None = None) -> Iterator[None]:
        """Remove the defence; `but` leaves one of several overlapping ones in place."""
        with ExitStack() as stack:
            for number, removal in enumerate(self.removes):
                if number != but:
                    stack.enter_context(removal.applied())
            yield


def _plain(function: Callable[..., Any]) -> FunctionType:
    inner = inspect.unwrap(getattr(function, "__func__", function))
    assert isinstance(inner, FunctionType), f"{function} is not a function of ours"
    return inner


def _without(function: FunctionType, error: str) -> CodeType:
    """Return the code of `function` with every `raise error` taken out."""
    path = Path(function.__code__.co_filename)
    tree = ast.parse(path.read_text(), filename=str(path))
    line = function.__code__.co_firstlineno
    places = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and node.name == function.__name__
        and min([node.lineno, *(each.lineno for each in node.decorator_list)]) == line
    ]
    assert len(places) == 1, f"{function.__qualname__} is not where it says"
    taken = _TakeOut(error)
    taken.visit(places[0])
    assert taken.count, f"{function.__qualname__} raises no {error}: where is the defence now?"
    # From the syntax tree of our own source, never from data.
    module = compile(ast.fix_missing_locations(tree), str(path), "exec", dont_inherit=True)
    (code,) = (
        each
        for each in _codes(module)
        if each.co_name == function.__name__ and each.co_firstlineno == line
    )
    return code


class _TakeOut(ast.NodeTransformer):
    def __init__(self, error: str) -> None:
        self.error = error
        self.count = 0

    def visit_Raise(self, node: ast.Raise) -> ast.stmt:
        raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        if not isinstance(raised, ast.Name) or raised.id != self.error:
            return node
        self.count += 1
        return ast.copy_location(ast.Pass(), node)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
