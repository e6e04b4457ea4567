"""Calls of the HTTP API under orders, by the PyPI packages `cent` and `requests`.

Started with the URL of the API and its key. Reads one JSON order a line from standard input and
prints one JSON event a line, as told in `driven.rs`. Ends when its input ends.
"""

import asyncio
import json
import sys

import cent
import requests


def tell(event, **fields):
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def request_of(call, params):
    """`publish` becomes a `PublishRequest`; the commands of a batch are requests themselves."""
    name = "".join(word.title() for word in call.split("_")) + "Request"
    if call == "batch":
        commands = [request_of(*command) for command in params.pop("commands")]
        params["requests"] = commands
    return getattr(cent, name)(**params)


def told(result):
    """What the library has made of an answer. The types of replies are lost when a batch is dumped
    as a whole."""
    if isinstance(result, cent.BatchResult):
        return [reply.model_dump(exclude_none=True) for reply in result.replies]
    return result.model_dump(exclude_none=True)


class Backend:
    def __init__(self, url, key):
        self.url, self.key = url, key
        self.client = cent.Client(url, key, timeout=20)
        # No proxy of the environment must come between us and the server.
        self.client._session._session.trust_env = False
        self.session = requests.Session()
        self.session.trust_env = False

    def sync(self, call, params):
        return getattr(self.client, call)(request_of(call, params))

    def asynchronous(self, call, params):
        async def run():
            client = cent.AsyncClient(self.url, self.key, timeout=20)
            try:
                return await getattr(client, call)(request_of(call, params))
            finally:
                await client.close()

        return asyncio.run(run())

    def requests(self, order):
        """A plain POST; several `parts` go out as chunks."""
        data = order["body"].encode() if "body" in order else (p.encode() for p in order["parts"])
        headers = {"Authorization": f"apikey {self.key}"}
        url = f"{self.url}/{order['call']}"
        answer = self.session.post(url, data=data, headers=headers, timeout=20)
        tell("answer", status=answer.status_code, text=answer.text)

    def obey(self, order):
        if order["do"] == "requests":
            self.requests(order)
            return
        run = {"cent": self.sync, "cent_async": self.asynchronous}[order["do"]]
        try:
            tell("result", result=told(run(order["call"], order["params"])))
        except cent.CentApiResponseError as error:
            tell("error", code=error.code, message=error.message)
        except cent.CentError as error:
            tell("failed", type=type(error).__name__, cause=repr(error.__cause__))


backend = Backend(*sys.argv[1:])
for line in sys.stdin:
    backend.obey(json.loads(line))
