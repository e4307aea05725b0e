"""A stand-in of the Hugging Face hub: what its interface answers, from a directory of files."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from univfast.inputs.hub import fetch

_API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)/(revision|tree)/([^/?]+)")
_FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Hub:
    """What is there: directories by ``models/org/name``; and what was asked for."""

    url: str
    repos: dict[str, Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    broken: bool = False
    asked: list[str] = field(default_factory=list)

    def commit(self, repo: str) -> str:
        return hashlib.sha1(repo.encode()).hexdigest()

    def files(self, repo: str) -> list[str]:
        root = self.repos[repo]
        return sorted(str(x.relative_to(root)) for x in root.rglob("*") if x.is_file())


@contextmanager
def hub() -> Iterator[Hub]:
    """A hub that answers within the block."""
    there = Hub("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def log_message(self, *args: object) -> None:
            """Nothing on stderr."""

        def _answer(self, body: bool) -> None:
            there.asked.append(self.path)
            status, headers, content = self._found()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def _found(self) -> tuple[int, dict[str, str], bytes]:
            path = self.path.partition("?")[0]
            if there.broken:
                return 503, {}, b""
            if api := _API.match(path):
                repo, kind, revision = f"{api[1]}/{api[2]}", api[3], api[4]
            elif file := _FILE.match(path):
                repo, kind, revision = (
                    f"{'datasets' if file[1] else 'models'}/{file[2]}",
                    "",
                    file[3],
                )
            else:
                return 404, {}, b""
            if repo in there.gated:
                return 403, {"X-Error-Code": "GatedRepo"}, b""
            if repo not in there.repos:
                return 401, {"X-Error-Code": "RepoNotFound"}, b""
            commit = there.commit(repo)
            if revision not in ("main", "v1", commit):
                return 404, {"X-Error-Code": "RevisionNotFound"}, b""
            if kind:
                return 200, {"Content-Type": "application/json"}, self._listed(repo, kind, commit)
            content = (there.repos[repo] / file[4]).read_bytes() if file else b""
            etag = hashlib.sha1(content).hexdigest()
            return 200, {"X-Repo-Commit": commit, "ETag": f'"{etag}"'}, content

        def _listed(self, repo: str, kind: str, commit: str) -> bytes:
            files, root = there.files(repo), there.repos[repo]
            name = repo.partition("/")[2]
            if kind == "revision":
                siblings = [{"rfilename": file} for file in files]
                return json.dumps({"id": name, "sha": commit, "siblings": siblings}).encode()
            sizes = {file: (root / file).stat().st_size for file in files}
            entries = [
                {"type": "file", "path": file, "size": size, "oid": "0" * 40}
                for file, size in sizes.items()
            ]
            return json.dumps(entries).encode()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    there.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield there
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def asked_instead(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Hub]:
    """A hub that the library asks within the block, with an empty cache."""
    from huggingface_hub import constants

    with hub() as found:
        template = "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", found.url + template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        fetch.cache_clear()
        yield found
        fetch.cache_clear()
