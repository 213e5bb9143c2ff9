"""Flight on grpc.aio: bytes in, requests to a worker, answers out; it knows nothing of features."""
