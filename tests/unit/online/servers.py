"""Servers that stand where a Valkey server should, and fail on purpose; each in a thread."""

import asyncio
import ssl
import threading
from contextlib import contextmanager, suppress


@contextmanager
def listening(serve, *, host="127.0.0.1", tls=None):
    """Run `serve(reader, writer)` for each connection; gives the port."""
    loop = asyncio.new_event_loop()
    started = threading.Event()
    ports = []

    async def handled(reader, writer):
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await serve(reader, writer)
        finally:
            writer.close()

    async def run():
        server = await asyncio.start_server(handled, host, 0, ssl=tls)
        ports.append(server.sockets[0].getsockname()[1])
        started.set()
        await stopped.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0)  # transports close one step later

    stopped = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    assert started.wait(10)
    try:
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join()
        loop.close()


@contextmanager
def answering(answer):
    """Gives `answer` to whatever is said; then, where it is `None`, hangs up."""

    async def serve(reader, writer):
        while await reader.read(65_536):
            if answer is None:
                return
            writer.write(answer)
            await writer.drain()

    with listening(serve) as port:
        yield f"redis://127.0.0.1:{port}"


@contextmanager
def behind_tls(port, certificate, key, *, client_ca=None, host="127.0.0.1"):
    """TLS in front of a server that has none; `client_ca`: it wants a certificate of the client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)

    async def copy(reader, writer):
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader, writer):
        behind = await asyncio.open_connection("127.0.0.1", port)
        try:
            await asyncio.gather(copy(reader, behind[1]), copy(behind[0], writer))
        finally:
            behind[1].close()

    with listening(serve, host=host, tls=context) as secure_port:
        yield secure_port
