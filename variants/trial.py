"""Check, load and measure an artifact in throw-away processes with limits.

A file from a stranger may crash, hang or exhaust its loader, so nothing else opens it first. The
build measures through the same processes, because memory is only meaningful in a fresh one.

Wire: the parent starts `python -m variants.trial PARENT_PID` and writes one JSON object a line to
its standard input (`check`, `profile`, `load`, `accuracy`); the child answers with lines of
`{"progress": 0.5}` and then `{"result": …}` or `{"error": "…", "code": "…"}`. Scores travel as
base64 of little-endian float32, because the child may not write files.
"""

import base64
import binascii
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from variants import artifact, evaluation, measure, runtimes
from variants.agreement import Likeness, likeness
from variants.errors import ArtifactRejected, TrialCrashed, TrialFailed
from variants.measure import Effort, Progress
from variants.profile import Accuracy, Profile
from variants.spec import ModelSpec
from variants.surroundings import for_child

GIB = 2**30
SAMPLE_ROWS = 64
MAX_ANSWER_BYTES = 1 << 20
MAX_SCORES_BYTES = 1 << 30
"""The longest line that is read of a child, for the file that it loaded may speak through it."""

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What to try.

    `evaluations` are safetensors files by name; all are scored on the fastest runtime, and rows of
    the first one fill the batches whose latency is measured (zeros where there is none).
    `keep_scores` asks for the scores of every row too; without it only their accuracy comes back.
    With `reference_scores`, a file of little-endian float32 `[n, classes]` for the first of them,
    its answers there are held against those.
    """

    path: Path
    spec: ModelSpec
    runtimes: tuple[str, ...]
    evaluations: Mapping[str, Path] = field(default_factory=dict)
    keep_scores: bool = False
    reference_scores: Path | None = None
    threads: int = 1
    effort: Effort = field(default_factory=Effort)
    memory_bytes: int = 8 * GIB
    timeout_s: float = 300.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """Profiles on every runtime that took the file, and accuracy on the fastest of them.

    `runtime` has the lowest median latency at batch 1; `failures` says why others are missing.
    `scores` are the first output by evaluation, `[n, classes] float32`, where they were asked for,
    and `likeness` is that to the reference.
    """

    runtime: str
    profiles: tuple[Profile, ...]
    accuracy: Mapping[str, Accuracy]
    failures: Mapping[str, str]
    scores: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    likeness: Likeness | None = None


_request: TypeAdapter[Request] = TypeAdapter(Request)
_profile: TypeAdapter[Profile] = TypeAdapter(Profile)
_accuracy: TypeAdapter[Accuracy] = TypeAdapter(Accuracy)
_likeness: TypeAdapter[Likeness] = TypeAdapter(Likeness)


def run(
    request: Request,
    progress: Progress = lambda _: None,
    on_start: Callable[[subprocess.Popen[bytes]], None] = lambda _: None,
) -> Result:
    """Check the file, measure it on each runtime and score it on the fastest.

    `on_start` is told of each process as it starts, so that another thread can end the trial by
    killing them. Raises `ArtifactRejected` for a file that is not allowed, that no runtime loads,
    or that ends the process of one: such a file is not kept for the others.
    """
    parts = len(request.runtimes) + len(request.evaluations)
    done = 0

    def part(share: float) -> None:
        progress((done + share) / parts)

    profiles: dict[str, Profile] = {}
    failures: dict[str, str] = {}
    with ExitStack() as stack:
        children: dict[str, _Child] = {}
        for runtime in request.runtimes:
            child = children[runtime] = stack.enter_context(_Child(request, on_start))
            if len(children) == 1:
                _check(child, part)
            try:
                profiles[runtime] = _profile.validate_python(
                    child.call("profile", {"runtime": runtime}, part)
                )
            except ArtifactRejected as error:
                if error.code != "load_failed":
                    raise
                failures[runtime] = str(error)
            except TrialCrashed as error:
                raise ArtifactRejected("load_failed", f"{runtime}: {error}") from error
            except TrialFailed as error:
                failures[runtime] = str(error)
            done += 1
        if not profiles:
            reasons = "; ".join(f"{name}: {why}" for name, why in failures.items())
            raise ArtifactRejected("load_failed", reasons)
        best = min(profiles, key=lambda name: profiles[name].latency_s[1].p50)
        accuracy: dict[str, Accuracy] = {}
        scores: dict[str, NDArray[np.float32]] = {}
        alike: Likeness | None = None
        for name, path in request.evaluations.items():
            answer = children[best].call("accuracy", {"path": str(path)}, part)
            if "likeness" in answer:
                alike = _likeness.validate_python(answer["likeness"])
            accuracy[name] = _accuracy.validate_python(answer["accuracy"])
            if request.keep_scores:
                scores[name] = _decoded(answer["scores"], accuracy[name].n)
            done += 1
    return Result(
        runtime=best,
        profiles=tuple(profiles.values()),
        accuracy=accuracy,
        failures=failures,
        scores=scores,
        likeness=alike,
    )


def scores(
    request: Request, on_start: Callable[[subprocess.Popen[bytes]], None] = lambda _: None
) -> NDArray[np.float32]:
    """What a known artifact answers on the first evaluation, `[n, classes]`; nothing is measured.

    Runs on the first of the runtimes. Raises `ArtifactRejected` or `TrialFailed`.
    """
    path = next(iter(request.evaluations.values()))
    with _Child(replace(request, keep_scores=True), on_start) as child:
        child.call("load", {"runtime": request.runtimes[0]}, lambda _: None)
        answer = child.call("accuracy", {"path": str(path)}, lambda _: None)
    return _decoded(answer["scores"], _accuracy.validate_python(answer["accuracy"]).n)


def _decoded(text: str, rows: int) -> NDArray[np.float32]:
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), "<f4").reshape(rows, -1)
    except (binascii.Error, ValueError) as error:
        raise TrialFailed(f"the scores of {rows} rows are damaged: {error}") from error


def _check(child: "_Child", progress: Progress) -> None:
    """Nothing loads the file before this has passed, so a checker that dies rejects it."""
    try:
        child.call("check", {}, progress)
    except TrialFailed as error:
        raise ArtifactRejected("load_failed", str(error)) from error


class _Child:
    """One throw-away process, driven line by line and killed at the time limit."""

    def __init__(
        self, request: Request, on_start: Callable[[subprocess.Popen[bytes]], None]
    ) -> None:
        self._request = request
        self._on_start = on_start

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "variants.trial", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
        )
        self._watchdog = threading.Timer(self._request.timeout_s, self._process.kill)
        self._watchdog.daemon = True
        self._watchdog.start()
        self._on_start(self._process)
        self._send(_request.dump_python(self._request, mode="json"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._watchdog.cancel()
        self._process.kill()
        self._process.communicate()

    def call(self, operation: str, arguments: dict[str, str], progress: Progress) -> Any:
        """The result of one operation. Raises what the child reported, or `TrialFailed`."""
        self._send({"operation": operation, **arguments})
        assert self._process.stdout is not None
        longest = MAX_SCORES_BYTES if self._request.keep_scores else MAX_ANSWER_BYTES
        while line := self._process.stdout.readline(longest):
            try:
                message = json.loads(line)
            except ValueError:
                break
            if "progress" in message:
                progress(message["progress"])
            elif "error" in message:
                raise ArtifactRejected(message["code"], message["error"])
            else:
                return message["result"]
        self._process.kill()
        status = self._process.wait()
        if not self._watchdog.is_alive():
            raise TrialFailed(f"{operation} did not end within {self._request.timeout_s:g} s")
        raise TrialCrashed(f"the process died during {operation} ({_ending(status)})")

    def _send(self, message: object) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer's end of file says how the process died


def _ending(status: int) -> str:
    """How a process ended, in words."""
    return f"exit status {status}" if status >= 0 else signal.Signals(-status).name


def _environment() -> dict[str, str]:
    """The child's environment: no settings or secrets."""
    return {**for_child(os.environ), "MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "1"}


def _limit(memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))


