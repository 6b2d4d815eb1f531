"""A verdict as one HTML page: to be read, printed, filed and sent, by people without this program.

The page is whole in itself: no script, no image, no font and no address that a browser would fetch,
and a content security policy that forbids all of them. Whatever came with the Evidence is text in
it and nothing else, escaped at the one place where text enters (`_text`). Colour repeats what a
word says, so that a black and white print and a screen reader lose nothing.
"""

import html
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from attestation.appraisal.explanation import QUESTIONS, about, advice, answer, verdict
from attestation.appraisal.result import AttestationResult, Check

_STYLE: Final = """\
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; border-left: .5rem solid; padding-left: .75rem; }
h2 { font-size: 1.2rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; }
caption { text-align: left; padding-bottom: .5rem; }
th, td { border-bottom: 1px solid #888; padding: .4rem .6rem; text-align: left;
  vertical-align: top; overflow-wrap: anywhere; }
thead th { border-bottom-width: 2px; }
.tier { font-weight: bold; white-space: nowrap; }
.affirming { color: #14602b; } .warning { color: #7a4b00; }
.unverifiable { color: #4d4d4d; } .contraindicated { color: #9c1212; }
.insecure { border: .25rem solid #9c1212; padding: 1rem; font-weight: bold; }
@media (prefers-color-scheme: dark) {
  .affirming { color: #7ed99a; } .warning { color: #f0c067; }
  .unverifiable { color: #c2c2c2; } .contraindicated { color: #ff9d9d; } }
@media print { body { margin: 0; max-width: none; font-size: 10pt; }
  tr { break-inside: avoid; } thead { display: table-header-group; } }
"""

_HEAD: Final = f"""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>Attestation result</title>
<style>
{_STYLE}</style>
</head>
<body>
<main>
"""

_TAIL: Final = """\
</main>
<footer>
<p>This page is a copy of a verdict and proves nothing by itself. To repeat the verdict, judge the
same evidence, policy and collateral as of the same time with <code>enclave verify</code>.</p>
</footer>
</body>
</html>
"""

_INSECURE: Final = (
    '<p class="insecure">INSECURE: this evidence proves nothing about the machine. '
    "For development only.</p>\n"
)


def page(result: AttestationResult, *, notes: Sequence[str] = ()) -> str:
    """Return the page; `notes` are said below the verdict, such as who dated the collateral."""
    return "".join(_parts(result, notes))


def _parts(result: AttestationResult, notes: Sequence[str]) -> Iterator[str]:
    yield _HEAD
    yield f'<h1 class="{result.tier.value}">{_text(verdict(result))}</h1>\n'
    if result.insecure:
        yield _INSECURE
    yield f"<p>Tier: {_tier(result.tier.value)}</p>\n"
    yield _definitions(
        (f"{question.value}: {words}", answer(result, question))
        for question, words in QUESTIONS.items()
    )
    yield from (f"<p>{_text(note)}</p>\n" for note in notes)
    yield "<h2>What this verdict belongs to</h2>\n"
    yield _definitions(about(result))
    if result.claims:
        yield "<h2>What the evidence says of its machine</h2>\n"
        yield _definitions(result.claims.items())
    yield "<h2>Every step</h2>\n"
    yield _steps(result.checks)
    yield _TAIL


def _definitions(pairs: Iterable[tuple[str, str]]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{_text(name)}</th><td>{_text(value)}</td></tr>\n'
        for name, value in pairs
    )
    return f"<table><tbody>\n{rows}</tbody></table>\n"


def _steps(checks: Iterable[Check]) -> str:
    columns = ("step", "name", "question", "tier", "code", "finding, and what to do")
    heads = "".join(f'<th scope="col">{column}</th>' for column in columns)
    rows = "".join(_step(check) for check in checks)
    return (
        "<table>\n<caption>In the order in which they were run, numbered as in the documentation"
        f"</caption>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n"
    )


def _step(check: Check) -> str:
    advised = advice(check)
    todo = f"<p>{_text(advised)}</p>" if advised else ""
    return (
        f'<tr><td>{check.number}</td><th scope="row">{_text(check.name)}</th>'
        f"<td>{check.question.value}</td><td>{_tier(check.tier.value)}</td>"
        f"<td><code>{_text(check.code)}</code></td><td>{_text(check.detail)}{todo}</td></tr>\n"
    )


def _tier(tier: str) -> str:
    return f'<span class="tier {tier}">{tier}</span>'


def _text(value: str) -> str:
    """Return `value` as text of an element: the only way in for what strangers wrote.

    Characters that do not print are replaced: controls, lone surrogates that UTF-8 does not have,
    and those that reverse the direction of the rest of a line.
    """
    plain = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in value)
    return html.escape(plain)
