"""What a person is told of a verdict, on a terminal and on a page."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from attestation.appraisal.explanation import ADVICE, about, answer, explain
from attestation.appraisal.page import page
from attestation.appraisal.result import NOT_REACHED, AttestationResult, Question, Tier
from attestation.endorsements.collateral import Collateral, CollateralKind
from tests.simulators.verdicts import check, result

REFUSED = result(
    check("chain", number=1),
    check("signature", number=2, tier=Tier.CONTRAINDICATED, code="signature-invalid", detail="no"),
    check(
        "measurement",
        number=3,
        question=Question.ACCEPTABLE,
        tier=Tier.UNVERIFIABLE,
        code=NOT_REACHED,
        detail="an earlier step makes it meaningless",
    ),
)


class Structure(HTMLParser):
    """The elements of a page, without what is written in them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, object]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.tags.append((tag, "end"))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_comment(self, data: str) -> None:
        self.tags.append(("comment", data))

    def handle_decl(self, decl: str) -> None:
        self.tags.append(("declaration", decl))

    def handle_pi(self, data: str) -> None:
        self.tags.append(("instruction", data))

    def unknown_decl(self, data: str) -> None:
        self.tags.append(("unknown", data))


def filled(text: str) -> AttestationResult:
    """A verdict with `text` in every place where a stranger's words can come to stand."""
    return result(
        check(text, code=text, detail=text),
        check(text, number=2, tier=Tier.CONTRAINDICATED, code=text, detail=text),
        kind=text,
        claims={text: text},
    )


# -- the page --


EVIL = st.one_of(
    st.text(max_size=60),
    st.text(alphabet="<>&\"'/=!-?[]; \n\x00\u202e\ud800abcdefscript", max_size=60),
    st.sampled_from(
        [
            "<script>alert(1)</script>",
            '"><img src=x onerror=alert(1)>',
            "</td></tr></table></style><h1>accepted",
            "<!-- ",
            "--><b>",
            "]]>",
            "&#60;script&#62;",
            "</title><base href=//evil.example>",
            "'onmouseover='x",
            "<?php ?>",
            "\u202egnorw si siht",
        ]
    ),
)


@given(EVIL, EVIL)
def test_nothing_that_came_with_the_evidence_leaves_its_element(text: str, note: str) -> None:
    """A worker chooses names, claims and details; none of them becomes an element or attribute."""
    benign = Structure(page(filled("word"), notes=["note"]))
    assume(text not in ADVICE)  # a code that we know gets a paragraph of ours
    shown = Structure(page(filled(text), notes=[note]))
    assert shown.tags == benign.tags
    page(filled(text), notes=[note]).encode()


@given(EVIL)
def test_what_does_not_print_is_not_obeyed_either(text: str) -> None:
    """Not by a terminal, and not by a browser that turns the direction of a line."""
    shown = page(filled(text))
    assert not set("\x00\x1b\u202e\u2066\ud800") & set(shown)


def test_the_page_asks_nobody_for_anything() -> None:
    """Neither a script nor an address: it can be opened anywhere without telling anyone."""
    structure = Structure(page(REFUSED))
    names = {tag for tag, _ in structure.tags}
    assert not names & {"script", "img", "link", "iframe", "object", "base", "form", "a", "svg"}
    groups = [attrs for _, attrs in structure.tags if isinstance(attrs, tuple)]
    attributes = {name for attrs in groups for name, _ in attrs}
    assert not attributes & {"src", "href", "style", "action", "background", "srcset"}
    assert not [name for name in attributes if name.startswith("on")]
    assert "default-src 'none'" in page(REFUSED)
    assert not re.search(r"url\(|@import|//", page(REFUSED).split("</style>")[0])


def test_a_page_can_be_read_without_seeing_its_colours() -> None:
    """Every tier is a word, every table has named columns or rows, the page has a language."""
    text = page(REFUSED)
    structure = Structure(text)
    assert ("html", (("lang", "en"),)) in structure.tags
    for tier in {step.tier for step in REFUSED.checks}:
        assert f">{tier.value}</span>" in text
    heads = [attrs for tag, attrs in structure.tags if tag == "th" and attrs != "end"]
    assert all(("scope", "col") in attrs or ("scope", "row") in attrs for attrs in heads)
    assert [tag for tag, _ in structure.tags if tag in ("h1", "h2")].count("h1") == 2
    assert ("caption", ()) in structure.tags
    assert ("main", ()) in structure.tags


def test_a_page_balances_its_elements() -> None:
    open_elements: list[str] = []
    for tag, attrs in Structure(page(REFUSED)).tags:
        if attrs == "end":
            assert open_elements.pop() == tag
        elif tag not in ("meta", "declaration"):
            open_elements.append(tag)
    assert open_elements == []


def test_a_page_can_be_printed() -> None:
    assert "@media print" in page(REFUSED)


def test_a_refusal_is_the_first_thing_on_the_page() -> None:
    assert "REFUSED" in page(REFUSED).split("</h1>")[0]
    assert "accepted" not in page(REFUSED).split("</h1>")[0]


def test_insecure_evidence_is_called_so_on_the_page() -> None:
    warned = result(check(tier=Tier.WARNING, code="insecure"), kind="insecure", insecure=True)
    assert page(warned).count("INSECURE") >= 2


# -- the reasoning --


def test_the_reasoning_has_the_question_tier_code_finding_and_advice_of_every_step() -> None:
    for text in ("\n".join(explain(REFUSED)), page(REFUSED)):
        for step in REFUSED.checks:
            for word in (step.name, step.question, step.tier, step.code, step.detail):
                assert word in text
        assert "A signature does not verify under the key" in text


def test_a_step_that_passed_has_no_advice() -> None:
    lines = list(explain(result(check())))
    assert not [line for line in lines if line.startswith("   ")]


@pytest.mark.parametrize(
    ("tier", "code", "words"),
    [
        (Tier.AFFIRMING, "ok", "yes"),
        (Tier.WARNING, "insecure", "yes, with a weakness"),
        (Tier.UNVERIFIABLE, "revocation-missing", "cannot be told"),
        (Tier.UNVERIFIABLE, NOT_REACHED, "not answered"),
        (Tier.CONTRAINDICATED, "signature-invalid", "NO"),
    ],
)
def test_each_of_the_two_questions_is_answered(tier: Tier, code: str, words: str) -> None:
    judged = result(check(), check(number=2, tier=tier, code=code))
    assert answer(judged, Question.AUTHENTIC).startswith(words)
    assert answer(judged, Question.ACCEPTABLE).startswith("not answered")


def test_a_forgery_is_not_excused_by_steps_that_were_not_reached() -> None:
    assert answer(REFUSED, Question.AUTHENTIC) == "NO"
    assert answer(REFUSED, Question.ACCEPTABLE).startswith("not answered")


def test_a_verdict_says_to_what_it_belongs() -> None:
    """The same evidence is accepted with June's collateral and refused with August's."""
    crl = Collateral.from_items([(CollateralKind.CRL, b"list")])
    one, other = result(), result(collateral=crl)
    assert dict(about(one))["collateral"] == "none was given"
    assert crl.digest().hex() in dict(about(other))["collateral"]
    assert one.to_map()["collateral_digest"] != other.to_map()["collateral_digest"]
    assert dict(about(one))["judged as of"] == "2026-06-01T12:00:00+00:00"
