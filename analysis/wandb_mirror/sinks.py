"""W&B as a target: runs written to a folder (offline) or to a server (online), with W&B's own client.

Offline, a run is one complete folder. A new one is written beside the old one and replaces it, so that no
second segment can erase the first (wandb#5865), and `wandb sync` always sends the whole run.
Online, an epoch is sent once its trial has ended or has a checkpoint of it, so that sent rows seldom have to
change. Rows are appended if the server has exactly the rows that the cursor records as pushed, and these equal the
store's; otherwise the run is rewritten from its first row, which replaces the run in W&B.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import requests
import requests.utils

from mixsweep.analysis.wandb_mirror.client import log_rows, make_artifact, start_run
from mixsweep.analysis.wandb_mirror.payload import ArtifactContent, RunContent
from mixsweep.core.errors import UserError
from mixsweep.core.scratch import scratch_folder
from mixsweep.core.store.files import write_bytes

_CURSOR = "mirror.json"
_ANSWER_SECONDS = 20.0  # timeout of a query
_UPLOAD_SECONDS = 180.0  # timeout of finishing a run
_ARTIFACT_SECONDS = 3600  # timeout of one artifact: a checkpoint can be large, and a connection slow
_SETTLE_SECONDS = 15.0  # how long a server may take to count the rows that it received
_RETRIES = 8  # of W&B's client, per request, with increasing waits

_VIEWER = "query Viewer { viewer { id entity username } }"
_RUN_LINES = """
query MirrorRunLines($project: String!, $entity: String, $name: String!) {
  project(name: $project, entityName: $entity) { run(name: $name) { id historyLineCount } }
}"""

# The field by which W&B's client itself looks up an artifact (`name:alias`).
_ARTIFACT = """
query MirrorArtifact($project: String!, $entity: String, $name: String!) {
  project(name: $project, entityName: $entity) { artifact(name: $name) { digest state } }
}"""


class MirrorError(UserError):
    """W&B cannot be used: no key, a refused key, or no server."""


class TransientError(Exception):
    """A push that failed for now; a later one repeats it."""


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """The record of what has been pushed of a run. Derived: without it the run is rewritten.

    Args:
        fingerprint: of the run without its artifact.
        artifact: the fingerprint of the artifact that was pushed with it, '' for none.
        digests: of its rows.
    """

    fingerprint: str = ""
    artifact: str = ""
    digests: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> "Cursor":
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                fingerprint=str(values["fingerprint"]),
                artifact=str(values.get("artifact", "")),
                digests=tuple(values["digests"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return cls()

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, json.dumps(vars(self)).encode())

    @classmethod
    def of(cls, run: RunContent) -> "Cursor":
        artifact = run.artifact.fingerprint if run.artifact else ""
        return cls(fingerprint=run.fingerprint, artifact=artifact, digests=run.digests)

    def covers(self, run: RunContent) -> bool:
        """Whether all of a run has been pushed; one without an artifact says nothing about an earlier one."""
        is_same = self.fingerprint == run.fingerprint
        return is_same and (run.artifact is None or self.artifact == run.artifact.fingerprint)


class Sink(Protocol):
    """A target of runs. `only_settled`: send no epochs that may be trained again, since sent rows should not change."""

    only_settled: bool

    def is_current(self, run: RunContent) -> bool:
        """Whether the target already has exactly this run.

        Raises:
            TransientError: the target does not answer.
        """

    def push(self, run: RunContent) -> int:
        """Push this run to the target; return the number of rows sent.

        Raises:
            TransientError: the push failed for now.
        """

    def close(self) -> None:
        """Release the target's resources."""


