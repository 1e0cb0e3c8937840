"""Where a node's agent serves its checkpoints, and how a request shows that it comes from the cluster."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass

from loaders.format.geometry import MANIFEST, MODEL_FILES, TENSOR_INDEX, model_file

MAC_HEADER = "X-Sllm-Mac"

_PATH = re.compile(r"/checkpoints/(?P<digest>[0-9a-f]{64})/(?P<name>[a-z0-9_./]{1,80})")
_PARTITION = re.compile(r"partition_\d{5}\.bin")
_NAMES = frozenset({MANIFEST, TENSOR_INDEX, *map(model_file, MODEL_FILES)})


@dataclass(frozen=True, slots=True)
class PeerPath:
    """A file of a checkpoint; its name is one of those that the format has."""

    digest: str
    name: str

    @classmethod
    def parse(cls, path: str) -> PeerPath | None:
        """Read the path of a request, None for one that names no such file."""
        found = _PATH.fullmatch(path)
        if found is None or not (found["name"] in _NAMES or _PARTITION.fullmatch(found["name"])):
            return None
        return cls(found["digest"], found["name"])

    def __str__(self) -> str:
        return f"/checkpoints/{self.digest}/{self.name}"


def mac(secret: str, path: str) -> str:
    """Sign the path of a request."""
    return hmac.new(secret.encode(), b"sllm-peer\0" + path.encode(), hashlib.sha256).hexdigest()
