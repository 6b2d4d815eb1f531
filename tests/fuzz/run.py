"""Search for inputs that break a body, guided by which branches they reach (atheris, libFuzzer).

    python -m tests.fuzz.run --minutes 10              every body for its share of ten minutes
    python -m tests.fuzz.run --minutes 10 --body cbor  one of them

One process per body, because libFuzzer owns the process it runs in; when the share of a body would
be shorter than the start of a process, all of them share one, and the first byte of an input says
whose it is. What is found goes to fuzz-output/: `corpus/BODY` is where the next run goes on,
`crashes/BODY` holds one input per place that broke, with its traceback, for test_regressions.py.
A search that finds something goes on, and fails at its end.
"""

import argparse
import hashlib
import importlib
import importlib.util
import logging
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final

OUTPUT: Final = Path("fuzz-output")
EVERY: Final = "every"
INSTRUMENTED: Final = ("attestation", "coordinator", "enclave_worker")

START_SECONDS: Final = 5
"""What a process spends on instrumenting and on its honest parties before its first input."""

SHORTEST_SECONDS: Final = 20
"""A body's share below which all bodies share a process."""

MAX_INPUT: Final = 8192
"""Bytes of one input: our structures are small, and the limits have tests of their own."""

INPUT_SECONDS: Final = 20
MEMORY_MIB: Final = 2048


def main(arguments: list[str] | None = None) -> int:
    """Run the search; return 1 when something was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0, help="for all bodies together")
    parser.add_argument("--body", help="only this one")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="corpora and crashes")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if importlib.util.find_spec("atheris") is None:
        sys.stdout.write("fuzz: atheris is not installed (it has wheels for CPython on Linux)\n")
        return 0
    seconds = 60 * options.minutes
    if options.child:
        _child(options.child, seconds, options.output)
        return 0  # only when libFuzzer returned, which it does not
    from tests.fuzz.registry import BODIES  # noqa: PLC0415 - the child instruments it first

    names = sorted(BODIES)
    if options.body is not None:
        if options.body not in BODIES:
            parser.error(f"no such body; there are {', '.join(names)}")
        names = [options.body]
    share = seconds / len(names)
    if share < SHORTEST_SECONDS and len(names) > 1:
        names, share = [EVERY], seconds
    before = _crashes(options.output)
    ended = [_search(name, share, options.output) for name in names]
    found = sorted(_crashes(options.output) - before)
    for path in found:
        sys.stdout.write(f"\nfuzz: found {path}\n{path.with_suffix('.txt').read_text()}")
    return int(bool(found) or not all(ended))


def _crashes(output: Path) -> set[Path]:
    return {path for path in output.glob("crashes/*/*") if not path.suffix}


def _search(name: str, seconds: float, output: Path) -> bool:
    """Search in a process of its own; return whether it ended well."""
    command = [
        sys.executable,
        "-m",
        "tests.fuzz.run",
        f"--child={name}",
        f"--minutes={seconds / 60}",
        f"--output={output}",
    ]
    done = subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # libFuzzer ends by itself; this is for an input that hangs where its alarm does not reach.
        timeout=seconds + START_SECONDS * 12,
    )
    lines = done.stdout.splitlines()
    runs = next((line for line in reversed(lines) if line.startswith("Done ")), "stopped")
    sys.stdout.write(f"fuzz: {name}: {runs}\n")
    sys.stdout.flush()
    if done.returncode:
        sys.stdout.write("\n".join(lines[-60:]) + "\n")
    return done.returncode == 0


def _child(name: str, seconds: float, output: Path) -> None:
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        registry = importlib.import_module("tests.fuzz.registry")
        corpus = importlib.import_module("tests.fuzz.corpus")
    logging.disable(logging.CRITICAL)  # every refusal is a line; a search makes millions
    names = sorted(registry.BODIES) if name == EVERY else [name]
    folder = output / "corpus" / name
    folder.mkdir(parents=True, exist_ok=True)
    for index, each in enumerate(names):
        for seed in corpus.seeds(each):
            data = bytes([index]) + seed if name == EVERY else seed
            (folder / f"seed-{hashlib.sha256(data).hexdigest()[:16]}").write_bytes(data)

    def one_input(data: bytes) -> None:
        each, rest = name, data
        if name == EVERY:
            each, rest = names[data[0] % len(names) if data else 0], data[1:]
        _checked(registry.BODIES[each], each, rest, output)

    limits = [
        f"-max_total_time={max(1, round(seconds - START_SECONDS))}",
        f"-max_len={MAX_INPUT}",
        f"-timeout={INPUT_SECONDS}",
        f"-rss_limit_mb={MEMORY_MIB}",
        f"-artifact_prefix={output / 'crashes'}/{name}-",
        "-print_final_stats=0",
    ]
    (output / "crashes").mkdir(parents=True, exist_ok=True)
    atheris.Setup([sys.argv[0], *limits, str(folder)], one_input)
    atheris.Fuzz()


def _checked(body: Callable[[bytes], None], name: str, data: bytes, output: Path) -> None:
    """Run `body`; keep the shortest input for each place it breaks at, and go on searching."""
    try:
        body(data)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what we look for
        frames = traceback.extract_tb(error.__traceback__)
        where = "".join(f"{frame.filename}:{frame.lineno}" for frame in frames[-3:])
        path = output / "crashes" / name / hashlib.sha256(where.encode()).hexdigest()[:16]
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.stat().st_size > len(data):
            path.write_bytes(data)
            path.with_suffix(".txt").write_text(f"{data!r}\n\n{traceback.format_exc()}")


if __name__ == "__main__":
    sys.exit(main())
