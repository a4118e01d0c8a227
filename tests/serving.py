"""A web server on this machine that serves a folder by ranges, counts what is asked of it, and can be told to misbehave."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class Served:
    """What was asked, and how to answer."""

    root: Path
    url: str = ""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and range of each request."""
    num_bytes: int = 0
    """Sent in bodies."""
    refused: dict[str, int] = field(default_factory=dict)
    """Status to answer with, by the beginning of the path."""
    failures: int = 0
    """How many of the next requests to answer with 503."""
    needs: str = ""
    """Header ``Authorization`` of whom it serves."""
    torn: int = 0
    """How many of the next bodies break off in their middle."""
    ranges: bool = True
    delay_s: float = 0.0

    def clear(self) -> None:
        self.asked.clear()
        self.num_bytes = 0

    def gets(self, part: str = "") -> list[tuple[str, str, str]]:
        return [one for one in self.asked if one[0] == "GET" and part in one[1]]


@contextmanager
def served(root: Path) -> Iterator[Served]:
    """Serves ``root`` until the block ends. Folders are not listed."""
    state = Served(root)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            asked = self.headers.get("Range", "")
            with lock:
                state.asked.append((self.command, path, asked))
                failing = state.failures > 0
                state.failures -= failing
            time.sleep(state.delay_s)
            file = root / path.lstrip("/").removeprefix("datasets/owner/name/resolve/main/")
            status = 503 if failing else next((s for p, s in state.refused.items() if path.startswith(p)), 200)
            if state.needs not in ("", self.headers.get("Authorization")):
                status = 401
            if status == 200 and path.startswith("/api/datasets/owner/name"):
                self._describe(path)
                return
            if status != 200 or not file.is_file():
                self.send_response(status if status != 200 else 404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            data = file.read_bytes()
            size = len(data)
            if asked and state.ranges:
                first, _, last = asked.removeprefix("bytes=").partition("-")
                data = data[int(first) : int(last) + 1]
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{int(first) + len(data) - 1}/{size}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{size}-{file.stat().st_mtime_ns}"')
            self.end_headers()
            if body:
                with lock:
                    state.num_bytes += len(data)
                    torn = state.torn > 0
                    state.torn -= torn
                self.wfile.write(data[: len(data) // 2] if torn else data)
                self.close_connection = torn

        def _describe(self, path: str) -> None:
            """What the Hugging Face Hub says of the dataset repository ``owner/name``: its root, or what a folder holds."""
            inner = path.partition("/tree/main")[2]
            folder = root / inner.strip("/")
            deep = "recursive=True" in self.path or "recursive=true" in self.path
            found: object = {"id": "owner/name", "sha": "0" * 40, "siblings": [], "tags": [], "private": False}
            if inner or path.endswith("/tree/main"):
                found = [
                    {
                        "type": "directory" if one.is_dir() else "file",
                        "oid": f"{one.stat().st_mtime_ns:040d}",
                        "size": 0 if one.is_dir() else one.stat().st_size,
                        "path": one.relative_to(root).as_posix(),
                    }
                    for one in sorted(folder.rglob("*") if deep else folder.iterdir() if folder.is_dir() else ())
                ]
            missing = isinstance(found, list) and not folder.is_dir()
            data = json.dumps({} if missing else found).encode()
            self.send_response(404 if missing else 200)
            if missing:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
