"""Uploading a prepared data set with the real Hub client, to a stand-in for the Hub on this machine."""

import base64
import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from cell2text.data.card import push_to_hub

from .test_prepare import make_file


class Hub(BaseHTTPRequestHandler):
    """The few calls of the Hub's interface that an upload makes; every file travels inside the commit."""

    files: dict[str, bytes] = {}
    created: list[dict] = []

    def do_GET(self):
        self.answer({"sha": "0" * 40, "siblings": [], "id": "lab/cells"})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            self.created.append(json.loads(body))
            self.answer({"url": f"http://{self.headers['Host']}/datasets/lab/cells", "name": "lab/cells"})
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            self.answer({"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]})
        elif "/commit/" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            url = f"http://{self.headers['Host']}/datasets/lab/cells/commit/{'1' * 40}"
            self.answer({"commitUrl": url, "commitOid": "1" * 40, "hookOutput": ""})
        else:
            self.answer({"type": "regular"})

    def answer(self, content):
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        """Quiet."""


def test_the_whole_folder_arrives_and_nothing_else(tmp_path):
    make_file(tmp_path / "a.h5ad")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    settings = {
        **os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_TOKEN": "hf_none", "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1",
    }  # fmt: skip
    out = tmp_path / "out"
    command = [sys.executable, "-m", "cell2text", "prepare", str(tmp_path / "a.h5ad"), "--out", str(out), "--quiet"]
    command += ["--split", "random", "--push-to-hub", "lab/cells"]
    done = subprocess.run(command, capture_output=True, text=True, env=settings)
    server.shutdown()
    assert done.returncode == 0, done.stderr[-3000:]
    assert "/datasets/lab/cells" in done.stdout
    expected = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert Hub.files == expected and "data/train-00000.parquet" in expected and "README.md" in expected
    assert Hub.created[0]["type"] == "dataset" and Hub.created[0]["name"] == "cells"


def test_an_unfinished_folder_is_not_uploaded(tmp_path):
    with pytest.raises(ValueError, match="is no finished data set: it has no report.json"):
        push_to_hub(tmp_path, "lab/cells")
