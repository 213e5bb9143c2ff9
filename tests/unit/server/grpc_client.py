"""A program: plain gRPC calls with given bytes, one a line of JSON in, one a line of JSON out."""

import asyncio
import base64
import json
import sys

import grpc
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

FLIGHT = "/arrow.flight.protocol.FlightService/"


async def call(channel, asked):
    """Send all messages, half-close, and read to the end."""
    method, read = asked["method"], []
    path = method if method.startswith("/") else FLIGHT + method
    if asked.get("gzip"):
        opened = channel.stream_stream(path)(compression=grpc.Compression.Gzip)
    else:
        opened = channel.stream_stream(path)(metadata=[tuple(m) for m in asked["metadata"]] or None)
    try:
        for message in asked["messages"]:
            await opened.write(base64.b64decode(message))
        await opened.done_writing()
        while (message := await opened.read()) is not grpc.aio.EOF:
            read.append(message)
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        pass
    trailers = {k: v for k, v in await opened.trailing_metadata() if isinstance(v, str)}
    return {
        "messages": [base64.b64encode(m).decode() for m in read],
        "status": (await opened.code()).name,
        "details": await opened.details(),
        "trailers": trailers,
    }


async def health(channel):
    path = "/grpc.health.v1.Health/Check"
    request = health_pb2.HealthCheckRequest().SerializeToString()
    answer = health_pb2.HealthCheckResponse.FromString(await channel.unary_unary(path)(request))
    return {
        "messages": [],
        "status": health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status),
    }


async def reflection(channel, symbol):
    """The methods of a service, as the server itself describes it."""
    opened = channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    )()
    asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)
    await opened.write(asked.SerializeToString())
    answer = reflection_pb2.ServerReflectionResponse.FromString(await opened.read())
    await opened.done_writing()
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(file)
        for file in answer.file_descriptor_response.file_descriptor_proto
    ]
    methods = [m.name for f in files for s in f.service for m in s.method]
    return {"messages": [], "methods": methods}


async def answer(asked):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{asked['port']}") as channel:
        if asked["method"] == "health":
            return await health(channel)
        if asked["method"] == "reflection":
            return await reflection(channel, "arrow.flight.protocol.FlightService")
        while True:
            said = await asyncio.wait_for(call(channel, asked), 20)
            # grpc.aio's own word for a write that met an ended call before its status came.
            if said["details"] != "Internal error from Core":
                return said


async def main():
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(await answer(json.loads(line))), flush=True)


asyncio.run(main())
