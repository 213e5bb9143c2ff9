"""THE CALLER'S SIDE: one warm stream per view, retries with the same request id, typed errors."""

from hofflight.client.client import AsyncClient, Client, connect, connect_async
from hofflight.client.views import ViewInfo

__all__ = ["AsyncClient", "Client", "ViewInfo", "connect", "connect_async"]
