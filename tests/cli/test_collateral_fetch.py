"""Gathering collateral while vendors are slow, down, limiting, moved, or somebody else."""

import json
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from attestation.cli import collateral_http
from attestation.cli.collateral_cache import Cache, CachedAnswer, Gatherer, Wish, cache_directory
from attestation.cli.collateral_http import Answer, Http, Query, VendorUnavailableError
from attestation.cli.collateral_vendors import (
    Item,
    Services,
    gather_amd,
    gather_intel,
    gather_ocsp,
    gather_rim,
    gather_vcek,
)
from attestation.cli.collateral_windows import describe, signed_text
from attestation.endorsements.collateral import CollateralKind
from attestation.errors import DecodeError
from attestation.evidence.sev_snp_tcb import Product
from tests.simulators.vendor_services import (
    DAY,
    Fault,
    Vendor,
    VendorServices,
    content,
    cut,
    dripping,
    endless,
    portal,
    running,
    silent,
    status,
    tls_files,
)

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
VENDOR = Vendor(NOW)
CRL = "/vcek/v1/Genoa/crl"
FMSPC = "00906ed50000"


class Bench:
    """A gatherer, what it told its user, and how long it slept."""

    def __init__(self, services: VendorServices, directory: Path) -> None:
        self.services = services
        self.notes: list[str] = []
        self.slept: list[float] = []
        self.where = Services(
            kds_url=services.url,
            pcs_url=services.url,
            intel_crl_url=f"{services.url}/IntelSGXRootCA.der",
            rim_url=services.url,
            ocsp_url=f"{services.url}/ocsp",
        )
        self.gatherer = Gatherer(
            http=Http(timeout=0.4, sleep=self.slept.append),
            cache=Cache(directory=directory),
            now=NOW,
            notes=self.notes.append,
        )

    def at(self, now: datetime) -> "Gatherer":
        return evolve(self.gatherer, now=now)

    def amd(self, gatherer: Gatherer | None = None) -> list[Item]:
        return list(gather_amd(gatherer or self.gatherer, self.where, Product.GENOA))

    def asked(self, part: str = "") -> int:
        return len([path for path in self.services.asked if part in path])


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with running(VENDOR) as services:
        yield Bench(services, tmp_path / "cache")


# -- what is asked, and what becomes of the answers --


def test_amd_gives_intermediates_and_a_list_and_never_a_root(bench: Bench) -> None:
    """The root is pinned in this program; one that a network hands out is left behind."""
    items = bench.amd()
    names = [describe(kind, data).title for kind, data in items]
    assert names == ["certificate of signer"] * 2 + ["revocation list of root"]
    assert bench.services.asked == [
        "/vcek/v1/Genoa/cert_chain",
        "/vlek/v1/Genoa/cert_chain",
        CRL,
    ]


@pytest.mark.parametrize(
    ("product", "path"),
    [
        (Product.MILAN, f"/vcek/v1/Milan/{'07' * 64}?blSPL=00&teeSPL=01&snpSPL=06&ucodeSPL=209"),
        (
            Product.TURIN,
            f"/vcek/v1/Turin/{'07' * 8}?fmcSPL=00&blSPL=01&teeSPL=02&snpSPL=03&ucodeSPL=209",
        ),
    ],
)
def test_a_chips_certificate_is_asked_for_in_the_layout_of_its_product(
    bench: Bench, product: Product, path: str
) -> None:
    """Turin packs its TCB in another order and has a shorter id: the wrong one is a 404."""
    tcb = bytes([0, 1, 2, 3, 4, 5, 6, 209])
    found = list(gather_vcek(bench.gatherer, bench.where, product, b"\7" * 64, tcb))
    assert [kind for kind, _ in found] == [CollateralKind.AMD_CERTIFICATE]
    assert bench.services.asked == [path]


@pytest.mark.parametrize("tee", ["sgx", "tdx"])
def test_intels_answers_become_one_item_with_the_bytes_that_were_signed(
    bench: Bench, tee: str
) -> None:
    [(kind, data)] = gather_intel(bench.gatherer, bench.where, tee, FMSPC, "platform")
    assert kind is CollateralKind.INTEL_QUOTE_COLLATERAL
    document = json.loads(data)
    sent = VENDOR.signed("tcbInfo", {"id": tee.upper(), "fmspc": "00906ED50000"})
    assert f'{{"tcbInfo":{document["tcb_info"]},"signature"'.encode() in sent
    assert (
        bytes.fromhex(document["root_ca_crl"])
        == bench.gatherer.http.ask(Query(url=bench.where.intel_crl_url)).data
    )
    assert document["tcb_info_issuer_chain"].encode() == VENDOR.chain_pem()
    assert bench.asked(f"/{tee}/certification/v4/tcb?fmspc={FMSPC}") == 1
    assert bench.asked("/sgx/certification/v4/pckcrl?ca=platform&encoding=der") == 1
    assert describe(kind, data).ends == NOW + 30 * DAY


