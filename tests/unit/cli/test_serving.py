"""What `hof serve` makes of its command line."""

import pytest

from hofflight.cli.doctor import examined, problems
from hofflight.cli.serving import read_tokens, settings_of
from hofflight.errors import SettingsError


def test_what_the_command_line_leaves_out_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("HOF_SERVER__STREAMS_MAX", "7")
    monkeypatch.setenv("HOF_SERVER__GRPC", "127.0.0.1:1")
    monkeypatch.setenv("HOF_LOG__DURABILITY", "batch")

    settings = settings_of({"grpc": "127.0.0.1:0", "insecure": None}, None)

    assert settings.server.streams_max == 7
    assert settings.server.grpc == "127.0.0.1:0"
    assert settings.log.durability == "batch"


def test_a_wrong_durability_names_the_setting():
    with pytest.raises(SettingsError, match=r"log\.durability"):
        settings_of({}, "never")


def test_a_certificate_without_its_key_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="tls_key come together"):
        settings_of({"tls_certificate": tmp_path / "cert.pem"}, None)


def test_tokens_are_lines(tmp_path):
    file = tmp_path / "tokens"
    file.write_text("# for the shop\nsecret-1\n\n  secret-2  \n")

    assert read_tokens(file) == ("secret-1", "secret-2")


@pytest.mark.parametrize("text", ["", "# nothing\n\n"])
def test_a_token_file_without_tokens_is_refused(tmp_path, text):
    file = tmp_path / "tokens"
    file.write_text(text)

    with pytest.raises(SettingsError, match="holds no token"):
        read_tokens(file)


def test_a_token_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="cannot be read"):
        read_tokens(tmp_path / "missing")


def test_the_doctor_measures_without_leaving_anything(tmp_path):
    found = examined(tmp_path)

    assert found["sync_us_p50"] > 0
    assert found["sync_us_max"] >= found["sync_us_p50"]
    assert "pyarrow" in found["packages"]
    assert list(tmp_path.iterdir()) == []


def test_the_doctor_finds_a_full_disk_a_wrong_clock_and_an_old_python():
    fine = {"free_bytes": 2**40, "now_us": 1_800_000_000_000_000, "python": (3, 11)}

    assert problems(**fine) == []
    assert "bytes are free" in problems(**{**fine, "free_bytes": 1})[0]
    assert "clock" in problems(**{**fine, "now_us": 0})[0]
    assert "3.11" in problems(**{**fine, "python": (3, 10)})[0]
