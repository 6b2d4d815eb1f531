"""Check every model and write down what was said: `python -m tests.models.write_results`.

Takes five minutes of one core, ProVerif and Java. What it writes is docs/models/results.md.
"""

import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.models.proverif import FALSE, verdicts, version
from tests.models.test_tla import BROKEN_WITHOUT
from tests.models.tlc import MODELS, tlc
from tests.models.variants import CHANNEL, REMOVALS, THEFTS, queries, without

PAGE: Final = MODELS / "results.md"
CHECKED: Final = ("channel.pv", "Jobs.tla", "Jobs.cfg", "Replay.tla", "Replay.cfg")

_STATES: Final = re.compile(r"\d+ states generated, ")
_REMARK: Final = re.compile(r"\(\*(?![+?-]).*?\*\)|\\\*.*?$|\s+", re.DOTALL | re.MULTILINE)


def digest(name: str) -> str:
    """Return a digest of what a model says, whatever its comments and its spaces are."""
    return hashlib.sha256(meaning((MODELS / name).read_text()).encode()).hexdigest()


def meaning(text: str) -> str:
    """Return a model's text without its comments and spaces."""
    return _REMARK.sub("", text)


def main() -> None:
    """Run everything and write the page."""
    with tempfile.TemporaryDirectory() as folder:
        parts = ["\n".join(part) for part in (_head(), _channel(Path(folder)), _tla(Path(folder)))]
    PAGE.write_text("\n\n".join(parts) + "\n")


def _head() -> Iterator[str]:
    yield "# What the checkers said"
    yield ""
    yield "Written by `python -m tests.models.write_results`; do not edit. A test sees that the"
    yield "models are still the ones that were checked, comments aside:"
    yield ""
    yield "| model | digest |"
    yield "|---|---|"
    for name in CHECKED:
        yield f"| [{name}]({name}) | `{digest(name)}` |"


def _channel(folder: Path) -> Iterator[str]:
    source = CHANNEL.read_text()
    names = queries(source)
    properties = [name for name in names if not name.startswith("Some")]
    reachable = [name for name in names if name.startswith("Some")]
    yield f"## channel.pv: {version()}"
    yield ""
    yield "`false` means that ProVerif gives an attack. Seconds are of one core, for"
    yield "all queries of a run together, on a machine that others used as well."
    yield ""
    yield "| without | query | verdict | CPU seconds |"
    yield "|---|---|---|---|"
    yield from _asked("(all defences in place)", source, properties, folder)
    yield from _asked("reachable", without(source, "reachable"), reachable, folder)
    for gone, query in _runs():
        yield from _asked(" + ".join(gone), without(source, *gone), [query], folder)
    for theft in THEFTS:
        asked = [name for name in names if name in theft.breaks + theft.keeps]
        yield from _asked(theft.name, without(source, *theft.stolen), asked, folder)


def _runs() -> list[tuple[tuple[str, ...], str]]:
    """Every removal, and after it those of its parts that are not enough for the attack."""
    runs: list[tuple[tuple[str, ...], str]] = []
    for removal in REMOVALS:
        runs.append((removal.defences, removal.query))
        if len(removal.defences) > 1:
            for kept in removal.defences:
                gone = tuple(name for name in removal.defences if name != kept)
                runs.append((gone, removal.query))
    return list(dict.fromkeys(runs))


def _asked(title: str, model: str, names: Sequence[str], folder: Path) -> Iterator[str]:
    before = os.times().children_user
    said = verdicts(model, *names, folder=folder)
    seconds = f"{os.times().children_user - before:.0f}"
    sys.stderr.write(f"{title}: {said} in {seconds} s\n")
    for name, verdict in said.items():
        shown = f"**{verdict}**" if verdict == FALSE else verdict
        yield f"| {title} | {name} | {shown} | {seconds} |"
        title = seconds = ""


def _tla(folder: Path) -> Iterator[str]:
    for module in ("Jobs", "Replay"):
        config = (MODELS / f"{module}.cfg").read_text()
        output = tlc(module, config, folder)
        yield f"## {module}.tla: TLC {_line(output, 'TLC2 Version')[13:]}"
        yield ""
        yield "```"
        yield _line(output, "Model checking completed")
        yield next(line for line in output.splitlines() if _STATES.match(line))
        yield _line(output, "The depth")
        yield _line(output, "Finished in")
        yield "```"
        yield ""
        yield "| without | TLC |"
        yield "|---|---|"
        for name, defence in sorted(BROKEN_WITHOUT):
            if name == module:
                switched = config.replace(f"{defence} = TRUE", f"{defence} = FALSE")
                yield f"| {defence} | {_line(tlc(module, switched, folder), 'Error:')[7:]} |"
        yield ""


def _line(output: str, start: str) -> str:
    return next((line for line in output.splitlines() if line.startswith(start)), "(not said)")


if __name__ == "__main__":
    main()