class OfflineSink:
    """Runs as folders that `wandb sync` uploads later, from a machine with internet access.

    Args:
        folder: holds `offline-run-…` folders, one per run.
    """

    only_settled = False

    def __init__(self, folder: Path, project: str, entity: str | None = None):
        self._folder = folder
        self._project = project
        self._entity = entity

    def path_of(self, run: RunContent) -> Path:
        """A run's folder. W&B's tools expect a time in its name; it is a constant, so that the name never changes."""
        return self._folder / f"offline-run-20000101_000000-{run.run_id}"

    def files_of(self, run: RunContent) -> Path:
        """The folder for a copy of an artifact's files: its run refers to them by path until `wandb sync`."""
        assert run.artifact is not None
        return (self._folder / "artifacts" / run.run_id / run.artifact.fingerprint).absolute()

    def is_current(self, run: RunContent) -> bool:
        # The cursor is in the run's own folder, so that neither exists without the other.
        path = self.path_of(run)
        written = (path / f"run-{run.run_id}.wandb").is_file()
        if not written or not Cursor.read(path / _CURSOR).covers(run):
            return False
        names = run.artifact.files if run.artifact else ()
        return all((self.files_of(run) / name).is_file() for name in names)

    def push(self, run: RunContent) -> int:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self.path_of(run)
        for left in self._folder.glob(f".*-{run.run_id}"):  # from a mirror that was killed
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=".writing-", dir=self._folder) as beside:
            one = start_run(run, self._project, self._entity, Path(beside), mode="offline")
            log_rows(one, run, run.rows)
            if run.artifact is not None:
                one.log_artifact(make_artifact(run.artifact, self._copied_files(run)))
            one.finish(exit_code=run.exit_code)
            (written,) = Path(beside).glob(f"wandb/offline-run-*-{run.run_id}")
            for scratch in ("logs", "tmp"):
                shutil.rmtree(written / scratch, ignore_errors=True)
            Cursor.of(run).write(written / _CURSOR)
            former = self._folder / f".former-{run.run_id}"
            with suppress(FileNotFoundError):
                os.rename(path, former)
            os.rename(written, path)
            shutil.rmtree(former, ignore_errors=True)
        self._remove_former_files(run)
        return len(run.rows)

    def _remove_former_files(self, run: RunContent) -> None:
        """Remove the copies of files to which the previous run referred."""
        own = self.files_of(run) if run.artifact else None
        for other in (self._folder / "artifacts" / run.run_id).glob("*"):
            if other.absolute() != own:
                shutil.rmtree(other, ignore_errors=True)

    def _copied_files(self, run: RunContent) -> dict[str, Path]:
        assert run.artifact is not None
        folder = self.files_of(run)
        for name, file in run.artifact.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(file, bytes):
                write_bytes(folder / name, file)
            else:
                _link(file, folder / name)
        return {name: folder / name for name in run.artifact.files}

    def close(self) -> None:
        pass


