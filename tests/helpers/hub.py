"""A stand-in for the hub of Hugging Face: the requests of `huggingface_hub` for an upload over plain HTTP."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import huggingface_hub
import pytest

PREFIXES = {"models": "", "datasets": "datasets/"}
GOOD, READ_ONLY = "hf_good", "hf_readonly"


@dataclass
class Hub:
    """The repositories, and how it misbehaves.

    Attributes:
        url: its address.
        repos: ``models/OWNER/NAME`` -> whether it is private.
        files: ``models/OWNER/NAME@BRANCH`` -> path -> content.
        commits: the messages of the commits.
        fails: end of a path -> the status with which requests to it are answered.
        uploaded: the number of large files that were sent.
    """

    url: str = ""
    repos: dict[str, bool] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    fails: dict[str, int] = field(default_factory=dict)
    uploaded: int = 0
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._handle(self._get)

    def do_POST(self) -> None:
        self._handle(self._post)

    def do_PUT(self) -> None:
        self._handle(self._put)

    def _handle(self, act: Any) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        path = self.path.split("?")[0].strip("/")
        self.hub.requests.append(path)
        failed = next((status for part, status in self.hub.fails.items() if part in path), None)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if failed is not None:
            self._answer(failed, {"error": "as the test wants it"})
        elif token not in (GOOD, READ_ONLY) and not path.startswith("objects"):
            self._answer(401, {"error": "Invalid username or password."})
        elif token == READ_ONLY and self.command == "POST" and path != "api/validate-yaml":
            self._answer(403, {"error": "Forbidden"})
        else:
            act(path)

    def _get(self, path: str) -> None:
        if path == "api/whoami-v2":
            return self._answer(200, {"name": "me", "type": "user"})
        repo = path.removeprefix("api/")
        if repo not in self.hub.repos:
            return self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        name = repo.split("/", 1)[1]
        return self._answer(200, {"id": name, "modelId": name, "private": self.hub.repos[repo], "sha": "0" * 40})

    def _post(self, path: str) -> None:
        hub, url = self.hub, self.hub.url
        if path == "api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if path.endswith(".git/info/lfs/objects/batch"):
            asked = json.loads(self.body)["objects"]
            missing = [o for o in asked if o["oid"] not in hub.objects]
            for o in missing:
                o["actions"] = {"upload": {"href": f"{url}/objects/{o['oid']}"}}
            return self._answer(200, {"transfer": "basic", "objects": asked})
        if path == "api/repos/create":
            given = json.loads(self.body)
            kind = f"{given.get('type') or 'model'}s"
            name = f"{given.get('organization') or 'me'}/{given['name']}"
            hub.repos[f"{kind}/{name}"] = given.get("visibility", "public") == "private" or bool(given.get("private"))
            return self._answer(200, {"url": f"{url}/{PREFIXES[kind]}{name}"})
        _, kind, owner, name, verb, branch = path.split("/")
        repo = f"{kind}/{owner}/{name}"
        if verb == "branch":
            hub.files.setdefault(f"{repo}@{branch}", {})
            return self._answer(200, {})
        if verb == "preupload":
            paths = [f["path"] for f in json.loads(self.body)["files"]]
            modes = {p: "lfs" if p.endswith((".safetensors", ".parquet")) else "regular" for p in paths}
            files = [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes.items()]
            return self._answer(200, {"files": files})
        assert verb == "commit"
        lines = [json.loads(line) for line in self.body.splitlines()]
        changed = {}
        for line in lines[1:]:
            value = line["value"]
            of_file = base64.b64decode(value["content"]) if line["key"] == "file" else hub.objects[value["oid"]]
            changed[value["path"]] = of_file
        hub.files.setdefault(f"{repo}@{branch}", {}).update(changed)
        hub.commits.append(lines[0]["value"]["summary"])
        commit = f"{url}/{PREFIXES[kind]}{owner}/{name}/commit/{'1' * 40}"
        return self._answer(200, {"success": True, "commitOid": "1" * 40, "commitUrl": commit})

    def _put(self, path: str) -> None:
        oid = path.removeprefix("objects/")
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.hub.objects[oid] = self.body
        self.hub.uploaded += 1
        self._answer(200, {})

    def _answer(self, status: int, content: Any, headers: Any = ()) -> None:
        text = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(text), **dict(headers)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(text)


@contextmanager
def open_hub() -> Iterator[Hub]:
    """A hub on this machine, until the end of the block."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def used_hub(folder: Path) -> Iterator[Hub]:
    """The same, with `huggingface_hub` using it and no other, with a token that may write; `folder` has none."""
    with open_hub() as opened, pytest.MonkeyPatch.context() as patch:
        constants = {"ENDPOINT": opened.url, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}
        for name, value in constants.items():
            patch.setattr(huggingface_hub.constants, name, value)
        patch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(folder / "no-token"))
        patch.setenv("HF_TOKEN", GOOD)
        huggingface_hub.close_session()
        yield opened
        huggingface_hub.close_session()
