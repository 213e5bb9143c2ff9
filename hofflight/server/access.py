"""Who may reach a server: the address it binds, TLS, and bearer tokens."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
import stat
from typing import TYPE_CHECKING, Any

import grpc

from hofflight.errors import SettingsError, Unauthenticated, UnsafeBind
from hofflight.server.status import abort

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hofflight.settings import ServerSettings

_PORT_MAX = 65_535
_UNIX_PATH_BYTES_MAX = 107  # sun_path, less its closing zero


def require_safe_bind(settings: ServerSettings) -> bool:
    """Refuse an address that others can reach without TLS and tokens; True if it is so by wish.

    Raises:
        SettingsError: HOF-601, not an address.
        UnsafeBind: HOF-602.
    """
    host, _, port = settings.grpc.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > _PORT_MAX:
        msg = f"server.grpc is {settings.grpc!r}, expected HOST:PORT such as 127.0.0.1:8817"
        raise SettingsError(msg)
    if _is_loopback(host) or (settings.tls_certificate and settings.tokens):
        return False
    if settings.insecure:
        return True
    msg = f"server.grpc {settings.grpc} can be reached by others"
    hint = "set server.tls_certificate, server.tls_key and server.tokens, or bind 127.0.0.1"
    raise UnsafeBind(msg, hint=hint)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def tls_credentials(settings: ServerSettings) -> Any:
    """Server credentials of the certificate and key files; None without TLS.

    Raises:
        SettingsError: HOF-601, a file cannot be read or holds no PEM.
    """
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    key = _read_pem("tls_key", settings.tls_key)
    certificate = _read_pem("tls_certificate", settings.tls_certificate)
    return grpc.ssl_server_credentials([(key, certificate)])


def _read_pem(setting: str, path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        msg = f"server.{setting}: {error.strerror}: {path}"
        raise SettingsError(msg) from None
    if b"-----BEGIN" not in data:
        msg = f"server.{setting}: {path} is not a PEM file"
        raise SettingsError(msg)
    return data


def require_free_unix_path(path: Path) -> None:
    """Refuse a path that is not ours to take: gRPC replaces any socket, a living server's too.

    Raises:
        SettingsError: HOF-601, in use, not a socket, or too long for a socket's name.
    """
    if len(str(path).encode()) > _UNIX_PATH_BYTES_MAX:
        msg = f"server.grpc_unix: {path} is longer than {_UNIX_PATH_BYTES_MAX} bytes"
        raise SettingsError(msg)
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            msg = f"server.grpc_unix: {path} exists and is not a socket"
            raise SettingsError(msg)
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return
        except OSError as error:
            msg = f"server.grpc_unix: {path}: {error.strerror}"
            raise SettingsError(msg) from None
    msg = f"server.grpc_unix: another server listens at {path}"
    raise SettingsError(msg)


class TokenInterceptor(grpc.aio.ServerInterceptor):
    """Lets a call in that carries one of the bearer tokens; health checks need none.

    Only digests are kept, and all are compared, so neither memory nor timing tells a token.
    """

    def __init__(self, tokens: list[str]) -> None:
        self._digests = [_digest(token) for token in tokens]

    async def intercept_service(
        self, continuation: Callable[[Any], Any], handler_call_details: Any
    ) -> Any:
        """The handler that was asked for, or one that refuses."""
        if handler_call_details.method.startswith("/grpc.health.v1.Health/"):
            return await continuation(handler_call_details)
        for name, value in handler_call_details.invocation_metadata:
            if name == "authorization" and self._known(value):
                return await continuation(handler_call_details)
        # A stream's handler refuses at once; another would first wait for a message.
        return grpc.stream_stream_rpc_method_handler(_refuse)

    def _known(self, value: str | bytes) -> bool:
        text = value if isinstance(value, bytes) else value.encode(errors="surrogateescape")
        scheme, _, token = text.partition(b" ")
        digest = hashlib.sha256(token).digest()
        found = [hmac.compare_digest(digest, known) for known in self._digests]
        return any(found) and scheme.lower() == b"bearer"


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


async def _refuse(_: object, context: Any) -> None:
    msg = "this server asks for a bearer token, and none of its tokens came"
    await abort(context, Unauthenticated(msg, hint="send the header authorization: Bearer TOKEN"))
