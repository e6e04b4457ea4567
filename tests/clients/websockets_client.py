"""A WebSocket client under orders, built on the PyPI package `websockets`.

Reads one JSON order a line from standard input and prints one JSON event a line; the words of both
are those of `ws_client.mjs` and are told in `driven.rs`. Ends when its input ends. Behind the URL
may stand a JSON object with more arguments of `connect`.
"""

import asyncio
import base64
import json
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

# One order may carry a message of some hundred KiB in base64.
LINE_BYTES_MAX = 8 << 20


def tell(event, **fields):
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


async def receive(socket):
    """Tells every message, and the close as this client saw it."""
    try:
        while True:
            data = await socket.recv()
            if isinstance(data, str):
                tell("text", data=data)
            else:
                tell("binary", b64=base64.b64encode(data).decode())
    except ConnectionClosed:
        tell("close", code=socket.close_code, reason=socket.close_reason)


async def obey(order, socket):
    match order["do"]:
        case "text":
            await socket.send(order["data"])
        case "binary":
            await socket.send(base64.b64decode(order["b64"]))
        case "fragments":
            await socket.send(order["parts"])
        case "ping":
            payload = base64.b64decode(order["b64"])
            # Resolves only when a pong with this very payload came back.
            await asyncio.wait_for(await socket.ping(payload), 10)
            tell("pong", b64=order["b64"])
        case "close":
            await socket.close(order["code"], order["reason"])
        case unknown:
            raise ValueError(f"unknown order {unknown}")


async def main(url, arguments="{}"):
    orders = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(orders), sys.stdin
    )
    try:
        # `proxy=None`: a proxy of the environment must not come between us and the server.
        more = json.loads(arguments)
        socket = await connect(url, proxy=None, open_timeout=20, close_timeout=20, **more)
    except InvalidStatus as refused:
        tell("refused", status=refused.response.status_code)
        return
    tell("open")
    receiver = asyncio.create_task(receive(socket))
    while line := await orders.readline():
        try:
            await obey(json.loads(line), socket)
        except ConnectionClosed:
            pass  # The receiver tells the close.
    await socket.close()
    await receiver


asyncio.run(main(*sys.argv[1:]))
