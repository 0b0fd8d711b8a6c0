"""A small Hugging Face hub on this machine, which takes uploads, with faults to order."""

import base64
import hashlib
import json
import os
import re
import socket
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def commit(revision: str) -> str:
    return hashlib.sha1(revision.encode()).hexdigest()


class Request(BaseHTTPRequestHandler):
    """Answers what `snapshot_download` and `upload_folder` ask: which commit, which files, their headers, their content."""

    hub: "FakeHub"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: object) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            if name.replace("_", "-") != self.hub.without:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str | None = None) -> None:
        self.answer(status, **({"X-Error-Code": code} if code else {}))

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.hub.requests.append(f"{self.command} {path}")
        for pattern, left, fault in self.hub.faults:
            if re.search(pattern, self.hub.requests[-1]) and left:
                left.pop()
                return fault(self)
        self.serve(path)

    do_HEAD = do_POST = do_PUT = do_GET

    def receive(self, path: str, body: bytes) -> None:
        """Take an upload: which files are large, where these go, and the commit that names all files."""
        hub, reply = self.hub, {"url": f"{self.hub.address}/{self.hub.name}"}
        if "/preupload/" in path:
            asked = json.loads(body)["files"]
            modes = [(file["path"], "lfs" if file["path"].endswith((".pt", ".npz")) else "regular") for file in asked]
            reply = {"files": [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes]}
        elif path.endswith("/objects/batch"):
            objects = [
                one | {"actions": {"upload": {"href": f"{hub.address}/large/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            reply = {"transfer": "basic", "objects": objects}
        elif path.startswith("/large/"):
            hub.large[path.rpartition("/")[2]] = body
        elif "/commit/" in path:
            for kind, value in ((one["key"], one["value"]) for one in map(json.loads, body.splitlines())):
                if kind != "header":
                    file = hub.folders["main"] / value["path"]
                    file.parent.mkdir(parents=True, exist_ok=True)
                    content = hub.large[value["oid"]] if kind == "lfsFile" else base64.b64decode(value["content"])
                    file.write_bytes(content)
            reply = {"commitUrl": f"{hub.address}/{hub.name}/commit/1", "commitOid": commit("main")}
        else:
            hub.settings.append(json.loads(body))
        self.answer(200, json.dumps(reply).encode(), Content_Type="application/json")

    def serve(self, path: str) -> None:
        hub = self.hub
        if self.command in ("POST", "PUT"):
            return self.receive(path, self.rfile.read(int(self.headers["Content-Length"])))
        if found := re.fullmatch(rf"/api/models/{hub.name}/(revision|tree)/([^/]+)", path):
            if found[2] not in (*hub.folders, *map(commit, hub.folders)):
                return self.refuse(404, "RevisionNotFound")
            revision = hub.revision(found[2])
            content = {"id": hub.name, "sha": commit(revision)} if found[1] == "revision" else hub.files(revision)
            return self.answer(200, json.dumps(content).encode(), Content_Type="application/json")
        if found := re.fullmatch(rf"/{hub.name}/resolve/([^/]+)/(.+)", path):
            return self.file(hub.folders[hub.revision(found[1])] / found[2], found[1])
        if found := re.fullmatch(r"/elsewhere/([^/]+)/(.+)", path):
            return self.answer(200, (hub.folders[hub.revision(found[1])] / found[2]).read_bytes())
        self.refuse(404, "RepoNotFound")

    def file(self, path: Path, sha: str) -> None:
        if not path.is_file():
            return self.refuse(404, "EntryNotFound")
        body = path.read_bytes()
        etag = f'"{hashlib.sha256(body).hexdigest()}"'
        if self.hub.stores_elsewhere and path.suffix == ".safetensors":
            where = f"{self.hub.address.replace('127.0.0.1', 'localhost')}/elsewhere/{sha}/{path.name}"
            linked = {"X_Linked_Size": len(body), "X_Linked_ETag": etag, "X_Repo_Commit": sha}
            return self.answer(302, Location=where, **linked)
        self.answer(200, body, ETag=etag, X_Repo_Commit=sha)


class FakeHub:
    """Serves and receives one model; `requests` lists what was asked of it."""

    def __init__(self, name: str, **folders: Path) -> None:
        self.name, self.folders = name, folders
        self.requests: list[str] = []
        self.settings: list[dict] = []  # of repositories that were asked for, and cards to check
        self.large: dict[str, bytes] = {}
        self.faults: list[tuple[str, list, Callable[[Request], None]]] = []
        self.without = ""  # a header that is never sent
        self.stores_elsewhere = False  # whether weights are answered with the address of another store
        self.closing = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("OfThisHub", (Request,), {"hub": self}))
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # a client that is killed is part of the tests
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()

    def revision(self, text: str) -> str:
        return next(name for name in self.folders if text in (name, commit(name)))

    def files(self, revision: str) -> list[dict]:
        folder = self.folders[revision]
        return [
            {"type": "file", "path": path.relative_to(folder).as_posix(), "size": path.stat().st_size, "oid": "0" * 40}
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ]

    def fail(self, pattern: str, fault: Callable[[Request], None], times: int = 10**4) -> None:
        """Answer requests such as "GET /org/name/resolve/main/config.json" with a fault."""
        self.faults.append((pattern, [None] * times, fault))


def status(number: int, code: str | None = None) -> Callable[[Request], None]:
    return lambda request: request.refuse(number, code)


def silence(request: Request) -> None:
    """Take the request and do not answer for as long as any test waits."""
    request.hub.closing.wait(30)


def _head(request: Request) -> None:
    request.send_response(200)
    request.send_header("Content-Length", "100000")
    request.end_headers()


def trickle(request: Request) -> None:
    """Send a byte now and then, which no timeout of a single read notices."""
    _head(request)
    for _ in range(300):
        request.wfile.write(b"x")
        request.hub.closing.wait(0.1)


def reset(request: Request) -> None:
    """Break the connection in the middle of a file, as a router does that was switched off."""
    _head(request)
    request.wfile.write(b"x" * 5000)
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(request.connection.detach())


def hang_up(request: Request) -> None:
    """Close the connection in the middle of a file, as a server does that is restarted."""
    _head(request)
    request.wfile.write(b"x" * 5000)
