"""All bodies by name: what a fuzzer, a property and an old crash call."""

from tests.fuzz import bodies, parties
from tests.fuzz.bodies import Body

BODIES: dict[str, Body] = {
    name.removeprefix("body_"): body
    for module in (bodies, parties)
    for name, body in sorted(vars(module).items())
    if name.startswith("body_")
}
