"""Artifacts of the loopback W&B server: versions, their manifests, and the files that were put for them."""

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

_MOMENT = "2026-01-01T00:00:00Z"


@dataclass
class Version:
    """A version of an artifact; it counts once it is committed."""

    id: str
    name: str
    kind: str
    digest: str
    run: str
    metadata: dict[str, Any]
    state: str = "PENDING"
    entries: dict[str, str] = field(
        default_factory=dict
    )  # by file of the artifact, the MD5 that was announced
    puts: dict[str, bytes] = field(default_factory=dict)  # what was put, the manifest among it


class ArtifactShelf:
    """What a server holds of artifacts, as the real one does.

    A second version of the same digest is not made. A commit needs a manifest and every file that it names, with
    the bytes that it says: from this version or, as the manifest then says, from the one that the file was born in.
    """

    def __init__(self) -> None:
        self.versions: list[Version] = []
        self.made = 0  # those that were deleted, too
        self.full = False  # then it takes no new one
        self.lock = threading.RLock()

    def latest(self, name: str) -> Version | None:
        """The newest committed version of a name."""
        found = [one for one in self.versions if one.name == name and one.state == "COMMITTED"]
        return found[-1] if found else None

    def files(self, name: str) -> dict[str, bytes]:
        """The files of a name's newest version, by its manifest."""
        version = self.latest(name)
        assert version is not None
        return {path: self._bytes_of(version, path, entry) for path, entry in _contents(version).items()}

    def put(self, path: str, content: bytes) -> bool:
        """Take a file; False where nobody was told to put it there."""
        number, _, name = path.partition("/")
        with self.lock:
            for version in self.versions:
                if version.id == _id_of(number):
                    version.puts[name] = content
                    return True
        return False

    def create(self, url: str, values: Mapping[str, Any]) -> dict[str, Any] | None:
        if self.full:
            return None
        wanted = values["input"]
        name = wanted["artifactCollectionName"]
        with self.lock:
            latest = self.latest(name)
            known = [v for v in self.versions if (v.name, v.digest) == (name, wanted["digest"])]
            if known:
                version = known[-1]
                self.versions.remove(version)  # its alias `latest` moves to it
            else:
                self.made += 1
                version = Version(
                    id=_id_of(str(self.made)),
                    name=name,
                    kind=wanted["artifactTypeName"],
                    digest=wanted["digest"],
                    run=wanted["runName"],
                    metadata=json.loads(wanted["metadata"] or "{}"),
                )
            self.versions.append(version)
        sequence = {"latestArtifact": {"id": latest.id} if latest else None}
        made = {"id": version.id, "state": version.state, "artifactSequence": sequence}
        return {"createArtifact": {"artifact": made}}

    def manifest(self, url: str, values: Mapping[str, Any]) -> dict[str, Any]:
        version = self._version(values["artifactID"])
        file: dict[str, Any] = {"id": f"file-{version.id}"}
        if values["includeUpload"]:
            file |= {"uploadUrl": _url(url, version, values["name"]), "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": f"m-{version.id}", "file": file}}}

    def places(self, url: str, values: Mapping[str, Any]) -> dict[str, Any]:
        edges = []
        for wanted in values["input"]["artifactFiles"]:
            version = self._version(wanted["artifactID"])
            version.entries[wanted["name"]] = wanted["md5"]
            node = {
                "storagePath": wanted["name"],
                "uploadUrl": _url(url, version, wanted["name"]),
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": version.id},
            }
            edges.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def commit(self, url: str, values: Mapping[str, Any]) -> dict[str, Any]:
        version = self._version(values["artifactID"])
        for path, entry in _contents(version).items():
            assert _md5(self._bytes_of(version, path, entry)) == entry["digest"], path
        version.state = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": version.id, "digest": version.digest}}}

    def by_id(self, url: str, values: Mapping[str, Any]) -> dict[str, Any]:
        version = self._version(values["id"])
        entity = {"name": "me"}
        project = {"id": "p", "internalId": "p", "name": "mixsweep", "entity": entity}
        sequence = {"__typename": "ArtifactSequence", "name": version.name, "project": project}
        node = {
            "__typename": "Artifact",
            "id": version.id,
            "artifactSequence": sequence,
            "versionIndex": 0,
            "artifactType": {"name": version.kind},
            "description": None,
            "metadata": json.dumps(version.metadata),
            "ttlDurationSeconds": -2,
            "ttlIsInherited": True,
            "tags": [],
            "historyStep": None,
            "state": version.state,
            "size": sum(map(len, version.puts.values())),
            "digest": version.digest,
            "commitHash": "c",
            "fileCount": len(version.entries),
            "createdAt": _MOMENT,
            "updatedAt": _MOMENT,
            "aliases": [],
        }
        return {"artifact": node}

    def by_name(self, url: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """What the mirror asks, and W&B's client, which asks for the type."""
        version = self.latest(values["name"].removesuffix(":latest"))
        if version is None:
            return {"project": {"artifact": None}}
        kind = {"name": version.kind}
        return {
            "project": {"artifact": {"digest": version.digest, "state": version.state, "artifactType": kind}}
        }

    def features(self, url: str, values: Mapping[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _version(self, artifact_id: str) -> Version:
        (version,) = [one for one in self.versions if one.id == artifact_id]
        return version

    def _bytes_of(self, version: Version, path: str, entry: Mapping[str, Any]) -> bytes:
        return self._version(entry.get("birthArtifactID") or version.id).puts[path]


Operation = Callable[[ArtifactShelf, str, Mapping[str, Any]], dict[str, Any] | None]

OPERATIONS: dict[str, Operation] = {
    "ServerFeaturesQuery": ArtifactShelf.features,
    "ArtifactType": ArtifactShelf.by_name,
    "MirrorArtifact": ArtifactShelf.by_name,
    "CreateArtifact": ArtifactShelf.create,
    "CreateArtifactManifest": ArtifactShelf.manifest,
    "CreateArtifactFiles": ArtifactShelf.places,
    "CommitArtifact": ArtifactShelf.commit,
    "ArtifactByID": ArtifactShelf.by_id,
}


def _contents(version: Version) -> dict[str, Any]:
    contents: dict[str, Any] = json.loads(version.puts["wandb_manifest.json"])["contents"]
    return contents


def _id_of(number: str) -> str:
    """As the real ids: W&B's client takes them apart."""
    return base64.b64encode(f"Artifact:{number}".encode()).decode()


def _url(url: str, version: Version, name: str) -> str:
    return f"{url}/artifacts/{base64.b64decode(version.id).decode().partition(':')[2]}/{name}"


def _md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content).digest()).decode()
