"""No key, token or password is in a tracked file, and each pattern would find one."""

import base64
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

PATTERNS: dict[str, re.Pattern[bytes]] = {
    name: re.compile(pattern)
    for name, pattern in {
        "a private key": rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/:,\- ]{40}",
        "a CURVE secret": rb"secret-key\s*=\s*\"[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}\"",
        "an AWS key id": rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
        "a GitHub token": rb"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{60,})",
        "a GitLab token": rb"\bglpat-[A-Za-z0-9_\-]{20,}",
        "a Slack token": rb"\bxox[abprs]-[A-Za-z0-9-]{10,}",
        "a Google key": rb"\bAIza[0-9A-Za-z_\-]{35}",
        "a PyPI token": rb"\bpypi-AgEIcHlwaS5vcmc[A-Za-z0-9_\-]{50,}",
        "a web token": rb"\beyJ[A-Za-z0-9_\-]{15,}\.eyJ[A-Za-z0-9_\-]{15,}\.[A-Za-z0-9_\-]{20,}",
        "a password in a URL": rb"\b[a-z][a-z0-9+.\-]*://[^\s/:@\"'<>{}]+:[^\s/:@\"'<>{}]+@[A-Za-z0-9]",
        "a bearer token": rb"(?i)\bauthorization:\s*(?:bearer|basic)\s+[A-Za-z0-9+/=_\-.]{16,}",
    }.items()
}

BODY = base64.b64encode(bytes(range(48)))
PLANTED: dict[str, bytes] = {
    # Put together here, so that this file holds none of them.
    "a private key": b"-----BEGIN " + b"PRIVATE KEY-----\n" + BODY,
    "a CURVE secret": b"    secret-key" + b' = "' + b"a" * 40 + b'"',
    "an AWS key id": b"AKIA" + b"A1" * 8,
    "a GitHub token": b"ghp" + b"_" + b"a1" * 18,
    "a GitLab token": b"glpat" + b"-" + b"a1" * 10,
    "a Slack token": b"xoxb" + b"-" + b"1" * 12,
    "a Google key": b"AIza" + b"a" * 35,
    "a PyPI token": b"pypi-" + b"AgEIcHlwaS5vcmc" + b"a" * 60,
    "a web token": b".".join([b"eyJ" + b"a" * 20, b"eyJ" + b"b" * 20, b"c" * 30]),
    "a password in a URL": b"https:" + b"//user:" + b"hunter2" + b"@example",
    "a bearer token": b"Authorization:" + b" Bearer " + b"a1" * 10,
}


def tracked(repository: Path) -> Iterator[Path]:
    """Every file that a clone would hold."""
    git = shutil.which("git")
    if git is None or not (repository / ".git").exists():
        pytest.skip("not a git checkout: nobody can say which files are tracked")
    listed = subprocess.run(
        [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=repository,
        check=True,
        capture_output=True,
    )
    for name in listed.stdout.split(b"\0"):
        path = repository / name.decode()
        if name and path.is_file():
            yield path


def findings(data: bytes) -> list[str]:
    return [name for name, pattern in PATTERNS.items() if pattern.search(data)]


def test_no_file_holds_a_secret(repository: Path) -> None:
    count = 0
    for path in tracked(repository):
        count += 1
        assert findings(path.read_bytes()) == [], path.relative_to(repository)
    assert count > 100, "most files were not looked at"


@pytest.mark.parametrize("name", PATTERNS)
def test_a_planted_secret_is_found(name: str) -> None:
    assert name in findings(b"some text\n" + PLANTED[name] + b"\nmore text")


def test_what_only_looks_like_a_secret_is_left_alone() -> None:
    public = b"-----BEGIN " + b"PUBLIC KEY-----\n" + BODY
    template = b'PKCS8 = "-----BEGIN ' + b'PRIVATE KEY-----\\n{}\\n"'
    url = b"https://user@example.org/path tcp://127.0.0.1:5555"
    assert findings(public + template + url) == []


def test_no_key_file_is_tracked(repository: Path) -> None:
    """A key in a format that no pattern knows still has its name."""
    suffixes = {".key", ".curve", ".pfx", ".p12", ".jks", ".keystore", ".env", ".kdbx"}
    names = {"id_rsa", "id_ed25519", ".netrc", ".pypirc", ".npmrc", ".htpasswd", ".git-credentials"}
    for path in tracked(repository):
        assert path.suffix not in suffixes, path
        assert path.name not in names, path
