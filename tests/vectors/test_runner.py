"""The runner of vectors: it agrees for the right reason, and passes over nothing."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from attestation.appraisal.result import NOT_REACHED, OK, Check, Question, Tier
from attestation.errors import DecodeError, MissingError, VerificationError
from tests.vectors import run
from tests.vectors.verdict import Got, Judged, agrees, conclude

AUTHENTIC, ACCEPTABLE = Question.AUTHENTIC, Question.ACCEPTABLE


def check(question: Question, tier: Tier, code: str) -> Check:
    return Check(number=1, name="a step", question=question, tier=tier, code=code, detail="why")


GENUINE = check(AUTHENTIC, Tier.AFFIRMING, OK)
WANTED = check(ACCEPTABLE, Tier.AFFIRMING, OK)
FORGED = check(AUTHENTIC, Tier.CONTRAINDICATED, "forged")
UNKNOWN = check(AUTHENTIC, Tier.UNVERIFIABLE, "root-missing")
UNREACHED = check(AUTHENTIC, Tier.UNVERIFIABLE, NOT_REACHED)
DEBUG = check(ACCEPTABLE, Tier.CONTRAINDICATED, "debug")


def got(verdict: str, appraisal: str | None = None, *reasons: str) -> Got:
    return Got(verdict=verdict, appraisal=appraisal, reasons=reasons)


@pytest.mark.parametrize(
    ("checks", "expected"),
    [
        ([GENUINE, WANTED], got("authentic", "pass")),
        ([GENUINE, DEBUG], got("authentic", "fail", "debug-on")),
        ([GENUINE], got("authentic")),
        ([GENUINE, FORGED, DEBUG, UNKNOWN], got("reject", None, "forged")),
        ([UNKNOWN, FORGED, UNREACHED], got("reject", None, "forged")),
        ([GENUINE, UNKNOWN, UNREACHED, DEBUG], got("unverifiable", None, "root_missing")),
        ([GENUINE, UNREACHED], got("unverifiable")),
        ([WANTED], got("unverifiable")),
        ([], got("unverifiable")),
    ],
)
def test_the_verdict_is_that_of_the_checks(checks: list[Check], expected: Got) -> None:
    assert conclude(checks, {"debug": "debug-on"}) == expected


def test_a_word_may_depend_on_the_whole_check() -> None:
    assert conclude([GENUINE, DEBUG], lambda one: f"{one.code}:{one.detail}").reasons == (
        "debug:why",
    )


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ({"verdict": "authentic"}, got("reject")),
        ({"verdict": "reject"}, got("unverifiable")),
        ({"verdict": "authentic", "appraisal": "pass"}, got("authentic", "fail")),
        ({"verdict": "authentic", "appraisal": "pass"}, got("authentic")),
        ({"verdict": "reject", "reasons": ["nonce"]}, got("reject", None, "signature")),
        ({"verdict": "reject", "reasons": ["nonce"]}, got("reject")),
        ({}, got("authentic", "pass")),
    ],
)
def test_another_verdict_or_the_right_one_for_another_reason_disagrees(
    expected: Mapping[str, Any], found: Got
) -> None:
    assert not agrees(expected, found)


def test_one_common_reason_is_enough() -> None:
    expected = {"verdict": "reject", "reasons": ["nonce", "signature"]}
    assert agrees(expected, got("reject", None, "chain", "signature"))
    assert agrees({"verdict": "authentic"}, got("authentic", "fail", "debug"))


# -- a whole index --


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kinds whose judges say what their name says."""
    errors = {
        "malformed": DecodeError("no"),
        "refused": VerificationError("no"),
        "missing": MissingError("no"),
        "crash": KeyError("a defect of ours"),
    }

    def judge(entry: Mapping[str, Any], _: Mapping[str, Any], __: Path) -> Judged:
        if entry["kind"] in errors:
            raise errors[entry["kind"]]
        return (GENUINE, WANTED), {}

    monkeypatch.setattr(run, "judges", lambda: dict.fromkeys([*errors, "good"], judge))


def index(folder: Path, kinds: list[str], verdict: str) -> Path:
    checks = [{"id": "primary", "expected": {"verdict": verdict}}]
    entries = [{"kind": kind, "name": f"a {kind}", "checks": checks} for kind in kinds]
    path = folder / "index.json"
    path.write_text(json.dumps({"entries": entries}))
    return path


@pytest.mark.usefixtures("judged")
@pytest.mark.parametrize(
    ("kind", "verdict", "reason"),
    [
        ("malformed", "reject", "malformed"),
        ("refused", "reject", "verification_failed"),
        ("missing", "unverifiable", "missing"),
    ],
)
def test_what_a_judge_refuses_outright_is_not_authentic(
    kind: str, verdict: str, reason: str, tmp_path: Path
) -> None:
    [line] = run.results(index(tmp_path, [kind], verdict))
    assert line["got"] == {"verdict": verdict, "reasons": [reason]}
    assert line["agree"] is True


@pytest.mark.usefixtures("judged")
@pytest.mark.parametrize("kind", ["crash", "a kind that nobody judges"])
@pytest.mark.parametrize("verdict", ["authentic", "reject", "unverifiable"])
def test_what_nobody_judged_fails_whatever_was_expected(
    kind: str, verdict: str, tmp_path: Path
) -> None:
    [line] = run.results(index(tmp_path, [kind], verdict))
    assert line["agree"] is False


