import subprocess
import sys
from pathlib import Path

from hofflight.wire import flight_pb2

REPO = Path(__file__).parents[3]
PROTO = "hofflight/wire/flight.proto"
# What Arrow's own clients send: these numbers are the contract.
NUMBERS = {
    "FlightData": {"flight_descriptor": 1, "data_header": 2, "app_metadata": 3, "data_body": 1000},
    "FlightDescriptor": {"type": 1, "cmd": 2, "path": 3},
    "FlightInfo": {
        "schema": 1, "flight_descriptor": 2, "endpoint": 3, "total_records": 4, "total_bytes": 5,
        "ordered": 6, "app_metadata": 7,
    },
    "FlightEndpoint": {"ticket": 1, "location": 2, "expiration_time": 3, "app_metadata": 4},
    "Action": {"type": 1, "body": 2},
    "ActionType": {"type": 1, "description": 2},
    "Result": {"body": 1},
    "PutResult": {"app_metadata": 1},
    "SchemaResult": {"schema": 1},
    "Criteria": {"expression": 1},
    "Ticket": {"ticket": 1},
    "Location": {"uri": 1},
    "HandshakeRequest": {"protocol_version": 1, "payload": 2},
    "HandshakeResponse": {"protocol_version": 1, "payload": 2},
    "PollInfo": {"info": 1, "flight_descriptor": 2, "progress": 3, "expiration_time": 4},
}  # fmt: skip


def test_the_generated_module_is_what_protoc_makes_of_the_proto(tmp_path):
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--python_out={tmp_path}", PROTO]
    subprocess.run(command, cwd=REPO, check=True, timeout=60)
    made = (tmp_path / "hofflight/wire/flight_pb2.py").read_text(encoding="utf-8")

    kept = (REPO / "hofflight/wire/flight_pb2.py").read_text(encoding="utf-8")
    assert made == kept, f"run: python -m grpc_tools.protoc -I. --python_out=. {PROTO}"


def test_fields_have_the_numbers_of_flight():
    messages = flight_pb2.DESCRIPTOR.message_types_by_name
    numbers = {name: {f.name: f.number for f in messages[name].fields} for name in NUMBERS}

    assert numbers == NUMBERS


def test_the_service_has_all_methods_of_flight():
    service = flight_pb2.DESCRIPTOR.services_by_name["FlightService"]

    assert service.full_name == "arrow.flight.protocol.FlightService"
    assert [m.name for m in service.methods] == [
        "Handshake", "ListFlights", "GetFlightInfo", "PollFlightInfo", "GetSchema", "DoGet",
        "DoPut", "DoExchange", "DoAction", "ListActions",
    ]  # fmt: skip
