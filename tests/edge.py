"""A gateway for tests that only send requests: models of every kind, and a count of what was sent.

with running_edge(folder) as edge:
    edge.infer(b'{"model": "tiny", "inputs": [1, 2, 3, 4]}')
"""

import collections
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests import models, world
from tests.raw import Answer, Connection, ask, request
from variants.data_folder import DataFolder, open_data_folder

TRIED: collections.Counter[str] = collections.Counter()
LIMITS = {
    "GEARSHIFT_HEAD_TIMEOUT_S": "1",
    "GEARSHIFT_BODY_TIMEOUT_S": "1",
    "GEARSHIFT_MAX_BODY_BYTES": str(4 << 20),
    "GEARSHIFT_MAX_LATENCY_S": "20",
    "GEARSHIFT_BAD_KEYS_PER_S": "1e6",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Edge:
    """A running gateway with models of every kind, its data folder and a key of each scope."""

    gateway: world.Gateway
    data_dir: Path
    keys: dict[str, str]

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.gateway.port

    @property
    def key(self) -> str:
        """A key with every scope."""
        return self.gateway.key

    def send(self, kind: str, data: bytes) -> Answer:
        """Send bytes on a new connection, counted under `kind`; the answer is never 500 or 502."""
        TRIED[kind] += 1
        answer = ask(self.port, data)
        assert answer.status not in (500, 502), (data[:400], answer.body[:400])
        return answer

    def infer(
        self, body: bytes, headers: dict[str, str] | None = None, *, kind: str = "infer"
    ) -> Answer:
        """POST a body to /infer."""
        given = [] if headers is None else list(headers.items())
        return self.send(kind, request("POST", "/infer", body, key=self.key, headers=given))

    def connect(self, kind: str) -> Connection:
        """A new connection, counted under `kind`."""
        TRIED[kind] += 1
        return Connection(self.port)

    def assert_alive(self) -> None:
        """The next valid request is answered."""
        answer = self.infer(b'{"model": "tiny", "inputs": [1, 2, 3, 4]}', kind="valid")
        assert answer.status == 200, answer.body


@contextlib.contextmanager
def running_edge(folder: Path) -> Iterator[Edge]:
    """`tiny` (fp32, int8 and the inactive `old`), `picture`, `fashion`, `pair` and `patient`."""
    data_dir = folder / "data"
    with open_data_folder(data_dir) as data:
        _publish(data, folder)
        keys = {scope: world.make_key(data, scope) for scope in ("infer", "read", "metrics")}
        key = world.make_key(data)
    with world.gateway(data_dir, key, env=LIMITS) as gateway:
        yield Edge(gateway=gateway, data_dir=data_dir, keys=keys)
        noise = [line for line in gateway.log if "Traceback" in line or '"bug"' in line]
        assert not noise, "".join(noise)[-4000:]


def _publish(data: DataFolder, folder: Path) -> None:
    tiny = {
        "fp32": models.tiny_onnx(folder / "tiny.onnx"),
        "int8": models.tiny_onnx(folder / "int8.onnx", seed=3),
        "old": models.tiny_onnx(folder / "old.onnx", seed=4),
    }
    world.publish(data, models.tiny_spec(), models.tiny_evaluation(100, wrong=10), tiny)
    for state in ("draining", "inactive"):
        data.registry.move("tiny", "old", state, actor="test", reason="retired")
    fashion = {
        name: models.picture_onnx(folder / f"fashion-{name}.onnx", side=2, seed=seed)
        for seed, name in enumerate(("fp32", "int8"))
    }
    world.publish(data, models.picture_spec("fashion", side=2), None, fashion)
    picture = models.picture_onnx(folder / "picture.onnx")
    world.publish(data, models.picture_spec(), None, {"fp32": picture})
    world.publish(data, models.pair_spec(), None, {"fp32": models.pair_onnx(folder / "pair.onnx")})
    patient = models.patient_onnx(folder / "patient.onnx")
    world.publish(data, models.patient_spec(), None, {"fp32": patient})