def test_a_manifest_is_the_one_that_the_answer_announces(bench: Bench) -> None:
    (kind, data), (status_kind, _) = gather_rim(
        bench.gatherer, bench.where, "NV_GPU_DRIVER_GH100_550.90.07"
    )
    assert status_kind is CollateralKind.NVIDIA_OCSP
    assert (kind, data) == (CollateralKind.NVIDIA_RIM, VENDOR.rim())
    assert describe(kind, data).title == "reference values of GH100 550.90.07"
    answer = json.loads(VENDOR.answer("/v1/rim/x", b"")[2]) | {"sha256": "00" * 32}
    bench.services.fail("rim/other", content(json.dumps(answer).encode()))
    with pytest.raises(VendorUnavailableError, match="announces"):
        list(gather_rim(bench.gatherer, bench.where, "other"))


def test_every_certificate_of_a_chain_gets_its_own_answer(bench: Bench) -> None:
    chain = (VENDOR.leaf, VENDOR.signer)
    items = list(gather_ocsp(bench.gatherer, bench.where, chain, root=VENDOR.root))
    assert len(set(items)) == 2
    assert bench.asked("/ocsp") == 2


def test_an_answer_about_another_certificate_is_not_taken(bench: Bench) -> None:
    """A service, or somebody in front of it, that shows one good answer for every question."""
    other = Vendor(NOW)
    first = list(gather_ocsp(bench.gatherer, bench.where, [VENDOR.leaf], root=VENDOR.signer))
    bench.services.fail("/ocsp", content(first[0][1]))
    with pytest.raises(VendorUnavailableError, match="another certificate"):
        list(gather_ocsp(bench.gatherer, bench.where, [other.leaf], root=other.signer))


# -- faults --


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_a_vendor_that_has_a_bad_moment_is_asked_again(bench: Bench, code: int) -> None:
    bench.services.fail(CRL, status(code), times=2)
    assert len(bench.amd()) == 3
    assert bench.asked(CRL) == 3
    assert len(bench.slept) == 2


def test_a_rate_limit_says_how_long_to_wait(bench: Bench) -> None:
    """AMD answers 429 with Retry-After; asking sooner only prolongs it."""
    bench.services.fail(CRL, status(429, Retry_After="7"))
    bench.amd()
    assert bench.slept == [7.0]


def test_retry_after_may_be_a_date(bench: Bench) -> None:
    later = datetime.now(UTC) + timedelta(seconds=30)
    bench.services.fail(CRL, status(503, Retry_After=format_datetime(later, usegmt=True)))
    bench.amd()
    assert 25 < bench.slept[0] <= 30


@pytest.mark.parametrize("wait", ["3600", "9" * 40])
def test_a_wait_that_nobody_would_sit_through_ends_at_once(bench: Bench, wait: str) -> None:
    bench.services.fail(CRL, status(429, Retry_After=wait))
    with pytest.raises(VendorUnavailableError, match="429"):
        bench.amd()
    assert bench.slept == []


def test_pauses_grow_and_are_not_the_same_for_everybody(bench: Bench) -> None:
    bench.services.down(CRL)
    with pytest.raises(VendorUnavailableError, match="503"):
        bench.amd()
    assert bench.asked(CRL) == collateral_http.ATTEMPTS
    for attempt, pause in enumerate(bench.slept):
        assert 0.5 * 2**attempt <= pause <= 2**attempt


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410, 204])
def test_a_final_no_is_not_argued_with(bench: Bench, code: int) -> None:
    bench.services.fail(CRL, status(code))
    with pytest.raises(VendorUnavailableError, match=str(code)):
        bench.amd()
    assert bench.asked(CRL) == 1


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(bench: Bench, code: int) -> None:
    """It leads to a captive portal, or to whoever wants to know which chip we ask for."""
    bench.services.fail(CRL, status(code, Location=f"{bench.services.url}/vcek/v1/Milan/crl"))
    with pytest.raises(VendorUnavailableError, match=str(code)):
        bench.amd()
    assert bench.asked("Milan") == 0


