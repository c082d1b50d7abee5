"""A W&B server on loopback: what W&B's own client needs of one, with the failures that a real one has.

It keeps runs as the real one does: a file stream's chunk replaces a file from its offset on, so that a client which
begins at 0 erases what was there. What it is asked beyond that, it answers with 404, so that a test sees it.
"""

import base64
import json
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from tests.support.wandb_artifacts import OPERATIONS, ArtifactShelf

KEY = "local-" + "0123456789abcdef" * 2 + "01234567"


@dataclass
class Run:
    """What the server holds of a run."""

    name: str
    display_name: str = ""
    group: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    sweep: str = ""


@dataclass(frozen=True)
class Faults:
    """How it fails: shares of all requests."""

    refuse: float = 0.0  # 500, 502, 503
    limit: float = 0.0  # 429
    hang: float = 0.0  # no answer for `hang_seconds`, then the connection closes
    hang_seconds: float = 3.0
    after_taking: bool = False  # refuse once the data is taken, as a proxy that times out does


class WandbServer:
    """The server, with a state that outlives a restart."""

    def __init__(self, faults: Faults = Faults(), seed: int = 0):
        self.runs: dict[str, Run] = {}
        self.artifacts = ArtifactShelf()
        self.faults = faults
        self.counts: dict[str, int] = {}
        self.unknown: list[str] = []
        self.forbidden: set[str] = set()  # runs that the key may not touch
        self.sweep_config = ""
        self.agent_commands: list[dict[str, Any]] = []  # handed out one a heartbeat
        self._chance = random.Random(seed)
        self._lock = threading.RLock()
        self._server: ThreadingHTTPServer | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        """What W&B's client reads."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "WANDB_MODE": "online"}

    def start(self) -> None:
        outer = self

        class Handler(_Handler):
            server_state = outer

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> "WandbServer":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def count(self, what: str) -> None:
        with self._lock:
            self.counts[what] = self.counts.get(what, 0) + 1

    def fault(self) -> str:
        """How the next request fails, '' where it does not."""
        with self._lock:
            draw = self._chance.random()
        for kind in ("refuse", "limit", "hang"):
            share = getattr(self.faults, kind)
            if draw < share:
                self.count(kind)
                return kind
            draw -= share
        return ""

    def answer(self, query: str, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """The data of a GraphQL answer; None for what this server does not know."""
        with self._lock:
            for name, method in _OPERATIONS.items():
                if f" {name} " in query or f" {name}(" in query:
                    return method(self, values)
            for name, answer in OPERATIONS.items():
                if f" {name} " in query or f" {name}(" in query:
                    return answer(self.artifacts, self.url, values)
        return None

    def stream(self, run: str, body: Mapping[str, Any]) -> None:
        """Take a chunk of a run's files."""
        with self._lock:
            one = self.runs[run]
            for name, chunk in body.get("files", {}).items():
                offset, lines = chunk["offset"], [_parse(line) for line in chunk["content"]]
                if name == "wandb-history.jsonl":
                    assert offset <= len(one.history), f"a gap in {run}: {offset} after {len(one.history)}"
                    one.history[offset:] = lines
                elif name == "wandb-summary.json":
                    one.summary = lines[-1]
            if body.get("complete"):
                one.exit_code = body.get("exitcode")

    def _viewer(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}
        }

    def _upsert(self, values: Mapping[str, Any]) -> dict[str, Any]:
        name = values["name"]
        inserted = name not in self.runs
        run = self.runs.setdefault(name, Run(name))
        if values.get("config"):
            config = json.loads(values["config"])
            run.config = {key: entry["value"] for key, entry in config.items() if key != "_wandb"}
        run.display_name = values.get("displayName") or run.display_name
        run.group = values.get("groupName") or run.group
        run.tags = values.get("tags") or run.tags
        run.sweep = values.get("sweep") or run.sweep
        # The count is that of a forked run's origin; of a run begun anew it is none, and its first row is row 0.
        bucket = self._bucket(run, values["project"]) | {"historyLineCount": None}
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _resume(self, values: Mapping[str, Any]) -> dict[str, Any]:
        run = self.runs.get(values["name"])
        project = values["project"]
        bucket = None if run is None else self._bucket(run, project)
        return {"model": {"id": "p", "name": project, "entity": {"name": "me", "id": "e"}, "bucket": bucket}}

    def _run_lines(self, values: Mapping[str, Any]) -> dict[str, Any]:
        run = self.runs.get(values["name"])
        found = None if run is None else {"id": run.name, "historyLineCount": len(run.history)}
        return {"project": {"run": found}}

    def _files(self, values: Mapping[str, Any]) -> dict[str, Any]:
        places = [{"name": name, "uploadUrl": f"{self.url}/storage/{name}"} for name in values["files"]]
        return {"createRunFiles": {"runID": values["run"], "uploadHeaders": [], "files": places}}

    def _sweep(self, values: Mapping[str, Any]) -> dict[str, Any]:
        sweep = {"id": "s", "name": values["sweep"], "method": "grid", "state": "RUNNING", "controller": None}
        sweep |= {"config": self.sweep_config, "description": "", "scheduler": None, "runs": {"edges": []}}
        return {"project": {"sweep": sweep}}

    def _agent(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {"createAgent": {"agent": {"id": "a"}}}

    def _heartbeat(self, values: Mapping[str, Any]) -> dict[str, Any]:
        idle = not any(state == "running" for state in json.loads(values["runState"]).values())
        next_one = [self.agent_commands.pop(0)] if idle and self.agent_commands else []
        return {"agentHeartbeat": {"agent": {"id": "a"}, "commands": json.dumps(next_one)}}

    def _bucket(self, run: Run, project: str) -> dict[str, Any]:
        tail = [json.dumps(run.history[-1])] if run.history else []
        return {
            "id": run.name,
            "name": run.name,
            "displayName": run.display_name,
            "description": "",
            "config": json.dumps({key: {"value": value} for key, value in run.config.items()}),
            "sweepName": run.sweep or None,
            "project": {"id": "p", "name": project, "entity": {"id": "e", "name": "me"}},
            "historyLineCount": len(run.history),
            "eventsLineCount": 0,
            "logLineCount": 0,
            "historyTail": json.dumps(tail),
            "eventsTail": "[]",
            "summaryMetrics": json.dumps(run.summary),
            "tags": run.tags,
            "wandbConfig": json.dumps({"t": 1}),
            "isDeleted": False,
        }


_OPERATIONS = {
    "Viewer": WandbServer._viewer,
    "UpsertBucket": WandbServer._upsert,
    "RunResumeStatus": WandbServer._resume,
    "MirrorRunLines": WandbServer._run_lines,
    "CreateRunFiles": WandbServer._files,
    "SweepWithRuns": WandbServer._sweep,
    "CreateAgent": WandbServer._agent,
    "Heartbeat": WandbServer._heartbeat,
}


class _Handler(BaseHTTPRequestHandler):
    server_state: WandbServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *words: object) -> None:
        pass

    def do_POST(self) -> None:
        state = self.server_state
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if "/otel/" in self.path:
            return self._reply(200, b"")
        fault = state.fault()
        if fault and not (state.faults.after_taking and fault == "refuse"):
            return self._fail(fault)
        if self.path == "/graphql":
            if self.headers.get("authorization") != _basic(KEY):
                return self._json({"errors": [{"message": "invalid API key"}]}, 401)
            asked = json.loads(body)
            if (asked.get("variables") or {}).get("name") in state.forbidden:
                return self._json({"errors": [{"message": "permission denied"}]}, 403)
            data = state.answer(asked["query"], asked.get("variables") or {})
            if data is None:
                state.unknown.append(asked["query"].strip().splitlines()[0])
                return self._json({"errors": [{"message": "unknown to this server"}]}, 404)
            state.count("graphql")
            return self._fail(fault) if fault else self._json({"data": data})
        if self.path.endswith("/file_stream"):
            state.stream(self.path.split("/")[-2], json.loads(body))
            state.count("file_stream")
            return self._fail(fault) if fault else self._json({})
        state.unknown.append(self.path)
        return self._reply(404, b"")

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers.get("content-length") or 0))
        state = self.server_state
        if fault := state.fault():
            return self._fail(fault)
        folder, _, path = unquote(self.path).lstrip("/").partition("/")
        if folder == "artifacts":
            state.count("artifact_file")
            if not state.artifacts.put(path, content):
                return self._reply(404, b"")
        return self._reply(200, b"")

    def _fail(self, kind: str) -> None:
        if kind == "hang":
            time.sleep(self.server_state.faults.hang_seconds)
            self.close_connection = True
            return None
        code = 429 if kind == "limit" else random.choice((500, 502, 503))
        return self._reply(code, b"refused", {"Retry-After": "1"} if code == 429 else {})

    def _json(self, value: Any, code: int = 200) -> None:
        self._reply(code, json.dumps(value).encode())

    def _reply(self, code: int, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _basic(key: str) -> str:
    return "Basic " + base64.b64encode(f"api:{key}".encode()).decode()


def _parse(line: str) -> Any:
    return json.loads(line)
