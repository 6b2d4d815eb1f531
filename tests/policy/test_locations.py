"""Line numbers point at the key, whatever the spelling."""

import tomllib

import pytest

from attestation.policy.locations import Locations

TEXT = '''\
version = 1            # line 1
[a]
b = [
  "x]", # [
  "[tpm]",
]
c = """
fake = 1
[fake]
"""
"quoted key" = 2
d.e.f = 3
[ a . "sub" ]
g = {h = 1, i = [
  2]}
j = 'a [ literal'
k = 1
[[list]]
l = 1
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("version",), 1),
        (("a",), 2),
        (("a", "b"), 3),
        (("a", "c"), 7),
        (("a", "quoted key"), 11),
        (("a", "d", "e", "f"), 12),
        (("a", "d"), 12),
        (("a", "sub"), 13),
        (("a", "sub", "g"), 14),
        (("a", "sub", "g", "h"), 14),
        (("a", "sub", "j"), 16),
        (("a", "sub", "k"), 17),
        (("list", "l"), 19),
        (("a", "fake"), 2),
        (("fake",), 1),
        (("missing", "entirely"), 1),
        ((), 1),
    ],
)
def test_a_key_is_found_on_its_line(path: tuple[str, ...], line: int) -> None:
    tomllib.loads(TEXT)
    assert Locations(TEXT).line(path) == line
