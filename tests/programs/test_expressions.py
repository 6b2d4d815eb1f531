"""The language of elementwise expressions: what is in it, and that everything else is refused."""

import ast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation import limits
from attestation.errors import ProgramError
from attestation.programs.errors import (
    DtypeMismatchError,
    ExpressionError,
    InputMissingError,
    InputUnusedError,
    ParameterTypeError,
)
from attestation.programs.expressions import FUNCTIONS, OPERATIONS, Expression, parse
from attestation.programs.parameters import Parameter, ParameterKind, resolve
from attestation.programs.program import decode_parameters, encode_parameters

EXPRESSION = Parameter(name="expression", kind=ParameterKind.EXPRESSION)


def shown(expression: Expression) -> str:
    """The result's node with everything it reads, in brackets."""

    def show(at: int) -> str:
        node = expression.nodes[at]
        if node.operation == "input":
            return node.name
        if node.operation == "constant":
            return repr(node.value)
        return f"{node.operation}({' '.join(map(show, node.operands))})"

    return show(len(expression.nodes) - 1)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("a", "a"),
        ("a - b - c", "subtract(subtract(a b) c)"),
        ("a + b*c", "add(a multiply(b c))"),
        ("a / b*c", "multiply(divide(a b) c)"),
        ("-a*b", "multiply(negative(a) b)"),
        ("-2*a", "multiply(-2 a)"),
        ("a - -1.5e-3", "subtract(a -0.0015)"),
        ("(a + b)*c", "multiply(add(a b) c)"),
        ("where(a < b and not b == c or a >= 1, a, b)", None),
        ("where(not a < b, a, b)", "where(not(less(a b)) a b)"),
        ("where(a < 1 or b < 1 and c < 1, a, 1)", None),
        ("clip(a, 0, 1)", "min(max(a 0) 1)"),
        ("max(min(a, b), exp(c))", "max(min(a b) exp(c))"),
        (" \t\na\n+\r b ", "add(a b)"),
        ("where(a > 0, a, 0.01*a)", "where(greater(a 0) a multiply(0.01 a))"),
    ],
)
def test_an_expression_binds_as_in_arithmetic(text: str, meaning: str | None) -> None:
    parsed = parse(text)
    if meaning is not None:
        assert shown(parsed) == meaning


def test_and_binds_tighter_than_or() -> None:
    together = parse("where(a < 1 or b < 1 and c < 1, a, 1)")
    assert shown(together) == (
        "where(or(less(a 1) and(less(b 1) less(c 1))) a 1)"
    )  # fmt: skip


def test_what_is_written_twice_is_computed_once() -> None:
    assert len(parse("exp(a*b) + exp(a*b)").nodes) == 5
    assert len(parse("1 + a + 1.0 + a").nodes) == 6, "1 and 1.0 are different constants"


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "()", "a b", "a +", "+a", "* a", "a,b", "(a", "a)", "f(a)", "exp()"),
        *("exp a", "exp", "{a}", "#include a", "max(a)", "max(a, b, c)", "clip(a, b)"),
        *("where(a, b, c)", "a < b", "not a", "a and b"),
        *("a < b < c", "where(a < b, a < c, b)", "a + (b < c)", "-(a < b)", "a == b", "not(a < b)"),
        *("a ** 2", "a // b", "a % b", "a @ b", "a & b", "a | b", "~a", "a ? b : c", "a[0]", "a.b"),
        *("a;b", "a=b", "a:=b", "lambda: a", "'a'", '"a"', "`a`", "$a", "a#b", "a\\b", "a\0b"),
        *("0x10", "1_000", "1j", "1e", "1.5.5", "1e99999", "1e999", "9" * 400, ".5", "a1b2(c)"),
        *("__import__('os')", "a\n;asm('')", "printf(a)", "*/ a /*", "// a", "a /* b */"),
        *("nan(a)", "a\N{FULLWIDTH PLUS SIGN}b", "\u0430b*\u0661", "a\u200b+b", "\ud800"),
        *("_a", "and", "or", "not", "a if b else c", "true and a"),
        "x" * (limits.NAME_CHARACTERS + 1),
        "a" + "+a" * limits.EXPRESSION_CHARACTERS,
        "(" * 40 + "a" + ")" * 40,
        "-" * 40 + "a",
        "not " * 40 + "a < b",
        "abs(" * 40 + "a" + ")" * 40,
    ],
)  # fmt: skip
def test_a_text_outside_the_language_is_refused(text: str) -> None:
    """Code, other languages' operators, comments, and what would cost too much to read."""
    with pytest.raises(ExpressionError):
        parse(text)


