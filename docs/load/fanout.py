"""Members join rooms, a back end publishes by the HTTP API, and every delivery is accounted for.

    python3 fanout.py [--members 500] [--rooms 5] [--rate 20] [--secs 10]

Needs PyPI's websockets. A delay counts from the moment when the publication was due. Ends with
status 1 when a publication is missing, repeated or out of order, or was refused.
"""
import argparse
import asyncio
import http.client
import json
import sys
import time
from urllib.parse import quote, urlsplit

from websockets.asyncio.client import connect


class Member:
    """One connection in one room, and what it was given."""

    def __init__(self, room):
        self.room = room
        self.next_offset = None
        self.received = 0
        self.wrong = 0
        self.delays_ms = []

    async def run(self, url, gate, joined):
        url += ("&" if urlsplit(url).query else "?") + f"format=json&room={quote(self.room)}"
        async with gate:
            socket = await connect(url, open_timeout=30, compression=None)
        try:
            async for text in socket:
                now, envelope = time.time(), json.loads(text)
                if "joined" in envelope:
                    self.next_offset = envelope["joined"]["offset"] + 1
                    joined.release()
                elif publication := envelope.get("publication"):
                    self.wrong += publication["offset"] != self.next_offset
                    self.next_offset = publication["offset"] + 1
                    self.received += 1
                    self.delays_ms.append((now - publication["data"]["due"]) * 1000)
        finally:
            await socket.close()


def publish_all(options, rooms, answered):
    """Publishes `--rate` times a second to every room; runs in a thread of its own."""
    api = urlsplit(options.api)
    connection = http.client.HTTPConnection(api.hostname, api.port or 80, timeout=30)
    headers = {"X-API-Key": options.key} if options.key else {}
    begin, pad = time.time(), "x" * options.size
    for number in range(int(options.rate * options.secs)):
        due = begin + number / options.rate
        time.sleep(max(0, due - time.time()))
        for room in rooms:
            body = json.dumps({"channel": room, "data": {"due": due, "pad": pad}})
            try:
                connection.request("POST", api.path, body, headers)
                is_taken = b'"result"' in connection.getresponse().read()
            except (OSError, http.client.HTTPException):
                connection.close()
                is_taken = False
            answered["result" if is_taken else "error"] += 1
    return time.time() - begin


async def main(options):
    rooms = [f"load:{time.time_ns()}:{number}" for number in range(options.rooms)]
    members = [Member(rooms[number % len(rooms)]) for number in range(options.members)]
    gate, joined = asyncio.Semaphore(100), asyncio.Semaphore(0)
    tasks = [asyncio.create_task(member.run(options.url, gate, joined)) for member in members]
    ready = asyncio.gather(*(joined.acquire() for _ in members))
    await asyncio.wait([asyncio.ensure_future(ready), *tasks], return_when=asyncio.FIRST_COMPLETED)
    if not ready.done():
        ready.cancel()
        raise next(task for task in tasks if task.done()).exception() or SystemExit("closed early")
    answered = {"result": 0, "error": 0}
    took = await asyncio.to_thread(publish_all, options, rooms, answered)

    expected = answered["result"] * len(members) // len(rooms)
    deadline = time.time() + 10
    while sum(member.received for member in members) < expected and time.time() < deadline:
        await asyncio.sleep(0.05)
    for task in tasks:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    closed = sum(not isinstance(end, asyncio.CancelledError) for end in ends)

    received = sum(member.received for member in members)
    wrong = sum(member.wrong for member in members)
    delays = sorted(delay for member in members for delay in member.delays_ms) or [0.0]
    print(f"members {len(members)} rooms {len(rooms)} closed early {closed}")
    print(f"published {answered['result']} refused {answered['error']} in {took:.1f} s")
    print(f"deliveries {received} of {expected}, out of order {wrong}")
    print("delay ms p50 {:.1f} p99 {:.1f} max {:.1f}".format(
        *(delays[int(share * (len(delays) - 1))] for share in (0.5, 0.99, 1))))
    return received == expected and not (wrong or closed or answered["error"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--url", default="ws://127.0.0.1:7777/ws")
    parser.add_argument("--api", default="http://127.0.0.1:7778/api/publish")
    parser.add_argument("--key", help="API key")
    parser.add_argument("--members", type=int, default=500, help="a multiple of --rooms")
    parser.add_argument("--rooms", type=int, default=5)
    parser.add_argument("--rate", type=float, default=20, help="publications a second and room")
    parser.add_argument("--secs", type=float, default=10)
    parser.add_argument("--size", type=int, default=64, help="bytes of padding")
    parsed = parser.parse_args()
    if parsed.members % parsed.rooms:
        parser.error("--members must be a multiple of --rooms")
    sys.exit(not asyncio.run(main(parsed)))
