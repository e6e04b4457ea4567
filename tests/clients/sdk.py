"""Centrifugo's SDK for Python under orders: one client of the PyPI package `centrifuge-python`.

Reads one JSON order a line from standard input and prints one JSON event a line; the words of both
are those of `sdk.mjs` and are told in `sdk.rs`. Ends when its input ends. Its arguments are the URL
and a JSON object with options of the client, where `asks` lists what the application is to be asked
for: `token`.
"""

import asyncio
import json
import sys

from centrifuge import (
    CentrifugeError,
    Client,
    ClientEventHandler,
    StreamPosition,
    SubscriptionEventHandler,
    UnauthorizedError,
)
from centrifuge.exceptions import ReplyError

LINE_BYTES_MAX = 8 << 20


def tell(event, **fields):
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


# What the SDK asks its application for is asked of the test, and answered by its order `give`.
asked = []


async def ask(what, channel=None):
    answer = asyncio.get_running_loop().create_future()
    asked.append(answer)
    tell("asks", what=what, channel=channel)
    value = await answer
    return StreamPosition(**value) if what == "state" else value


def give(order):
    answer = asked.pop(0)
    match order.get("failure"):
        case None:
            answer.set_result(order["value"])
        case "unauthorized":
            answer.set_exception(UnauthorizedError())
        case failure:
            answer.set_exception(RuntimeError(failure))


def person(info):
    return {"user": info.user, "client": info.client, "info": info.conn_info}


def publication(pub):
    sender = person(pub.info) if pub.info else None
    return {"data": pub.data, "offset": pub.offset, "from": sender}


def subscribed(context):
    position = context.stream_position
    return {
        "recoverable": context.recoverable,
        "positioned": context.positioned,
        "recovering": context.was_recovering,
        "recovered": context.recovered,
        "position": position and {"offset": position.offset, "epoch": position.epoch},
        "data": context.data,
    }


class OfClient(ClientEventHandler):
    async def on_connecting(self, ctx):
        tell("connecting", code=ctx.code, reason=ctx.reason)

    async def on_connected(self, ctx):
        tell("connected", client=ctx.client, data=ctx.data)

    async def on_disconnected(self, ctx):
        tell("disconnected", code=ctx.code, reason=ctx.reason)

    async def on_error(self, ctx):
        tell("error", code=getattr(ctx.error, "code", None), type=str(ctx.code))

    # Rooms that the client has not asked for itself.

    async def on_subscribing(self, ctx):
        tell("server subscribing", channel=ctx.channel)

    async def on_subscribed(self, ctx):
        tell("server subscribed", channel=ctx.channel, **subscribed(ctx))

    async def on_unsubscribed(self, ctx):
        tell("server unsubscribed", channel=ctx.channel)

    async def on_publication(self, ctx):
        tell("server publication", channel=ctx.channel, **publication(ctx.pub))

    async def on_join(self, ctx):
        tell("server join", channel=ctx.channel, **person(ctx.info))

    async def on_leave(self, ctx):
        tell("server leave", channel=ctx.channel, **person(ctx.info))


class OfRoom(SubscriptionEventHandler):
    def __init__(self, channel):
        self.channel = channel

    async def on_subscribing(self, ctx):
        tell("subscribing", channel=self.channel, code=ctx.code, reason=ctx.reason)

    async def on_subscribed(self, ctx):
        tell("subscribed", channel=self.channel, **subscribed(ctx))

    async def on_unsubscribed(self, ctx):
        tell("unsubscribed", channel=self.channel, code=ctx.code, reason=ctx.reason)

    async def on_publication(self, ctx):
        tell("publication", channel=self.channel, **publication(ctx.pub))

    async def on_join(self, ctx):
        tell("join", channel=self.channel, **person(ctx.info))

    async def on_leave(self, ctx):
        tell("leave", channel=self.channel, **person(ctx.info))

    async def on_error(self, ctx):
        tell("error", channel=self.channel, code=getattr(ctx.error, "code", None), type=str(ctx.code))


def seconds(options):
    """The delays that the test names come in milliseconds and under the names of JavaScript."""
    delay = options.pop("maxServerPingDelay", None)
    return {} if delay is None else {"max_server_ping_delay": delay / 1000}


def make_client(url, given):
    options = json.loads(given)
    asks = options.pop("asks", [])
    if "token" in asks:
        options["get_token"] = lambda: ask("token")
    delays = {"min_reconnect_delay": 0.01, "max_reconnect_delay": 0.1, **seconds(options)}
    # `proxy=None`: a proxy of the environment must not come between us and the server.
    return Client(url, events=OfClient(), proxy=None, **delays, **options)


def subscription(client, channel, options):
    known = client.get_subscription(channel)
    if known:
        return known
    options = dict(options or {})
    asks = options.pop("asks", [])
    if "token" in asks:
        options["get_token"] = lambda channel: ask("token", channel)
    if "state" in asks:
        options["get_state"] = lambda channel: ask("state", channel)
    names = {"joinLeave": "join_leave"}
    options = {names.get(name, name): value for name, value in options.items()}
    delays = {"min_resubscribe_delay": 0.01, "max_resubscribe_delay": 0.1}
    return client.new_subscription(channel, OfRoom(channel), **delays, **options)


async def answer_of(client, order):
    match order["do"]:
        case "publish":
            await client.publish(order["channel"], order["data"])
            return None
        case "presence":
            result = await client.presence(order["channel"])
            return {id: person(one) for id, one in result.clients.items()}
        case "stats":
            result = await client.presence_stats(order["channel"])
            return [result.num_clients, result.num_users]
        case "history":
            since = order.get("since")
            since = since and StreamPosition(since["offset"], since["epoch"])
            how = {"limit": order.get("limit", 0), "reverse": order.get("reverse", False)}
            result = await client.history(order["channel"], since=since, **how)
            publications = [publication(one) for one in result.publications]
            return {"offset": result.offset, "epoch": result.epoch, "publications": publications}
        case "rpc":
            return (await client.rpc(order["method"], order["data"])).data
        case "state":
            channel = order.get("channel")
            return (client.get_subscription(channel) if channel else client).state.value
        case unknown:
            raise ValueError(f"unknown order {unknown}")


async def call(client, order):
    try:
        tell("answer", value=await answer_of(client, order))
    except ReplyError as error:
        tell("refused", code=error.code, message=error.message)
    except CentrifugeError as error:
        tell("refused", message=str(error))


async def obey(client, order):
    match order["do"]:
        case "connect":
            await client.connect()
        case "disconnect":
            await client.disconnect()
        case "subscribe":
            await subscription(client, order["channel"], order.get("options")).subscribe()
        case "unsubscribe":
            await client.get_subscription(order["channel"]).unsubscribe()
        case "forget":
            client.remove_subscription(client.get_subscription(order["channel"]))
        case "give":
            give(order)
        case "all":
            for one in order["orders"]:
                await obey(client, one)
        case _:
            await call(client, order)


async def main(url, given):
    orders = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(orders), sys.stdin
    )
    client = make_client(url, given)
    # The SDK waits inside of some of these for what a later order gives.
    tasks = set()
    while line := await orders.readline():
        task = asyncio.create_task(obey(client, json.loads(line)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await client.disconnect()


asyncio.run(main(*sys.argv[1:]))
