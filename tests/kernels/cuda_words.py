"""A grammar of what may stand in the CUDA C of an expression, written apart from what makes it."""

import re
from typing import Final

VALUE: Final = r"[vxk]\d+"
KIND: Final = r"(?:float|double|int|long long|bool|unsigned int|unsigned long long)"
LINE: Final = re.compile(r"const (?:float|double|int|long long|bool) v(\d+) = (.*);")
LAST: Final = re.compile(r"y = v(\d+);")
WORDS: Final = re.compile(
    rf"\s*(?:{VALUE}\b|static_cast<{KIND}>"
    r"|(?:fabs|floor|ceil|sqrt|exp|expm1|log|log1p|sin|cos|tanh|erf)f?\b(?=\()"
    r"|&&|\|\||==|!=|<=|>=|/(?![/*])|[-+*<>!?:()]|0\b)"
)
INPUTS: Final = re.compile(r"(?:float16|float32|float64|int32|int64) [xk]\d+")


def check(inputs: str, output: str, code: str) -> None:
    """Every word is one of these, and a value is read only after it was made."""
    declared = inputs.split(", ")
    assert all(INPUTS.fullmatch(each) for each in declared)
    assert re.fullmatch(r"(?:float16|float32|float64|int32|int64) y", output)
    given = {each.split()[1] for each in declared}
    *lines, last = code.split("\n")
    for at, line in enumerate(lines):
        match = LINE.fullmatch(line)
        assert match, line
        assert int(match[1]) == at
        body, place = match[2], 0
        while place < len(body):
            word = WORDS.match(body, place)
            assert word, body
            place = word.end()
        known = given | {f"v{earlier}" for earlier in range(at)}
        assert set(re.findall(rf"\b{VALUE}\b", body)) <= known
    ended = LAST.fullmatch(last)
    assert ended
    assert int(ended[1]) == len(lines) - 1
