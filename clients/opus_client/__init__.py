"""The Python library of opusd: `AsyncClient` for asyncio, `Client` for plain blocking code.

    with Client() as opus:
        job = opus.call("job.submit", prompt="say hello")["job"]

    async with AsyncClient() as opus:
        done = await opus.ask(JOB_WAIT, JobWait(ids=[job["id"]]))

`call` takes a method's name and gives plain dicts and lists; `ask` takes a method of `opusd.api.methods`
with its parameters and gives its typed result. A refusal is raised as RpcError.
"""

from opus_client.aio import AsyncClient, AsyncEvents
from opus_client.blocking import Client
from opus_client.wire import ConnectionLost, Lagged, RpcError, socket_path

__all__ = ["AsyncClient", "AsyncEvents", "Client", "ConnectionLost", "Lagged", "RpcError", "socket_path"]
