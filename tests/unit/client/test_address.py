"""What `connect` takes, and what it refuses before anything is dialled."""

import pytest

from hofflight.client.address import parse_address
from hofflight.errors import SettingsError


@pytest.mark.parametrize(
    "url",
    [
        "grpc://localhost:8817",
        "grpc://127.0.0.1:1",
        "grpc://[::1]:8817",
        "grpc+tcp://h:1",
        "grpc+tls://features.example:443",
        "grpc+unix:///run/hof.sock",
    ],
)
def test_urls_of_the_three_kinds_are_taken(url):
    assert parse_address(url, None, None).url == url


@pytest.mark.parametrize(
    "url",
    [
        "", "localhost:8817", "http://localhost:8817", "grpc://localhost", "grpc://:8817",
        "grpc://h:0", "grpc://h:99999", "grpc://h:x", "grpc://h:1/view", "grpc://h:1?x=1",
        "grpc+unix://run/hof.sock", "grpc+unix:", "grpc+unix://", None, 8817, b"grpc://h:1",
    ],
)  # fmt: skip
def test_other_urls_name_what_is_expected(url):
    with pytest.raises(SettingsError) as caught:
        parse_address(url, None, None)

    assert "grpc://host:port" in caught.value.hint


def test_a_password_in_a_url_is_refused_and_not_repeated():
    with pytest.raises(SettingsError) as caught:
        parse_address("grpc://me:sesame@h:1", None, None)

    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize("token", ["", " ", "zwölf", 7, b"x", "two\nlines"])
def test_a_token_is_one_line_of_visible_characters(token):
    with pytest.raises(SettingsError, match="token"):
        parse_address("grpc://h:1", token, None)


def test_tls_roots_are_read_and_belong_to_tls(tmp_path):
    pem = tmp_path / "roots.pem"
    pem.write_bytes(b"-----BEGIN")

    assert parse_address("grpc+tls://h:1", None, pem).tls_roots == b"-----BEGIN"
    assert parse_address("grpc+tls://h:1", None, str(pem)).tls_roots == b"-----BEGIN"
    assert parse_address("grpc+tls://h:1", None, b"pem").tls_roots == b"pem"
    with pytest.raises(SettingsError, match="cannot be read"):
        parse_address("grpc+tls://h:1", None, tmp_path / "none.pem")
    with pytest.raises(SettingsError, match=r"grpc\+tls"):
        parse_address("grpc://h:1", None, pem)


def test_secrets_are_not_shown():
    address = parse_address("grpc+tls://h:1", "sesame", b"roots")

    assert "sesame" not in repr(address)
    assert "roots" not in repr(address)
