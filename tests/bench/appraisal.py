"""How long appraising takes, per kind of Evidence: `python -m tests.bench.appraisal [--json]`.

Cold is the first Evidence of a machine: every signature of its chains and collateral is checked.
Warm is each later one, with the chains remembered. Real Evidence out of the shared vectors, each
piece with its files read anew; `dcap-qvl`, where it is installed, on the same quotes in turns; and
an SEV-SNP machine with a GPU and its two manifests, simulated, because no vector holds both.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from attestation.appraisal.verifier import appraise
from attestation.endorsements.collateral import Collateral, CollateralKind
from attestation.evidence.binding import NonceTree, gpu_nonce, report_data
from attestation.evidence.bundle import EvidenceBundle
from tests.simulators.amd import SimulatedChip, snp_policy, trusting, whole_policy
from tests.simulators.evidence import NOW, draw_keyset
from tests.simulators.nvidia import GPU_POLICY, SimulatedNvidia
from tests.simulators.nvidia import evidence as gpu_evidence
from tests.vectors.run import judges

VECTORS: Final = Path(__file__).resolve().parents[3] / "shared" / "vectors"
ROUNDS: Final = 30

_SHIPPED: Final = frozenset({"shipped", "pinned"})
"""Parsed once in a process, whatever is appraised."""

Action = Callable[[], object]


def measure(rounds: int = ROUNDS) -> dict[str, dict[str, float]]:
    """Return microseconds, medians: name of the Evidence to `cold`, `warm` and `dcap-qvl`."""
    found = {name: _times(actions, rounds) for name, actions in _vectors()}
    with ExitStack() as stack:
        found["composite sev-snp + GPU, two RIMs"] = _times(_composite(stack), rounds)
    return found


def _vectors() -> Iterator[tuple[str, dict[str, Action]]]:
    """Yield the first good piece of every kind."""
    index = VECTORS / "index.shared.json"
    if not index.exists():
        sys.stderr.write("no shared vectors beside this checkout: only what is simulated\n")
        return
    seen: set[str] = set()
    for entry in json.loads(index.read_text())["entries"]:
        check = entry["checks"][0]
        if entry["kind"] in seen or check["expected"] != _good(check["expected"]):
            continue
        seen.add(entry["kind"])
        yield f"{entry['kind']} ({entry['name']})", _actions(entry, check)


def _good(expected: Mapping[str, Any]) -> Mapping[str, Any]:
    wanted = {"verdict": "authentic"} | ({"appraisal": "pass"} if "appraisal" in expected else {})
    return {**expected, **wanted}


def _actions(entry: Mapping[str, Any], check: Mapping[str, Any]) -> dict[str, Action]:
    judge = judges()[entry["kind"]]
    actions: dict[str, Action] = {"ours": lambda: judge(entry, check, VECTORS)}
    files = {**entry["files"], **check.get("inputs", {})}
    if entry["kind"] in ("tdx", "sgx") and "collateral" in files:
        actions |= _dcap_qvl(files, check)
    return actions


def _dcap_qvl(files: Mapping[str, str], check: Mapping[str, Any]) -> dict[str, Action]:
    try:
        import dcap_qvl  # noqa: PLC0415 - a peer, not a dependency
    except ImportError:
        sys.stderr.write("dcap-qvl is not installed: no comparison for Intel quotes\n")
        return {}
    seconds = int(datetime.fromisoformat(check["verify_at"]).timestamp())

    def verify() -> object:
        quote = (VECTORS / files["quote"]).read_bytes()
        given = dcap_qvl.QuoteCollateralV3.from_json((VECTORS / files["collateral"]).read_text())
        return dcap_qvl.verify(quote, given, seconds)

    return {"dcap-qvl": verify}


def _composite(stack: ExitStack) -> dict[str, Action]:
    chip, vendor = SimulatedChip(version=5), SimulatedNvidia()
    stack.enter_context(trusting(chip.vendor))
    vendor.trust(stack.enter_context(pytest.MonkeyPatch.context()))
    device = vendor.device()
    keyset, nonce = draw_keyset(), bytes(32)
    tree = NonceTree.over([nonce])
    gpus = gpu_evidence([device], gpu_nonce(keyset.keyset_id(), tree.root)).to_bytes()
    bundle = EvidenceBundle(
        kind="sev-snp",
        keyset=keyset.to_bytes(),
        nonce_root=tree.root,
        gpu_evidence=gpus,
        body=chip.evidence(report_data(keyset.keyset_id(), tree.root, gpus)).to_bytes(),
    )
    policy = attrs.evolve(whole_policy(snp_policy()), gpu=GPU_POLICY)
    collateral = Collateral.from_items(
        [
            (CollateralKind.AMD_CRL, chip.vendor.crl()),
            (CollateralKind.NVIDIA_RIM, vendor.driver_rim(device)),
            (CollateralKind.NVIDIA_RIM, vendor.firmware_rim(device)),
        ]
    )

    def judge() -> object:
        return appraise(
            bundle,
            policy=policy,
            nonce=nonce,
            path=tree.proofs[0],
            now=NOW,
            collateral=collateral,
        ).require_accepted()

    return {"ours": judge}


def _times(actions: Mapping[str, Action], rounds: int) -> dict[str, float]:
    """Time all `actions` in turns, so that a slow moment of the machine is slow for each."""
    taken: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, action in actions.items():
            if name == "ours":
                forget()
                taken.setdefault("cold", []).append(_timed(action))
            taken.setdefault("warm" if name == "ours" else name, []).append(_timed(action))
    return {name: statistics.median(values) * 1e6 for name, values in taken.items()}


def forget() -> None:
    """Empty every cache of endorsements and appraisal but those of what is shipped."""
    for name, module in list(sys.modules.items()):
        if name.startswith(("attestation.endorsements.", "attestation.appraisal.")):
            for member, value in list(vars(module).items()):
                if hasattr(value, "cache_clear") and member not in _SHIPPED:
                    value.cache_clear()


def _timed(action: Action) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def table(found: Mapping[str, Mapping[str, float]]) -> str:
    """Return the Markdown table."""
    lines = ["| Evidence | cold, µs | warm, µs | dcap-qvl, µs |", "|---|---|---|---|"]
    for name, times in found.items():
        cells = (f"{times[key]:,.0f}" if key in times else "" for key in _COLUMNS)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


_COLUMNS: Final = ("cold", "warm", "dcap-qvl")


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    arguments = parser.parse_args()
    found = measure()
    sys.stdout.write((json.dumps(found) if arguments.json else table(found)) + "\n")


if __name__ == "__main__":
    main()