def test_each_limit_of_an_expression_holds() -> None:
    deepest = limits.EXPRESSION_DEPTH - 1
    parse("(" * deepest + "a" + ")" * deepest)
    names = [f"v{number}" for number in range(limits.EXPRESSION_NODES)]
    for text, within in (
        ("+".join(names), False),
        ("+".join(names[: limits.EXPRESSION_NODES // 2]), True),
        ("+".join(f"{n}*a" for n in range(limits.EXPRESSION_CONSTANTS + 1)), False),
        ("+".join(f"{n}*a" for n in range(limits.EXPRESSION_CONSTANTS)), True),
        ("+".join(f"erf({name})" for name in names[:65]), False),
        ("+".join(f"erf({name})" for name in names[:60]), True),
    ):
        if within:
            assert parse(text).cost <= limits.EXPRESSION_COST
            continue
        with pytest.raises(ExpressionError):
            parse(text)


def test_a_refusal_names_the_place_and_not_the_text() -> None:
    """Parameters are confidential, and an error's message may end in the operator's log."""
    for text in ("secretive + ", "a + 98765(", "secretive(a)", "a 98765"):
        with pytest.raises(ExpressionError) as refused:
            parse(text)
        assert "place" in str(refused.value)
        assert "secretive" not in str(refused.value)
        assert "98765" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "dtypes", "error"),
    [
        ("a + b", {"a": "float32"}, InputMissingError),
        ("a", {"a": "float32", "b": "float32"}, InputUnusedError),
        ("1", {"a": "float32"}, InputUnusedError),
        ("a + b", {"a": "float32", "b": "float64"}, DtypeMismatchError),
        ("a", {"a": "complex64"}, DtypeMismatchError),
        ("a", {"a": "uint8"}, DtypeMismatchError),
        ("1", {}, DtypeMismatchError),
        ("a / 2", {"a": "int32"}, DtypeMismatchError),
        ("exp(a)", {"a": "int64"}, DtypeMismatchError),
        ("a + 1.0", {"a": "int64"}, ExpressionError),
        ("a + 2147483648", {"a": "int32"}, ExpressionError),
        ("a + 9223372036854775808", {"a": "int64"}, ExpressionError),
        ("a + 1e39", {"a": "float32"}, ExpressionError),
        ("a + 1e39", {"a": "float16"}, ExpressionError),
    ],
)
def test_an_expression_that_does_not_fit_its_inputs_is_refused(
    text: str, dtypes: dict[str, str], error: type[ProgramError]
) -> None:
    with pytest.raises(error):
        parse(text).check(dtypes)


def test_an_expression_that_fits_is_accepted() -> None:
    parse("a + 1e39").check({"a": "float64"})
    parse("a*2147483647 - b").check({"a": "int32", "b": "int32"})
    parse("exp(a)/3").check({"a": "float16"})


def test_the_parameter_is_checked_where_every_parameter_is() -> None:
    assert resolve([EXPRESSION], {"expression": "a+1"}) == {"expression": "a+1"}
    with pytest.raises(ExpressionError):
        resolve([EXPRESSION], {"expression": "a+"})
    with pytest.raises(ParameterTypeError):
        resolve([EXPRESSION], {"expression": 1})


def test_the_longest_expression_travels() -> None:
    longest = "a" + "+a" * (limits.EXPRESSION_CHARACTERS // 2 - 1)
    parameters = {"run": {"expression": longest}}
    assert decode_parameters(encode_parameters(parameters)) == parameters


PIECES = (
    *FUNCTIONS,
    *("a", "b", "1", "2.5", "1e3", "+", "-", "*", "/", "(", ")", ",", "<", ">=", "=="),
    *("and ", "or ", "not ", " ", "'", ";", "\n", "__class__", "//", "/*"),
)
names = st.sampled_from("abc") | st.sampled_from(["1", "0.5", "2e3"])


def grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    two = st.sampled_from("+-*/")
    one = st.sampled_from(["abs", "exp", "floor", "tanh", "sqrt"])
    relation = st.sampled_from(["<", "<=", "==", "!=", ">", ">="])
    return (
        st.builds("({} {} {})".format, inner, two, inner)
        | st.builds("{}({})".format, one, inner)
        | st.builds("where({} {} {}, {}, {})".format, inner, relation, inner, inner, inner)
        | st.builds("-{}".format, inner)
    )


well_formed = st.recursive(names, grown, max_leaves=12)


@settings(max_examples=300)
@given(st.lists(st.sampled_from(PIECES), max_size=20).map("".join) | st.text(max_size=40))
def test_any_text_is_an_expression_or_is_refused(text: str) -> None:
    try:
        parsed = parse(text)
    except ExpressionError:
        return
    for at, node in enumerate(parsed.nodes):
        assert node.operation in OPERATIONS or node.operation in ("input", "constant")
        assert all(operand < at for operand in node.operands)
    read = {operand for node in parsed.nodes for operand in node.operands}
    assert read == set(range(len(parsed.nodes) - 1)), "nothing is computed for nobody"


@settings(max_examples=200)
@given(well_formed)
def test_what_is_in_the_language_reads_as_python_would_read_it(text: str) -> None:
    """Precedence and brackets, judged by a parser that is not ours."""
    names = {node.id for node in ast.walk(ast.parse(text.strip())) if isinstance(node, ast.Name)}
    assert set(parse(text).names) == names - FUNCTIONS