class _Trial:
    """The child's side."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._session: runtimes.Session | None = None

    def check(self, progress: Progress) -> None:
        found = artifact.check_onnx(self._request.path)
        artifact.check_signature(found, self._request.spec.inputs, self._request.spec.outputs)

    def profile(self, progress: Progress, runtime: str) -> Any:
        self._session, measured = measure.profile(
            runtime,
            self._request.path,
            self._rows(),
            threads=self._request.threads,
            effort=self._request.effort,
            progress=progress,
        )
        self._check_outputs()
        return _profile.dump_python(measured, mode="json")

    def load(self, progress: Progress, runtime: str) -> None:
        self._session = runtimes.find(runtime).load(self._request.path, self._request.threads)

    def accuracy(self, progress: Progress, path: str) -> Any:
        assert self._session is not None, "profile or load comes first"
        rows = evaluation.load(Path(path))
        scores = measure.scores(self._session, rows, progress)
        right = int((scores.argmax(axis=1) == rows.labels).sum())
        answer = {"accuracy": _accuracy.dump_python(Accuracy.of(right, len(scores)), mode="json")}
        if self._request.keep_scores:
            answer["scores"] = base64.b64encode(scores.astype("<f4").tobytes()).decode()
        first = next(iter(self._request.evaluations.values()))
        if self._request.reference_scores is not None and Path(path) == first:
            answer["likeness"] = asdict(self._likeness(scores, self._request.reference_scores))
        return answer

    def _likeness(self, scores: NDArray[np.float32], reference: Path) -> Likeness:
        expected = np.fromfile(reference, "<f4").reshape(len(scores), -1)
        if expected.shape != scores.shape:
            raise ArtifactRejected(
                "signature_mismatch",
                f"the first output on the evaluation set is {list(scores.shape)}, that of the "
                f"reference {list(expected.shape)}",
            )
        classes = self._request.spec.task == "classification"
        return likeness(expected, scores, classes=classes)

    def _rows(self) -> dict[str, runtimes.Tensor]:
        for path in self._request.evaluations.values():
            inputs, _ = next(evaluation.load(path).batches(SAMPLE_ROWS))
            return {name: tensor.copy() for name, tensor in inputs.items()}
        return {t.name: np.zeros((1, *t.shape), t.dtype) for t in self._request.spec.inputs}

    def _check_outputs(self) -> None:
        """Run two rows and hold every output against the model's promise."""
        assert self._session is not None
        rows = {name: np.resize(t, (2, *t.shape[1:])) for name, t in self._rows().items()}
        outputs = self._session.run(rows)
        for spec in self._request.spec.outputs:
            found = outputs.get(spec.name)
            if found is None or found.shape != (2, *spec.shape) or found.dtype.name != spec.dtype:
                seen = "missing" if found is None else f"{found.dtype.name}{list(found.shape)}"
                raise ArtifactRejected(
                    "signature_mismatch",
                    f"output {spec.name!r} of two rows is {seen}, "
                    f"the model promises {spec.dtype}{[2, *spec.shape]}",
                )


def main() -> None:
    """The child: read operations until the input ends, or the parent does."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        return  # the parent ended before the signal was asked for
    # What a library prints must not be taken for an answer, so answers have a stream of their own.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        _serve(lambda message: print(json.dumps(message), file=answers, flush=True))


def _serve(say: Callable[[object], None]) -> None:
    request = _request.validate_json(sys.stdin.readline())
    _limit(request.memory_bytes)
    trial = _Trial(request)
    for line in sys.stdin:
        arguments = json.loads(line)
        operation = getattr(trial, arguments.pop("operation"))
        try:
            say({"result": operation(lambda share: say({"progress": share}), **arguments)})
        except ArtifactRejected as error:
            say({"error": str(error), "code": error.code})
        except Exception as error:  # each runtime has roots of its own: ONNX Runtime's is this one
            words = str(error).replace(str(request.path), "the artifact")
            say({"error": f"{type(error).__name__}: {words}", "code": "load_failed"})


if __name__ == "__main__":
    main()
