"""A stand-in for the Hub on this machine: enough of its interface for the real client to create, upload and download."""

import base64
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants


LARGE = (".safetensors", ".parquet")


class Hub(ThreadingHTTPServer):
    """Repositories in memory.

    Attributes:
        commits: Of each repository its commits in order: id and files.
        tags: Of each repository its tags and their commits.
        created: What was asked for when repositories were created.
        drop_uploads, drop_downloads: How many more transfers of large files break off in the middle.
        full: Whether large files are refused.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.commits: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self.created: list[dict] = []
        self.stored: dict[str, bytes] = {}
        self.drop_uploads = self.drop_downloads = 0
        self.full = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def files(self, repository: str) -> dict[str, bytes]:
        return self.commits[repository][-1][1]

    def environment(self, home: Path) -> dict[str, str]:
        """Settings with which a process takes this for the Hub."""
        return {
            **os.environ, "HF_ENDPOINT": self.url, "HF_TOKEN": "hf_none", "HF_HUB_OFFLINE": "0", "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
        }  # fmt: skip

    @property
    def settings(self) -> dict[str, object]:
        """Constants of huggingface_hub with which a process that has imported it takes this for the Hub."""
        return {
            "ENDPOINT": self.url, "HUGGINGFACE_CO_URL_TEMPLATE": self.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True, "HF_HUB_DISABLE_TELEMETRY": True,
        }  # fmt: skip

    @contextmanager
    def in_this_process(self) -> Iterator[None]:
        """Let the client in this process take this for the Hub."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HF_TOKEN", "hf_none")
            for name, value in self.settings.items():
                patch.setattr(constants, name, value)
            yield

    def preamble(self, cache: Path) -> str:
        """Code that lets a process take this for the Hub, with its downloads in `cache`."""
        return f"""
from huggingface_hub import constants
vars(constants).update({self.settings | {"HF_HUB_CACHE": str(cache)}!r})
"""


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        resolve = re.fullmatch(r"/(?:datasets/|spaces/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if resolve:
            return self.send_file(*resolve.groups())
        api = re.fullmatch(r"/api/(?:models|datasets|spaces)/([^/]+/[^/]+)(?:/(revision|refs|tree)(?:/(.+))?)?", path)
        if not api or api[1] not in self.server.commits:
            return self.answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        repository, what, revision = api.groups()
        if what == "refs":
            tags = [
                {"name": name, "ref": f"refs/tags/{name}", "targetCommit": commit}
                for name, commit in self.server.tags[repository].items()
            ]
            return self.answer({"branches": [], "converts": [], "tags": tags})
        commit, files = self.at(repository, (revision or "main").split("/")[0])
        if what == "tree":
            folder = revision.split("/", 1)[1] if "/" in revision else ""
            return self.answer(
                [
                    {"type": "file", "path": name, "size": len(content), "oid": commit}
                    for name, content in files.items()
                    if name.startswith(folder)
                ]
            )
        return self.answer({"id": repository, "sha": commit, "siblings": [{"rfilename": name} for name in files]})

    def at(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]]:
        commits = dict(self.server.commits[repository])
        commit = self.server.tags[repository].get(revision, revision)
        return (commit, commits[commit]) if commit in commits else self.server.commits[repository][-1]

    def send_file(self, repository: str, revision: str, name: str):
        commit, files = self.at(repository, revision)
        if name not in files:
            return self.answer(
                {"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}
            )
        content = files[name]
        start = int(re.match(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1])
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "HEAD":
            return None
        if name.endswith(LARGE) and self.server.drop_downloads:
            self.server.drop_downloads -= 1
            self.wfile.write(content[start : start + (len(content) - start) // 2])
            self.wfile.flush()
            self.connection.close()
            self.close_connection = True
            return None
        self.wfile.write(content[start:])
        return None

    def do_PUT(self):
        length = int(self.headers["Content-Length"])
        if self.server.drop_uploads:
            self.server.drop_uploads -= 1
            self.rfile.read(length // 2)
            self.connection.close()
            self.close_connection = True
            return
        content = self.rfile.read(length)
        if self.server.full:
            self.answer({"error": "no room"}, 403)
            return
        oid = hashlib.sha256(content).hexdigest()
        if self.path != f"/store/{oid}":
            self.answer({"error": "these are other bytes"}, 400)
            return
        self.server.stored[oid] = content
        self.answer({})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        found = re.search(
            r"/(?:api/(?:models|datasets|spaces)/)?([^/]+/[^/.]+)(?:\.git)?/(preupload|commit|tag|info)(?:/(.+))?$",
            path,
        )
        if path == "/api/repos/create":
            asked = json.loads(body)
            repository = f"{asked.get('organization') or 'lab'}/{asked['name']}"
            self.server.created.append(asked)
            self.server.commits.setdefault(repository, [("0" * 40, {})])
            self.server.tags.setdefault(repository, {})
            kind = {"dataset": "datasets/", "space": "spaces/"}.get(asked.get("type"), "")
            self.answer({"url": f"{self.server.url}/{kind}{repository}", "name": repository})
        elif not found:
            self.answer({"type": "regular"})
        elif found[2] == "preupload":
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self.answer({"files": files})
        elif found[2] == "info":
            objects = json.loads(body)["objects"]
            self.answer({"transfer": "basic", "objects": [self.upload_of(entry) for entry in objects]})
        elif found[2] == "tag":
            self.server.tags[found[1]][json.loads(body)["tag"]] = found[3]
            self.answer({})
        else:
            self.answer(self.commit(found[1], body))

    def upload_of(self, entry: dict) -> dict:
        """Where a large file goes; nowhere if it is here already."""
        if entry["oid"] in self.server.stored:
            return entry
        return {**entry, "actions": {"upload": {"href": f"{self.server.url}/store/{entry['oid']}", "header": {}}}}

    def commit(self, repository: str, body: bytes) -> dict:
        files = dict(self.server.commits[repository][-1][1])
        for line in body.splitlines():
            key, value = (json.loads(line)[name] for name in ("key", "value"))
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.server.stored[value["oid"]]
        oid = hashlib.sha1(body + str(len(self.server.commits[repository])).encode()).hexdigest()
        self.server.commits[repository].append((oid, files))
        return {"commitUrl": f"{self.server.url}/{repository}/commit/{oid}", "commitOid": oid, "hookOutput": ""}

    def answer(self, content, status: int = 200, headers: dict | None = None):
        text = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(text)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def log_message(self, *_):
        """Quiet."""


@contextmanager
def stand_in() -> Iterator[Hub]:
    server = Hub()
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
