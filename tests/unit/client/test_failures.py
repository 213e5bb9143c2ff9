"""Words of servers and of gRPC, as pyarrow passes them on, become errors of ours."""

import pyarrow as pa
import pytest
from pyarrow import flight

from hofflight import errors
from hofflight.client.failures import again, from_answer, from_flight
from hofflight.wire.envelope import AnswerMeta

AROUND = (
    "Flight returned unavailable error, with message: {}. gRPC client debug context: "
    "UNAVAILABLE:{}. Client context: OK"
)


@pytest.mark.parametrize("shape", ["{}", "Flight cancelled call, with message: {}", AROUND])
def test_a_code_is_found_whatever_pyarrow_writes_around_it(shape):
    said = "HOF-303: the server is stopping Hint: ask: the other one"
    error = from_flight(flight.FlightUnavailableError(shape.format(said, said)))

    assert type(error) is errors.Draining
    assert (error.message, error.hint) == ("the server is stopping", "ask: the other one")
    assert error.retry_after_ms > 0


@pytest.mark.parametrize("error", errors.by_code().values())
def test_every_error_of_ours_survives_the_way_over_a_status(error):
    came = from_flight(flight.FlightServerError(str(error("why", hint="do"))))

    assert (type(came), came.message, came.hint) == (error, "why", "do")


@pytest.mark.parametrize(
    ("foreign", "ours"),
    [
        (flight.FlightUnavailableError("x"), errors.ConnectionLost),
        (flight.FlightInternalError("x"), errors.ConnectionLost),
        (flight.FlightCancelledError("x"), errors.ConnectionLost),
        (flight.FlightServerError("x"), errors.ConnectionLost),
        (OSError("x"), errors.ConnectionLost),
        (flight.FlightTimedOutError("x"), errors.NoAnswer),
        (flight.FlightUnauthenticatedError("x"), errors.Unauthenticated),
        (flight.FlightUnauthorizedError("x"), errors.Unauthenticated),
        (pa.ArrowInvalid("gRPC returned resource exhausted error, with message: x"),
         errors.Overloaded),
        (pa.ArrowInvalid("x"), errors.BadRequest),
        (pa.ArrowKeyError("x"), errors.UnknownView),
        (pa.ArrowNotImplementedError("x"), errors.NotSupported),
    ],
)  # fmt: skip
def test_an_error_without_a_code_is_told_from_its_status(foreign, ours):
    error = from_flight(foreign)

    assert type(error) is ours
    assert error.message == "x"


def test_tracebacks_and_contexts_are_cut_off():
    text = "Flight RPC failed with message: boom. Detail: Python exception: Traceback\n  File '/x'"

    assert from_flight(flight.FlightServerError(text)).message == "boom"


def test_an_answers_error_keeps_all_it_says():
    error = from_answer(AnswerMeta("HOF-301", error="full", hint="wait", retry_after_ms=12))

    assert type(error) is errors.Overloaded
    assert (error.message, error.hint, error.retry_after_ms) == ("full", "wait", 12)


@pytest.mark.parametrize(
    ("code", "family"),
    [
        ("HOF-299", errors.BadRequest),
        ("HOF-399", errors.Refused),
        ("HOF-499", errors.Indefinite),
        ("HOF-799", errors.HofError),
        ("gibberish", errors.HofError),
    ],
)
def test_an_unknown_code_becomes_its_family_and_is_quoted(code, family):
    error = from_answer(AnswerMeta(code, error="new"))

    assert type(error) is family
    assert error.message == f"{code}: new"


def test_a_copy_is_equal_and_another():
    error = errors.Overloaded("full", hint="wait", retry_after_ms=3)
    copy = again(error)

    assert copy is not error
    assert (str(copy), copy.retry_after_ms) == (str(error), 3)