@pytest.mark.usefixtures("judged")
def test_an_entry_without_checks_fails(tmp_path: Path) -> None:
    path = tmp_path / "index.json"
    path.write_text(json.dumps({"entries": [{"kind": "good", "name": "asks nothing"}]}))
    [line] = run.results(path)
    assert line["agree"] is False


@pytest.mark.usefixtures("judged")
def test_one_failed_check_is_exit_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main([str(index(tmp_path, ["good", "crash"], "authentic"))]) == 1
    first, _, last = capsys.readouterr().out.splitlines()
    assert json.loads(first) == {
        "kind": "good",
        "name": "a good",
        "check": "primary",
        "expected": {"verdict": "authentic"},
        "got": {"verdict": "authentic", "appraisal": "pass", "reasons": []},
        "agree": True,
    }
    assert last == "1 passed, 1 failed"


@pytest.mark.usefixtures("judged")
def test_all_agreed_is_exit_status_0_and_nothing_looked_at_is_not(tmp_path: Path) -> None:
    assert run.main([str(index(tmp_path, ["good"], "authentic"))]) == 0
    assert run.main([str(index(tmp_path, [], "authentic"))]) == 1
    assert run.main([]) == 2


SHAPES: list[Any] = [
    None,
    7,
    "text",
    [],
    {},
    {"entries": None},
    {"entries": {}},
    {"entries": [None, 7, "text", []]},
    {"entries": [{"checks": [None, 7, []]}]},
    {"entries": [{"kind": ["unhashable"], "checks": [{"expected": None}]}]},
    *(
        {"entries": [{"kind": kind, "checks": [check]}]}
        for kind in ("sev-snp", "tdx", "sgx", "nvidia-gpu", "nvidia-rim", "nvidia-eat", "tpm")
        for check in ({}, {"id": 7, "verify_at": 7, "inputs": 7, "expected": {"nonce": 7}})
    ),
]


@pytest.mark.parametrize("shape", SHAPES, ids=[json.dumps(shape)[:70] for shape in SHAPES])
def test_an_index_of_another_shape_fails_and_breaks_nothing(
    shape: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "index.json"
    path.write_text(json.dumps(shape))
    assert run.main([str(path)]) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    assert not any(json.loads(line)["agree"] for line in lines)
    assert last == f"0 passed, {len(lines)} failed"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", None], ids=str)
def test_an_index_that_cannot_be_read_fails(
    content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "index.json"
    if content is not None:
        path.write_bytes(content)
    assert run.main([str(path)]) == 1
    assert capsys.readouterr().out == "0 passed, 0 failed\n"


ROLES = {
    "sev-snp": ["report", "vcek", "chain", "crl", "cert_table"],
    "tdx": ["quote", "collateral", "ccel", "pck_chain"],
    "sgx": ["quote", "collateral", "pck_chain"],
    "nvidia-gpu": ["report", "cert_chain", "rim:driver", "ocsp:gpu"],
    "nvidia-nvswitch": ["evidence"],
    "nvidia-rim": ["rim"],
    "nvidia-eat": ["eat", "jwks"],
    "aws-nitro": ["document"],
    "tpm": ["attest", "signature", "ak_public", "pcrs", "eventlog", "ak_cert"],
    "azure-snp-vtpm": ["hcl_report", "attest", "signature_raw", "pcrs", "vcek"],
    "azure-tdx-vtpm": ["runtime_claims", "attest", "signature", "pcrs", "td_quote"],
}


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"{}", b"[[]]", b"null", b"\xff" * 1300, b"00" * 9]
)
@pytest.mark.parametrize("kind", ROLES)
def test_whatever_the_files_hold_is_judged_and_not_authentic(
    kind: str, content: bytes, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(content)
    for length in range(len(ROLES[kind]) + 1):
        files = dict.fromkeys(ROLES[kind][:length], "file")
        entry = {"kind": kind, "name": "nothing", "files": files}
        line = run.result(entry, {"id": "primary"}, tmp_path)
        assert line["got"]["verdict"] in ("reject", "unverifiable")
        assert not line["got"]["reasons"][0].startswith("not-judged"), line


def test_a_file_that_is_not_there_was_not_judged(tmp_path: Path) -> None:
    entry = {"kind": "aws-nitro", "name": "lost", "files": {"document": "nowhere"}}
    check = {"id": "primary", "expected": {"verdict": "unverifiable"}}
    assert run.result(entry, check, tmp_path)["agree"] is False


def test_a_panic_in_a_library_is_a_finding_like_a_crash(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Those of Rust are no `Exception`: one of them must not end the run."""

    class PanicError(BaseException):
        pass

    def judge(*_: Any) -> Judged:
        raise PanicError

    monkeypatch.setattr(run, "judges", lambda: {"good": judge})
    [line] = run.results(index(tmp_path, ["good"], "reject"))
    assert line["agree"] is False


def test_it_runs_as_a_module(tmp_path: Path, repository: Path) -> None:
    command = [sys.executable, "-m", "tests.vectors.run", str(index(tmp_path, ["none"], "reject"))]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "0 passed, 1 failed"


def test_no_two_modules_judge_the_same_kind() -> None:
    claimed = [kind for module in _modules() for kind in module.KINDS]
    assert len(claimed) == len(set(claimed))


def _modules() -> Iterator[Any]:
    for name in run.MODULES:
        yield pytest.importorskip(f"tests.vectors.{name}", reason="this module is not there")
