"""Load on a roomcast daemon from locust: rooms that a back end publishes to, and echoes.

    locust -f locustfile.py --headless -u 101 -r 50 -t 15s --host ws://127.0.0.1:7777 --only-summary Member BackEnd
    locust -f locustfile.py --headless -u 50 -r 50 -t 10s --host ws://127.0.0.1:7777 --only-summary Echo

Needs PyPI's locust and websocket-client. `ROOMCAST_API` is where calls go, `ROOMCAST_TOKEN` and
`ROOMCAST_API_KEY` are sent where they are set. A delivery that is missing, repeated or out of order
is a failure, and locust then ends with status 1.
"""
import json
import os
import time
import urllib.request

from locust import User, constant, constant_throughput, task
from websocket import WebSocketTimeoutException, create_connection

API = os.environ.get("ROOMCAST_API", "http://127.0.0.1:7778/api/publish")
ROOM = f"load:{time.time_ns()}"


class WebSocketUser(User):
    """Opens a WebSocket, and tells locust how long things took."""

    abstract = True
    path = ""

    def on_start(self):
        self.socket = None
        token = os.environ.get("ROOMCAST_TOKEN")
        headers = [f"Authorization: Bearer {token}"] if token else []
        begin = time.perf_counter()
        try:
            self.socket = create_connection(self.host + self.path, timeout=10, header=headers)
        except Exception as error:
            self.tell("connect", begin, error=error)
            self.stop()
        else:
            self.tell("connect", begin)

    def on_stop(self):
        if self.socket:
            self.socket.close()

    def tell(self, name, begin, length=0, error=None, now=None):
        took_ms = ((now or time.perf_counter()) - begin) * 1000
        self.environment.events.request.fire(
            request_type="ws", name=name, response_time=took_ms, response_length=length,
            exception=error, context={})


class Echo(WebSocketUser):
    """Sends and waits for the answer, ten times a second."""

    path = "/echo"
    wait_time = constant_throughput(10)

    @task
    def echo(self):
        text, begin, error = "x" * 64, time.perf_counter(), None
        try:
            self.socket.send(text)
            if self.socket.recv() != text:
                error = ValueError("another text came back")
        except Exception as failure:
            error = failure
        self.tell("echo", begin, len(text), error)
        if error:
            self.stop()


class Member(WebSocketUser):
    """Is in the room, and checks that offsets follow each other."""

    path = f"/ws?format=json&room={ROOM}"
    wait_time = constant(0)

    def on_start(self):
        self.offset = None
        super().on_start()

    @task
    def receive(self):
        self.socket.settimeout(1)
        try:
            text = self.socket.recv()
        except WebSocketTimeoutException:
            return  # Nothing was published.
        except Exception as error:
            self.tell("delivery", time.perf_counter(), error=error)
            return self.stop()
        now, envelope = time.time(), json.loads(text or '{"closing": {}}')
        if joined := envelope.get("joined"):
            self.offset = joined["offset"]
        elif publication := envelope.get("publication"):
            self.offset += 1
            error = None
            if publication["offset"] != self.offset:
                error = ValueError("an offset is missing or repeated")
                self.offset = publication["offset"]
            self.tell("delivery", publication["data"]["sent"], len(text), error, now)
        else:
            self.tell("delivery", now, error=ValueError(text or "closed"), now=now)
            self.stop()


class BackEnd(User):
    """Publishes to the room by the HTTP API, twenty times a second. There is one."""

    fixed_count = 1
    wait_time = constant_throughput(20)

    @task
    def publish(self):
        body = {"channel": ROOM, "data": {"sent": time.time(), "text": "x" * 64}}
        headers = {"X-API-Key": os.environ.get("ROOMCAST_API_KEY", "")}
        request = urllib.request.Request(API, json.dumps(body).encode(), headers)
        begin, error, answer = time.perf_counter(), None, b""
        try:
            answer = urllib.request.urlopen(request, timeout=10).read()
            if b'"result"' not in answer:
                error = ValueError(answer.decode())
        except Exception as failure:
            error = failure
        self.environment.events.request.fire(
            request_type="api", name="publish", response_time=(time.perf_counter() - begin) * 1000,
            response_length=len(answer), exception=error, context={})
