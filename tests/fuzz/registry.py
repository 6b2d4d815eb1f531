"""All bodies by name: what a fuzzer, a property and an old crash call."""

from tests.fuzz import (
    bodies,
    catalogue,
    hosts,
    intel,
    nvidia,
    parties,
    platforms,
    sev_snp,
    verdicts,
)
from tests.fuzz.bodies import Body

BODIES: dict[str, Body] = {
    name.removeprefix("body_"): body
    for module in (bodies, catalogue, hosts, intel, nvidia, parties, platforms, sev_snp, verdicts)
    for name, body in sorted(vars(module).items())
    if name.startswith("body_")
}
