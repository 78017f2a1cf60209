"""Signatures by the published vector, and the table of addresses that nothing may be sent to."""

import base64
from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook

from domain.webhooks import (
    SCHEDULE,
    AddressRefused,
    check_link,
    check_url,
    new_secret,
    pause_before,
    sign,
    signed_headers,
)

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = b'{"test": 2432232314}'


class TestSignature:
    def test_published_vector(self) -> None:
        signature = sign(SECRET, message_id="msg_p5jXN8AQM9LWM0D4loKWxJek", timestamp=1614265330, body=BODY)
        assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

    def test_standard_library_accepts_both_secrets_of_a_rotation(self) -> None:
        old, new = new_secret(), new_secret()
        now = int(datetime.now(UTC).timestamp())
        headers = signed_headers([new, old], message_id="msg_1", timestamp=now, body=BODY)
        for secret in (old, new):
            Webhook(secret).verify(BODY.decode(), headers)
        with pytest.raises(Exception, match="signature"):
            Webhook(new_secret()).verify(BODY.decode(), headers)

    def test_secret_is_long_enough(self) -> None:
        assert 24 <= len(base64.b64decode(new_secret().removeprefix("whsec_"))) <= 64


class TestSchedule:
    def test_is_the_standards(self) -> None:
        assert [pause.total_seconds() for pause in SCHEDULE[:3]] == [0, 5, 300]
        assert pause_before(1) == SCHEDULE[1]
        assert pause_before(len(SCHEDULE)) is None


REFUSED = [
    "https://127.0.0.1/", "https://127.1/", "https://0.0.0.0/", "https://10.0.0.1/", "https://172.16.0.1/",
    "https://192.168.1.1/", "https://169.254.169.254/latest/meta-data", "https://100.64.0.1/", "https://192.0.2.1/",
    "https://198.18.0.1/", "https://224.0.0.1/", "https://240.0.0.1/", "https://255.255.255.255/", "https://[::1]/",
    "https://[::]/", "https://[fe80::1]/", "https://[fc00::1]/", "https://[ff02::1]/", "https://[2001:db8::1]/",
    "https://[::ffff:127.0.0.1]/", "https://[::ffff:10.0.0.1]/", "https://[64:ff9b::7f00:1]/",
    "https://[64:ff9b:1::7f00:1]/", "https://[2002:7f00:1::]/", "https://[::7f00:1]/",
    "https://[2001:0:4136:e378:8000:63bf:80ff:fffe]/", "https://2130706433/", "https://0177.0.0.1/",
    "https://0x7f.0.0.1/", "https://0x7f000001/", "https://localhost/", "https://localhost./",
    "https://printer.local/", "https://db.internal/", "https://intranet/", "https://user@example.org/",
    "https://user:pass@example.org/", "http://example.org/", "ftp://example.org/", "file:///etc/passwd",
    "https://example.org:22/", "https://example.org:99999/", "https://", "gopher://example.org/", "javascript:alert(1)",
    "https://example.org:0/",
    "https://a..example.com/", f"https://{'a' * 64}.example.com/", f"https://{'ü' * 63}.example.com/",
    f"https://{'a.' * 130}example.com/", "https://ex ample.org/", "https://ü\\.example.org/", "https://ü%2f.example.org/",
    "https://①②⑦.0.0.1/", "https://\uff11\uff12\uff17\u30020\u30020\u30021/", "https://\uff4cocalhost/",
    "https://-a.example.org/", "https://xn--ü.example/",
    "https://[fec0::1]/", "https://[64:ff9b:1::808:808]/", "https://[3fff::1]/", "https://192.88.99.1/",
    "https://[::808:808]/", "https://[5f00::1]/", "https://[64:ff9b::c058:6301]/", "https://[2002:c058:6301::]/",
]  # fmt: skip


FINE_AS_LINKS = ["http://example.org/", "https://example.org:22/"]


class TestAddresses:
    @pytest.mark.parametrize("url", REFUSED)
    def test_is_refused(self, url: str) -> None:
        with pytest.raises(AddressRefused):
            check_url(url)

    @pytest.mark.parametrize("url", [url for url in REFUSED if url not in FINE_AS_LINKS])
    def test_is_refused_as_a_link_too(self, url: str) -> None:
        with pytest.raises(AddressRefused):
            check_link(url)

    @pytest.mark.parametrize("url", [*FINE_AS_LINKS, "http://example.org:8080/", "https://example.org/"])
    def test_is_taken_as_a_link(self, url: str) -> None:
        assert check_link(url).hostname == "example.org"

    @pytest.mark.parametrize("url", ["http://127.0.0.1/", "http://10.0.0.1:8080/", "http://db.internal:5432/"])
    def test_plain_link_inside_is_refused(self, url: str) -> None:
        with pytest.raises(AddressRefused, match=r"network|public"):
            check_link(url)

    @pytest.mark.parametrize(
        "url",
        [
            "https://example.org/hook",
            "https://example.org:8443/",
            "https://93.184.216.34/",
            "https://xn--80ak6aa92e.com/",
        ],
    )
    def test_is_taken(self, url: str) -> None:
        assert check_url(url).hostname

    @pytest.mark.parametrize(
        ("url", "netloc"),
        [
            ("https://Bücher.example/", "xn--bcher-kva.example"),
            ("https://пример.рф:8443/x", "xn--e1afmkfd.xn--p1ai:8443"),
            ("https://straße.example./", "xn--strae-oqa.example"),
            ("https://under_score.example/", "under_score.example"),
            ("https://[2606:4700::1111]:443/", "[2606:4700::1111]:443"),
            ("https://[64:ff9b::808:808]/", "[64:ff9b::808:808]"),
        ],
    )
    def test_host_as_it_goes_over_the_wire(self, url: str, netloc: str) -> None:
        assert check_url(url).netloc == netloc

    def test_exempt_ones_are_taken_as_they_are(self) -> None:
        assert check_url("http://127.0.0.1:9000/", exempt=["127.0.0.1:9000"]).port == 9000
        with pytest.raises(AddressRefused):
            check_url("http://127.0.0.1:9001/", exempt=["127.0.0.1:9000"])