class OnlineSink:
    """Runs on a W&B server.

    Args:
        cursors: a folder for cursors, derived.

    Raises:
        MirrorError: there is no key, it is refused, or the server does not answer.
    """

    only_settled = True

    def __init__(self, cursors: Path, project: str, entity: str | None = None):
        os.environ["WANDB_SILENT"] = "true"  # no messages from the client; the mirror reports errors itself
        import wandb

        known = wandb.setup().settings
        self.url = str(known.base_url).rstrip("/")
        key = known.api_key or os.environ.get("WANDB_API_KEY") or _netrc_key(self.url)
        if not key:
            raise MirrorError(
                f"W&B: no API key for {self.url}; set WANDB_API_KEY or run `wandb login`, "
                "or mirror with --offline"
            )
        os.environ["WANDB_API_KEY"] = key  # else the client searches and reports where it found it
        self._auth = ("api", key)
        self._project = project
        viewer = self._ask(_VIEWER, {}, at_start=True).get("viewer")
        if not viewer:
            raise MirrorError(f"W&B: {self.url} refuses the API key; run `wandb login --relogin`")
        self._entity = entity or known.entity or viewer["entity"]
        self._cursors = cursors / f"{self.url.partition('//')[2].replace(':', '-')}-{self._entity}-{project}"
        self._at_the_end = ExitStack()
        self._scratch = self._at_the_end.enter_context(scratch_folder("sweep-mirror-"))

    def is_current(self, run: RunContent) -> bool:
        if not Cursor.read(self._cursor_path(run)).covers(run):
            return False
        if self._lines(run) != len(run.rows):  # a run may have been deleted on the server
            return False
        if run.artifact is None:
            return True
        with self._artifact_of(run.artifact) as artifact:
            return self._newest(artifact.name) == artifact.digest

    def push(self, run: RunContent) -> int:
        import wandb

        known = Cursor.read(self._cursor_path(run))
        pushed = len(known.digests)
        adds = 0 < pushed == self._lines(run) and run.digests[:pushed] == known.digests
        new = run.rows[pushed:] if adds else run.rows
        try:
            one = start_run(
                run,
                self._project,
                self._entity,
                self._scratch,
                mode="online",
                resume="must" if adds else None,
                **self._patience(run),
            )
            log_rows(one, run, new)
            if run.artifact is not None:
                self._upload(one, run.artifact)
            one.finish(exit_code=run.exit_code)
        except (wandb.Error, OSError) as error:
            raise TransientError(_one_line(error)) from error
        except Exception as error:  # the service's own exceptions are not public
            if type(error).__module__.partition(".")[0] != "wandb":
                raise
            raise TransientError(_one_line(error)) from error
        self._wait_for(run)
        Cursor.of(run).write(self._cursor_path(run))
        return len(new)

    def close(self) -> None:
        self._at_the_end.close()

    @contextmanager
    def _artifact_of(self, content: ArtifactContent) -> Iterator[Any]:
        """W&B's artifact of this content, whose files exist until the end of the block."""
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            paths = {}
            for name, file in content.files.items():
                paths[name] = file if isinstance(file, Path) else Path(folder) / name
                if isinstance(file, bytes):
                    paths[name].write_bytes(file)
            yield make_artifact(content, paths)

    def _upload(self, one: Any, content: ArtifactContent) -> None:
        """Upload an artifact; W&B makes no second version of the same files, even from another run."""
        with self._artifact_of(content) as artifact:
            try:
                one.log_artifact(artifact).wait(timeout=_ARTIFACT_SECONDS)
            except ValueError as error:  # raised by W&B if its server did not accept the artifact
                one.finish(exit_code=1)
                raise TransientError(f"artifact {content.name}: {_one_line(error)}") from error

    def _newest(self, name: str) -> str:
        """The digest of the newest version of an artifact on the server, '' if it has none."""
        values = {"project": self._project, "entity": self._entity, "name": f"{name}:latest"}
        found = ((self._ask(_ARTIFACT, values).get("project") or {}).get("artifact")) or {}
        return str(found.get("digest")) if found.get("state") == "COMMITTED" else ""

    def _patience(self, run: RunContent) -> dict[str, Any]:
        patience: dict[str, Any] = {
            "init_timeout": 60.0,
            "finish_timeout": _UPLOAD_SECONDS,
            "finish_timeout_raises": True,
        }
        for kind in ("graphql", "file_stream", "file_transfer"):
            patience[f"x_{kind}_retry_max"] = _RETRIES
            patience[f"x_{kind}_retry_wait_min_seconds"] = 0.2
            patience[f"x_{kind}_retry_wait_max_seconds"] = 10.0
            patience[f"x_{kind}_timeout_seconds"] = _ANSWER_SECONDS
        if run.artifact is not None:
            patience["x_file_transfer_timeout_seconds"] = _ARTIFACT_SECONDS
        return patience

    def _wait_for(self, run: RunContent) -> None:
        """Wait until the server has all rows: W&B's client does not report rows that it gave up on."""
        end = time.monotonic() + _SETTLE_SECONDS
        while (lines := self._lines(run)) != len(run.rows):
            if time.monotonic() > end:
                raise TransientError(
                    f"the server has {max(0, lines)} of {len(run.rows)} epochs of run {run.run_id}"
                )
            time.sleep(0.5)

    def _lines(self, run: RunContent) -> int:
        """The number of rows of a run on the server; -1 if there is no such run."""
        values = {"project": self._project, "entity": self._entity, "name": run.run_id}
        found = ((self._ask(_RUN_LINES, values).get("project") or {}).get("run")) or {}
        return int(found.get("historyLineCount") or 0) if found else -1

    def _cursor_path(self, run: RunContent) -> Path:
        return self._cursors / f"{run.run_id}.json"

    def _ask(self, query: str, values: Mapping[str, Any], at_start: bool = False) -> dict[str, Any]:
        """Query the server; temporary errors are retried with increasing waits."""
        problem = ""
        for attempt in range(3 if at_start else _RETRIES):
            if attempt:
                time.sleep(min(10.0, 0.2 * 2**attempt))
            try:
                answer = requests.post(
                    f"{self.url}/graphql",
                    json={"query": query, "variables": dict(values)},
                    auth=self._auth,
                    timeout=_ANSWER_SECONDS,
                )
            except requests.RequestException as error:
                problem = f"no answer ({type(error).__name__})"
                continue
            if answer.status_code == 403 and not at_start:  # the key is good: this run or project is not ours
                raise TransientError(f"{self.url} refuses this run (403)")
            if answer.status_code in (401, 403):
                raise MirrorError(f"W&B: {self.url} refuses the API key; run `wandb login --relogin`")
            if answer.ok:
                with suppress(ValueError):
                    return answer.json().get("data") or {}
            problem = f"answers {answer.status_code}"
        if at_start:
            raise MirrorError(
                f"W&B: {self.url}: {problem}; check the network and WANDB_BASE_URL, or mirror with --offline"
            )
        raise TransientError(f"{self.url}: {problem}")


def _link(source: Path, target: Path) -> None:
    """Make a file appear a second time: as a hard link, where the file system has them, else as a copy."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _netrc_key(url: str) -> str:
    found = requests.utils.get_netrc_auth(url)
    return found[1] if found else ""


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
