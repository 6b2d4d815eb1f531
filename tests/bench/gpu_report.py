"""The tables of `tests.bench.gpu`: every figure beside its goal, the device named above all."""

from typing import Any

GOALS = {
    "open": "≥ 200 GB/s on an H100 (≥ 0.60 of the derived bound of 334 GB/s)",
    "copy_open": "≥ 0.95",
    "round_trip": "≥ 0.90",
    "beside": "≥ 0.75",
    "small": "≤ 60 µs",
    "residue": "0",
}


def markdown(results: dict[str, Any]) -> str:
    """Return everything that was measured; parts that failed are listed, not left out."""
    about = results["about"]
    lines = [f"Device: **{about['device']}**"]
    if "cuda" in about:
        libraries = ", ".join(f"{k} {v}" for k, v in about["libraries"].items())
        lines.append(f"sm_{about['architecture']}, CUDA {about['cuda']}, {libraries}")
    for part in (_right, _large, _sanitizer, _rates, _bus, _job, _beside, _small, _residue):
        name = part.__name__.removeprefix("_")
        if name in results:
            lines += ["", *part(results[name])]
    if results.get("left_out"):
        lines += ["", f"**No time was left for:** {', '.join(results['left_out'])}."]
    if results["failures"]:
        lines += ["", "**Failed:**", ""]
        lines += [f"- {name}: {why}" for name, why in results["failures"].items()]
    return "\n".join(lines)


def _right(found: dict[str, str]) -> list[str]:
    rows = [f"| {tuning} | {answer} |" for tuning, answer in found.items()]
    return ["| tuning | computes the processor's bytes |", "|---|---|", *rows]


def _large(found: dict[str, Any]) -> list[str]:
    return [
        f"A tensor of {found['bytes']:,} bytes in {found['segments']:,} segments was sealed, "
        "opened, and refused for one bit of the tag in its middle, with nothing of it left."
    ]


def _sanitizer(found: dict[str, str]) -> list[str]:
    return [f"compute-sanitizer: {', '.join(f'{tool} {said}' for tool, said in found.items())}."]


def _job(found: dict[str, Any]) -> list[str]:
    lines = [
        "One job alone, as a worker opens and seals it, µs; part: of the raw copy's rate "
        f"(goals at 64 MiB: open {GOALS['copy_open']}):",
        "",
        "| bytes | copy in | copy, open | part | copy out | seal, copy | part |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        cells = ("in_us", "open_us", "open_part", "out_us", "seal_us", "seal_part")
        lines.append(f"| {row['bytes']:,} | {' | '.join(_spread(row[c]) for c in cells)} |")
    return lines


def _rates(found: dict[str, Any]) -> list[str]:
    lines = [f"Kernels alone, GB/s, median (quartiles). Goal for open: {GOALS['open']}.", ""]
    lines += ["| tuning | bytes | open | verify | seal |", "|---|---|---|---|---|"]
    for row in found["rows"]:
        rates = " | ".join(_spread(row[what]) for what in ("open", "verify", "seal"))
        lines.append(f"| {row['tuning']} | {row['bytes']:,} | {rates} |")
    return [*lines, "", f"Measured further with {found['best']}."]


def _bus(found: dict[str, Any]) -> list[str]:
    rates = found["gb_s"]
    return [
        f"Over the bus in batches of {found['batch']:,} bytes, GB/s of sealed bytes in:",
        "",
        "| | GB/s | part | goal |",
        "|---|---|---|---|",
        f"| copies in alone | {_spread(rates['copy_in'])} | | |",
        f"| copy, open | {_spread(rates['copy_open'])} "
        f"| {_spread(found['copy_open_part'])} | {GOALS['copy_open']} |",
        f"| copies both ways alone | {_spread(rates['duplex'])} | | |",
        f"| copy, open, seal, copy back | {_spread(rates['round_trip'])} "
        f"| {_spread(found['round_trip_part'])} | {GOALS['round_trip']} |",
    ]


def _beside(found: dict[str, float]) -> list[str]:
    return [
        f"Matrix product alone {found['alone_tflops']:.3g} TFLOP/s; beside opening at "
        f"{found['fed']:.3g} GB/s {found['beside_tflops']:.3g}: {found['part']:.2f} of it "
        f"(goal {GOALS['beside']})."
    ]


def _small(found: dict[str, Any]) -> list[str]:
    return [
        f"{found['bytes']:,} bytes under a new key: {_spread(found['launches_us'])} µs with "
        f"launches, {_spread(found['graph_us'])} µs with a graph, of which "
        f"{_spread(found['replay_on_device_us'])} µs on the device (goal {GOALS['small']})."
    ]


def _residue(found: dict[str, int]) -> list[str]:
    words = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in found.items())
    return [f"Left behind (goal {GOALS['residue']}): {words}."]


def _spread(found: dict[str, float]) -> str:
    return f"{found['median']:.3g} ({found['low']:.3g}-{found['high']:.3g})"
