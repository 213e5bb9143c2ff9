"""Where a server is and how to call it: the one file that makes Flight clients."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from hofflight.errors import SettingsError

if TYPE_CHECKING:
    from pyarrow import flight

_EXPECTED: Final = "grpc://host:port, grpc+tls://host:port or grpc+unix:///path"
_TOKEN: Final = re.compile(r"[!-~]+")
# gRPC waits up to two minutes before it looks again for a server that was gone. And connections
# are never shared, so that a new stream is a new connection where the old one died silently.
_OPTIONS: Final[list[tuple[str, Any]]] = [
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),
]


@dataclass(frozen=True, slots=True)
class Address:
    """A checked url with the secrets that calls to it need; those are never shown."""

    url: str
    token: str | None = field(default=None, repr=False)
    tls_roots: bytes | None = field(default=None, repr=False)

    def dial(self) -> flight.FlightClient:
        """A client of its own connection, which is made with the first call."""
        from pyarrow import flight

        return flight.FlightClient(
            self.url, tls_root_certs=self.tls_roots, generic_options=_OPTIONS
        )

    def options(self, timeout_s: float | None = None) -> flight.FlightCallOptions:
        """Options of one call: the bearer token, and when it ends at the latest."""
        from pyarrow import flight

        headers = [(b"authorization", f"Bearer {self.token}".encode())] if self.token else []
        return flight.FlightCallOptions(timeout=timeout_s, headers=headers)


def parse_address(url: str, token: str | None, tls_roots: str | Path | bytes | None) -> Address:
    """Check what `connect` was given.

    Raises:
        SettingsError: HOF-601, a url of another kind, or certificates that cannot be read.
    """
    if not isinstance(url, str):
        raise SettingsError(f"url must be str, got {type(url).__name__}", hint=_EXPECTED)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise SettingsError(f"url {url!r}: {error}", hint=_EXPECTED) from None
    if parts.username or parts.password:
        raise SettingsError("a url holds no user or password", hint="token=...")
    if parts.scheme == "grpc+unix":
        is_good = parts.path.startswith("/") and not parts.netloc
    else:
        is_good = parts.scheme in {"grpc", "grpc+tcp", "grpc+tls"} and parts.path in {"", "/"}
        is_good = is_good and bool(parts.hostname) and bool(port)
    if not is_good or parts.query or parts.fragment:
        raise SettingsError(f"url {url!r} is not understood", hint=_EXPECTED)
    if token is not None and not (isinstance(token, str) and _TOKEN.fullmatch(token)):
        raise SettingsError("token must be a str of visible ASCII characters")
    if tls_roots is not None and parts.scheme != "grpc+tls":
        raise SettingsError(f"tls_roots needs a url with grpc+tls, got {parts.scheme}")
    return Address(url.removesuffix("/"), token, _read_roots(tls_roots))


def _read_roots(tls_roots: str | Path | bytes | None) -> bytes | None:
    if tls_roots is None or isinstance(tls_roots, bytes):
        return tls_roots
    try:
        return Path(tls_roots).read_bytes()
    except OSError as error:
        raise SettingsError(f"tls_roots cannot be read: {error.strerror}") from None