@pytest.mark.parametrize("fault", [silent, dripping, cut], ids=["silent", "dripping", "cut"])
def test_one_attempt_ends_in_time_and_another_may_succeed(bench: Bench, fault: Fault) -> None:
    bench.services.fail(CRL, fault)
    assert len(bench.amd()) == 3
    assert bench.asked(CRL) == 2


def test_an_endless_answer_is_cut_off(bench: Bench) -> None:
    bench.services.fail(CRL, endless)
    slow = evolve(bench.gatherer, http=Http(timeout=20, sleep=bench.slept.append))
    with pytest.raises(VendorUnavailableError, match="more than"):
        bench.amd(slow)


@pytest.mark.parametrize(
    "path",
    [CRL, "/vcek/v1/Genoa/cert_chain"],
)
def test_a_page_in_the_place_of_collateral_is_not_kept(bench: Bench, path: str) -> None:
    """A captive portal says 200 to everything; what it says must not get into the cache."""
    bench.services.fail(path, portal)
    with pytest.raises(VendorUnavailableError, match="something else"):
        bench.amd()
    assert len(bench.amd()) == 3


def test_a_list_that_is_over_is_not_taken_from_a_vendor_either(bench: Bench) -> None:
    bench.services.fail(CRL, content(VENDOR.crl(days=0)))
    with pytest.raises(VendorUnavailableError, match="answer is for"):
        bench.amd(bench.at(NOW + timedelta(seconds=1)))


@pytest.mark.parametrize(
    "url",
    [
        "http://kdsintf.amd.com/x",
        "http://127.0.0.1.evil.example/x",
        "http://localhost.evil.example/x",
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "//127.0.0.1/x",
        "",
    ],
)
def test_only_https_is_asked(url: str) -> None:
    with pytest.raises(VendorUnavailableError, match="https"):
        Http().ask(Query(url=url))


def test_nobody_there_is_an_outage(tmp_path: Path) -> None:
    with running(VENDOR) as services:
        pass
    bench = Bench(services, tmp_path)
    with pytest.raises(VendorUnavailableError):
        bench.amd()


# -- TLS --


