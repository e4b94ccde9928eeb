"""A small server of the OpenAI protocol on loopback, with faults on demand."""

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

MODEL = "tiny"


@dataclass
class Fault:
    """What the server does in place of an answer.

    Attributes:
        status: of the response; None closes the connection without one.
        body: the response's body, as it is if it is a text.
        headers: further headers.
        wait: is called before anything is sent.
    """

    status: int | None = 500
    body: Any = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    wait: Callable[[], object] = lambda: None


@dataclass
class Served:
    """A running server.

    Attributes:
        answer: from the body of a request to the text of the answer; an answer that is no text is the whole response.
        url: its base URL.
        faults: one for each of the next requests; None is an answer.
        chat: whether it has chat completions.
        models: the names of its models.
        asked: the bodies of all POST requests, each with its path.
        keys: the Authorization headers.
        most: the most requests that were there at the same time.
        waits: is called while an answer is made.
    """

    answer: Callable[[dict[str, Any]], Any]
    url: str = ""
    faults: "deque[Fault | None]" = field(default_factory=deque)
    chat: bool = True
    models: tuple[str, ...] = (MODEL,)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    most: int = 0
    now: int = 0
    waits: Callable[[], object] = lambda: None
    lock: Any = field(default_factory=Lock)

    @property
    def said(self) -> list[str]:
        """The last message or the prompt of each request."""
        return [body["messages"][-1]["content"] if "messages" in body else body["prompt"] for _, body in self.asked]


@contextmanager
def serving(answer: Callable[[dict[str, Any]], Any], **settings: Any) -> Iterator[Served]:
    """A server on a free port of loopback."""
    served = Served(answer, **settings)

    class Handler(_Handler):
        state = served

    server = _Server(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that has gone is no error of the test."""


class _Handler(BaseHTTPRequestHandler):
    state: Served
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            listed = [{"id": name, "object": "model"} for name in self.state.models]
            self._send(200, {"object": "list", "data": listed})
        else:
            self._send(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        served = self.state
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with served.lock:
            served.now += 1
            served.most = max(served.most, served.now)
            served.asked.append((self.path, body))
            served.keys.append(self.headers.get("Authorization", ""))
            fault = served.faults.popleft() if served.faults else None
        try:
            self._respond(body, fault)
        finally:
            with served.lock:
                served.now -= 1

    def _respond(self, body: dict[str, Any], fault: Fault | None) -> None:
        if fault is not None:
            fault.wait()
            if fault.status is None:
                self.close_connection = True
                return
            self._send(fault.status, fault.body, fault.headers)
            return
        paths = {"/v1/completions"} | ({"/v1/chat/completions"} if self.state.chat else set())
        if self.path not in paths:
            self._send(404, {"detail": "Not Found"})
            return
        if body["model"] not in self.state.models:
            self._send(404, {"error": {"message": f"The model `{body['model']}` does not exist.", "code": 404}})
            return
        self.state.waits()
        text = self.state.answer(body)
        if not isinstance(text, str):
            self._send(200, text)
            return
        said: dict[str, Any] = {"text": text}
        if "messages" in body:
            said = {"message": {"role": "assistant", "content": text}}
        self._send(200, {"model": body["model"], "choices": [{"index": 0, "finish_reason": "stop", **said}]})

    def _send(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        content = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
