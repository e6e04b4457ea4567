"""Lets `roomcast verify`, which speaks no TLS, reach a listener that speaks nothing else.

A program of its own, so that what verify measures does not wait for the other clients. Its
arguments are the port of the daemon and the file of the authority; it prints the port that it
listens on, and ends with its input, not by a key that ends the soak.
"""

import asyncio
import signal
import ssl
import sys

PIECE_BYTES = 64 * 1024
HALF_SECS = 5


async def serve(reader, writer, port, tls):
    """Each connection becomes one with TLS. Resets go through as resets."""
    ends = [writer]
    try:
        inner, outer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=tls, server_hostname="localhost"
        )
        ends.append(outer)
        flows = [asyncio.create_task(pump(*flow)) for flow in [(reader, outer), (inner, writer)]]
        done, _ = await asyncio.wait(flows, return_when=asyncio.FIRST_COMPLETED)
        if not any(flow.exception() for flow in done):
            # What is under way in the other direction has a while to arrive.
            await asyncio.wait(flows, timeout=HALF_SECS)
        for flow in flows:
            flow.cancel()
        await asyncio.gather(*flows, return_exceptions=True)
    except OSError:
        pass
    finally:
        for end in ends:
            end.transport.abort()


async def pump(reader, writer):
    """Copies until the stream ends, and passes its end on; one that breaks breaks the other."""
    while piece := await reader.read(PIECE_BYTES):
        writer.write(piece)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
    else:
        # TLS has no half of a stream here: what was written leaves before the end.
        writer.close()


async def main(port, authority):
    tls = ssl.create_default_context(cafile=authority)
    served = set()

    def accepted(reader, writer):
        if not server.is_serving():
            writer.transport.abort()
            return
        # The loop alone would forget a task that waits.
        task = asyncio.create_task(serve(reader, writer, int(port), tls))
        served.add(task)
        task.add_done_callback(served.discard)

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()
    for task in served:
        task.cancel()
    await asyncio.gather(*served, return_exceptions=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(main(*sys.argv[1:]))
