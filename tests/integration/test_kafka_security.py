"""Brokers that want TLS and a login: what `kafka.security` and its neighbours are for."""

from pathlib import Path

import pytest

import hofflight as hof
from hofflight.testing.kafka import kafka_broker, unused_port
from tests.integration.kafka_place import KafkaPlace, event

TLS = Path(__file__).parent / "tls"
LOGIN = {"security": "SASL_SSL", "sasl_mechanism": "PLAIN", "username": "hof", "password": "s3cret"}


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    """A broker with a listener for its own use and one with TLS and a login, at `secured.port`."""
    pem = tmp_path_factory.mktemp("tls") / "broker.pem"
    pem.write_text((TLS / "key.pem").read_text() + (TLS / "certificate.pem").read_text())
    plain, controller, port = unused_port(), unused_port(), unused_port()
    login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    own = f"PLAINTEXT://127.0.0.1:{plain},SASL_SSL://127.0.0.1:{port}"
    properties = {
        "listeners": f"{own},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": own,
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listener.security.protocol.map": (
            "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL"
        ),
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl_ssl.plain.sasl.jaas.config": f'{login} user_hof="s3cret";',
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(pem),
    }
    ports = iter((plain, controller))
    with kafka_broker(properties, free_port=lambda: next(ports)) as broker:
        broker.secured = f"127.0.0.1:{port}"
        yield broker


def test_tls_and_a_login_reach_it(tmp_path, secured):
    place = KafkaPlace(tmp_path, secured.secured, tls_ca=TLS / "certificate.pem", **LOGIN)
    place.register()
    with place.working(), place.serving() as (_, address), hof.connect(address) as client:
        assert client.vector("card_tx", event(1, 0)).to_dict()["card_tx.n_60"] == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"password": "guessed"},
        {"tls_ca": ""},
        {"security": "PLAINTEXT", "username": "", "password": ""},
    ],
    ids=["password", "stranger", "plain"],
)
def test_what_does_not_fit_is_refused_with_words_and_no_secret(tmp_path, secured, wrong):
    settings = {"tls_ca": TLS / "certificate.pem", "request_timeout_ms": 2_000, **LOGIN, **wrong}
    settings = {name: value for name, value in settings.items() if value}
    if wrong.get("security"):
        del settings["tls_ca"], settings["sasl_mechanism"]
    refused = KafkaPlace(tmp_path, secured.secured, **settings)("register", "features")

    assert refused.returncode == 1
    assert "HOF-512" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not any(secret in refused.stderr for secret in ("s3cret", "guessed"))