def test_a_certificate_that_nobody_vouches_for_is_refused_at_once(tmp_path: Path) -> None:
    certificate, key = tls_files(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    with running(VENDOR, tls=server) as services:
        trusting = ssl.create_default_context(cafile=str(certificate))
        answer = Http(context=trusting).ask(Query(url=f"{services.url}{CRL}"))
        assert answer.data
        slept: list[float] = []
        with pytest.raises(VendorUnavailableError, match="certificate"):
            Http(sleep=slept.append).ask(Query(url=f"{services.url}{CRL}"))
        assert slept == []


# -- the cache --


def test_what_is_young_is_not_asked_for_again(bench: Bench) -> None:
    first = bench.amd()
    assert bench.amd(bench.at(NOW + timedelta(hours=23))) == first
    assert bench.asked() == 3
    assert bench.notes == []


def test_what_is_older_is_asked_for_again(bench: Bench) -> None:
    bench.amd()
    bench.amd(bench.at(NOW + timedelta(hours=25)))
    assert bench.asked(CRL) == 2
    assert bench.asked("cert_chain") == 2


def test_refresh_asks_for_everything(bench: Bench) -> None:
    bench.amd()
    bench.amd(evolve(bench.gatherer, refresh=True))
    assert bench.asked() == 6


@pytest.mark.parametrize("fault", [status(503), status(429, Retry_After="3600"), portal])
def test_an_outage_is_survived_inside_the_window_and_the_user_is_told(
    bench: Bench, fault: Fault
) -> None:
    """A vendor's outage was an outage of everybody who attests (see peers' issues with KDS)."""
    first = bench.amd()
    bench.services.fail("", fault, times=1000)
    assert bench.amd(bench.at(NOW + 29 * DAY)) == first
    assert any("revocation list of Genoa" in note and "cache" in note for note in bench.notes)


def test_a_list_whose_window_is_over_is_never_served(bench: Bench) -> None:
    bench.amd()
    bench.services.down()
    with pytest.raises(VendorUnavailableError, match="is not used"):
        bench.amd(bench.at(NOW + 31 * DAY))


def test_without_a_vendor_and_without_a_cache_there_is_nothing(bench: Bench) -> None:
    bench.services.down()
    with pytest.raises(VendorUnavailableError, match="AMD VCEK chain of Genoa"):
        bench.amd()


def test_an_item_from_the_future_is_not_young(bench: Bench) -> None:
    """Written while the clock was wrong, it would otherwise be young for ever."""
    bench.amd(bench.at(NOW + 10 * DAY))
    bench.amd()
    assert bench.asked(CRL) == 2


def test_expired_reference_values_serve_audits_of_the_past(bench: Bench) -> None:
    """A manifest's signer lives two years; evidence of then is still judged as of then."""
    later = bench.at(NOW + 400 * DAY)
    source = gather_rim(later, bench.where, "NV_GPU_DRIVER_GH100_550.90.07")
    assert next(iter(source)) == (CollateralKind.NVIDIA_RIM, VENDOR.rim())
    assert any("as of that time" in note for note in bench.notes)


@pytest.mark.parametrize("damage", [b"", b"\xff", b"\xa0", bytes(100)])
def test_a_damaged_cache_is_an_empty_one(bench: Bench, damage: bytes) -> None:
    first = bench.amd()
    for path in bench.gatherer.cache.directory.iterdir():
        path.write_bytes(damage)
    assert bench.amd() == first
    assert bench.asked() == 6


def test_a_cached_answer_to_another_question_is_not_used(bench: Bench) -> None:
    cache = bench.gatherer.cache
    query, other = Query(url="https://one.example/"), Query(url="https://two.example/")
    cache.put(query, Answer(data=b"x"), NOW)
    path = next(cache.directory.iterdir())
    cache.put(other, Answer(data=b"y"), NOW)
    moved = next(entry for entry in cache.directory.iterdir() if entry != path)
    moved.write_bytes(path.read_bytes())
    assert cache.get(other) is None
    assert cache.get(query) is not None


def test_the_same_address_with_another_body_is_another_question(tmp_path: Path) -> None:
    cache = Cache(directory=tmp_path)
    cache.put(Query(url="https://a.example/", body=b"one"), Answer(data=b"x"), NOW)
    assert cache.get(Query(url="https://a.example/", body=b"two")) is None
    assert cache.get(Query(url="https://a.example/")) is None


def test_no_half_written_file_stays_behind(bench: Bench) -> None:
    bench.amd()
    assert not list(bench.gatherer.cache.directory.glob("*.partial"))


def test_the_cache_is_where_the_user_keeps_caches(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "enclave-worker" / "collateral"
    # A relative path is invalid by the specification and would depend on where we stand.
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    assert cache_directory().is_absolute()


# -- reading what strangers send --


@given(st.sampled_from(list(CollateralKind)), st.binary(max_size=300))
def test_any_bytes_are_described_or_raise_decode_error(kind: CollateralKind, data: bytes) -> None:
    try:
        found = describe(kind, data)
    except DecodeError:
        return
    assert found.title


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda t: f'{{"tcbInfo":{t}'.encode()))
def test_any_answer_of_intels_service_is_read_or_refused(data: bytes) -> None:
    try:
        text, _ = signed_text(data, "tcbInfo")
    except DecodeError:
        return
    assert text.encode() in data


@given(st.binary(max_size=200))
def test_any_file_in_the_cache_is_read_or_is_not_there(data: bytes) -> None:
    try:
        CachedAnswer.from_bytes(data)
    except DecodeError:
        return


def test_what_intel_signed_is_kept_to_the_byte() -> None:
    """Written again by a JSON library, the signature over it would be over something else."""
    inner = '{ "b" : 1.0,\n"a":"\\u00e9" , "issueDate":"x"}'
    text, signature = signed_text(f' {{ "tcbInfo" :{inner} ,"signature":"ab"}}'.encode(), "tcbInfo")
    assert (text, signature) == (inner, "ab")


def test_a_wish_names_itself_in_what_goes_wrong(bench: Bench) -> None:
    def read(_answer: Answer) -> object:
        raise DecodeError("no")

    wish = Wish(name="a thing", query=Query(url=f"{bench.services.url}{CRL}"), read=read, young=DAY)  # type: ignore[arg-type]
    with pytest.raises(VendorUnavailableError, match="a thing"):
        bench.gatherer.get(wish)
