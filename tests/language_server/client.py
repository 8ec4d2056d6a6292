"""An editor: starts the server as a process of its own, and speaks the protocol with it."""

import json
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path


class Client:
    """A connection with one server; files are named by their paths."""

    def __init__(self, folder, encoding="utf-16"):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "engine.commands.cli", "--import", "tests.operators", "rules", "lsp"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        self.last = 0
        self.answers, self.told = {}, queue.Queue()
        self.arrived = threading.Condition()
        self.shown = []
        threading.Thread(target=self._read, daemon=True).start()
        capabilities = {
            "general": {"positionEncodings": [encoding]},
            "workspace": {"codeLens": {"refreshSupport": True}},
            "textDocument": {"publishDiagnostics": {"relatedInformation": True}},
        }
        self.capabilities = self.ask("initialize", processId=None, rootUri=folder.as_uri(), capabilities=capabilities)[
            "capabilities"
        ]
        self.tell("initialized")
        self.versions = {}

    def _read(self):
        while True:
            length = 0
            while line := self.process.stdout.readline().strip():
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            if not length:
                return
            message = json.loads(self.process.stdout.read(length))
            if "method" in message:
                if "id" in message:  # a question of the server's, as "look at the lenses again"
                    self._send({"id": message["id"], "result": None})
                self.told.put((message["method"], message.get("params"), time.monotonic()))
            else:
                with self.arrived:
                    self.answers[message["id"]] = message
                    self.arrived.notify_all()

    def _send(self, message):
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self.process.stdin.flush()

    def tell(self, method, **params):
        self._send({"method": method, "params": params})

    def ask(self, method, **params):
        self.last += 1
        self._send({"id": self.last, "method": method, "params": params})
        with self.arrived:
            assert self.arrived.wait_for(lambda: self.last in self.answers, timeout=120), method
        answer = self.answers.pop(self.last)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def next(self, method, where=lambda params: True):
        """The next message of a kind, and when it came."""
        while True:
            name, params, when = self.told.get(timeout=120)
            if name == method and where(params):
                return params, when

    # ------------------------------------------------------------------------------------ files

    def open(self, path, text):
        self.versions[path] = 1
        document = {"uri": path.as_uri(), "languageId": "engine-rules", "version": 1, "text": text}
        self.tell("textDocument/didOpen", textDocument=document)

    def type(self, path, text, line, column):
        """Insert a text at a place that counts from 0."""
        self.versions[path] += 1
        at = {"line": line, "character": column}
        self.tell(
            "textDocument/didChange",
            textDocument={"uri": path.as_uri(), "version": self.versions[path]},
            contentChanges=[{"range": {"start": at, "end": at}, "text": text}],
        )

    def replace(self, path, text):
        self.versions[path] += 1
        self.tell(
            "textDocument/didChange",
            textDocument={"uri": path.as_uri(), "version": self.versions[path]},
            contentChanges=[{"text": text}],
        )

    def diagnostics(self, path, version=None):
        """What is said of a version of a file in the end: mistakes, or what the linter finds."""
        wanted = self.versions[path] if version is None else version

        def own(params):
            return params["uri"] == path.as_uri() and params.get("version") == wanted

        found = self.next("textDocument/publishDiagnostics", own)[0]["diagnostics"]
        if found:
            return found
        return self.next("textDocument/publishDiagnostics", own)[0]["diagnostics"]

    def answer(self, path):
        """What the checker says of a file as it is now, and when that came; the linter's findings come after it."""

        def own(params):
            return params["uri"] == path.as_uri() and params.get("version") == self.versions[path]

        params, when = self.next("textDocument/publishDiagnostics", own)
        return params["diagnostics"], when

    def at(self, method, path, line, column, **more):
        place = {"line": line, "character": column}
        return self.ask(f"textDocument/{method}", textDocument={"uri": path.as_uri()}, position=place, **more)

    def close(self):
        self.ask("shutdown")
        self.tell("exit")
        assert self.process.wait(timeout=60) == 0
