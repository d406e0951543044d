"""A student whose blocks, depth and width are searched for under a bound on measured latency.

1. For each kind of block and each depth, the widest student that keeps the bound is found by
   bisection over the widths. What counts is the untrained student's latency at batch 1, as it
   would be served, in a throw-away process on the runtime that serves the parent fastest.
2. Those students are taught for a while and the worse half is dropped, until one is left.
   Source: K. Jamieson and A. Talwalkar, "Non-stochastic best arm identification and hyperparameter
   optimization" (2016), algorithm 1 (successive halving); accuracy is that on the selection rows.
3. The winner is taught for the rest of the passes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from compressors import export, students, techniques, training
from compressors.anatomy import Anatomy
from compressors.architectures import BLOCKS, Architecture, Block
from compressors.bench import Bench
from compressors.teacher import Lesson, answers, teach
from compressors.techniques import Promised, Shapes
from variants import runtimes, trial
from variants.errors import Invalid
from variants.manifest import digest_json
from variants.measure import Effort
from variants.profile import host_fingerprint

if TYPE_CHECKING:
    from torch import Tensor, nn

FAMILY: Literal["architecture"] = "architecture"
GUIDE = "Where a latency has to be reached and no student is at hand; images only."
HARDWARE = "any; the search measures on the host that builds"
KNOBS: dict[str, tuple[Any, ...]] = {"max_latency_ratio": (0.125, 0.25, 0.5)}
WORKS_ON: Literal["torch"] = "torch"
REQUIRES: tuple[str, ...] = (*export.REQUIRES, "onnxruntime")

EFFORT = Effort(seconds=0.05, samples=50, batches=(1,))


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """What bounds the search, and how the students are taught.

    `max_latency_ratio`: the student's latency at batch 1 as a share of the parent's.
    `served`: `fp32` measures the student as exported, `int8` after the technique of that name with
    its defaults; the parent is measured as exported either way.
    `blocks`, `depths`, `widths`: what is tried; depths and widths go against those of the family.
    `search_share`: share of `epochs` that the students have together before one is chosen.
    `temperature`, `soft_share`: as in `distilled`; the teacher's answers are kept.
    `epochs`, `learning_rate`: all training together.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    max_latency_ratio: Annotated[float, Field(gt=0, le=1)] = 0.25
    served: Literal["fp32", "int8"] = "fp32"
    blocks: Annotated[tuple[Block, ...], Field(min_length=1)] = BLOCKS
    depths: Annotated[tuple[Annotated[float, Field(gt=0, le=8)], ...], Field(min_length=1)] = (
        1.0,
        2.0,
        3.0,
    )
    widths: Annotated[tuple[Annotated[float, Field(gt=0, le=8)], ...], Field(min_length=1)] = (
        0.125,
        0.1875,
        0.25,
        0.375,
        0.5,
        0.625,
        0.75,
        1.0,
        1.25,
        1.5,
    )
    search_share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    temperature: Annotated[float, Field(ge=1, le=100)] = 4.0
    soft_share: Annotated[float, Field(ge=0, le=1)] = 0.7
    epochs: Annotated[float, Field(ge=0, le=1000)] = 6.0
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.1


_found: TypeAdapter[tuple[Architecture, ...]] = TypeAdapter(tuple[Architecture, ...])


def unsuitable(anatomy: Anatomy, config: Config) -> str:
    """Suits every model of images, which `lacking` asks for."""
    del anatomy, config
    return ""


def lacking(config: Config, promised: Promised) -> str:
    """The students are image classifiers."""
    del config
    return students.no_image(promised.inputs)


def compress(model: "nn.Module", config: Config, bench: Bench) -> "nn.Module":
    """The best student that keeps the bound, taught on the training rows.

    Raises `Invalid` where even the smallest one is too slow.
    """
    found = within_bound(model, config, bench)
    known = answers(model, bench)
    taught = [_untrained(model, architecture, bench) for architecture in found]
    rounds = math.ceil(math.log2(len(taught)))
    for _ in range(rounds):
        epochs = config.search_share * config.epochs / (rounds * len(taught))
        for student in taught:
            _teach(student, epochs, known, config, replace(bench, progress=lambda _: None))
        taught.sort(key=lambda student: _accuracy(student, bench), reverse=True)
        taught = taught[: math.ceil(len(taught) / 2)]
    share = 1 - config.search_share if rounds else 1.0
    last = replace(bench, progress=lambda done: bench.progress(1 - share + share * done))
    _teach(taught[0], config.epochs * share, known, config, last)
    return taught[0]


def rebuild(model: "nn.Module", config: Config, shapes: Shapes, bench: Bench) -> "nn.Module":
    """The student whose weights have these shapes. Raises `Invalid` where none of them has."""
    import torch

    wanted = {name: tuple(shape) for name, shape in shapes.items()}
    for block in config.blocks:
        for depth in config.depths:
            for width in config.widths:
                architecture = Architecture(block=block, width=width, depth=depth)
                torch.manual_seed(bench.seed)
                student = students.for_images(model, architecture, bench)
                if _shapes(student) == wanted:
                    return student
    raise Invalid("no architecture of the search has weights of the stored shapes")


def within_bound(model: "nn.Module", config: Config, bench: Bench) -> tuple[Architecture, ...]:
    """For each kind of block and depth the widest student that keeps the bound, none of them twice.

    What was found is kept for later recipes and builds on this host. Raises `Invalid` where there
    is none.
    """
    path = (bench.kept or bench.scratch) / f"{_key(model, config, bench)}.architectures.json"
    try:
        return _found.validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        found = _within_bound(model, config, bench)
        aside = path.with_suffix(".partial")
        aside.write_bytes(_found.dump_json(found))
        aside.replace(path)
        return found


def _key(model: "nn.Module", config: Config, bench: Bench) -> str:
    """SHA-256 over all that decides about latencies."""
    return digest_json(
        {
            "parent": repr(model),
            "inputs": [[x.dtype, *x.shape] for x in bench.spec.inputs],
            "bound": config.max_latency_ratio,
            "served": config.served,
            "tried": [config.blocks, config.depths, config.widths],
            "host": host_fingerprint(),
            "runtimes": {name: runtimes.find(name).version() for name in runtimes.installed()},
        }
    )


def _within_bound(model: "nn.Module", config: Config, bench: Bench) -> tuple[Architecture, ...]:
    ratio = _Stopwatch(model, config, bench).ratio
    found: dict[tuple[Any, ...], Architecture] = {}
    nearest = math.inf
    for block in config.blocks:
        widths = sorted(config.widths)
        for depth in sorted(config.depths):
            ordered = [Architecture(block=block, width=w, depth=depth) for w in widths]
            count, lowest = _largest(ordered, config.max_latency_ratio, ratio)
            nearest = min(nearest, lowest)
            widths = widths[:count]  # a deeper network is no faster
            if count == 0:
                break
            form = _shapes(_untrained(model, ordered[count - 1], bench))
            found.setdefault(tuple(sorted(form.items())), ordered[count - 1])
    if not found:
        raise Invalid(
            f"no student takes at most {config.max_latency_ratio:g} of the parent's latency; "
            f"the fastest that was measured takes {nearest:.2f} (max_latency_ratio)"
        )
    return tuple(found.values())


def _largest(
    ordered: Sequence[Architecture], bound: float, ratio: Callable[[Architecture], float]
) -> tuple[int, float]:
    """How many of the first keep the bound, by bisection, and the lowest ratio that was seen."""
    low, high, lowest = 0, len(ordered), math.inf
    while low < high:
        middle = (low + high) // 2
        measured = ratio(ordered[middle])
        lowest = min(lowest, measured)
        low, high = (middle + 1, high) if measured <= bound else (low, middle)
    return low, lowest


class _Stopwatch:
    """Measures students against their parent."""

    def __init__(self, parent: "nn.Module", config: Config, bench: Bench) -> None:
        self._parent = parent
        self._config = config
        self._bench = bench
        self._path = bench.scratch / "searched-parent.onnx"
        export.export(parent, bench.spec, self._path)
        seen = self._latency_s(self._path, runtimes.installed())
        self._runtime = min(seen, key=lambda name: seen[name])

    def ratio(self, architecture: Architecture) -> float:
        """The student's median latency ÷ the parent's, measured right after each other."""
        path = self._bench.scratch / "searched.onnx"
        export.export(_untrained(self._parent, architecture, self._bench), self._bench.spec, path)
        if self._config.served == "int8":
            path = self._quantised(path)
        student, parent = (
            self._latency_s(each, (self._runtime,))[self._runtime] for each in (path, self._path)
        )
        return student / parent

    def _quantised(self, path: Path) -> Path:
        int8 = techniques.find("int8")
        assert int8.WORKS_ON == "onnx"
        target = path.with_name("searched-int8.onnx")
        int8.convert(path, target, int8.Config(), self._bench)
        return target

    def _latency_s(self, path: Path, names: tuple[str, ...]) -> dict[str, float]:
        result = trial.run(
            trial.Request(path=path, spec=self._bench.spec, runtimes=names, effort=EFFORT)
        )
        return {profile.runtime: profile.latency_s[1].p50 for profile in result.profiles}


def _untrained(parent: "nn.Module", architecture: Architecture, bench: Bench) -> "nn.Module":
    import torch

    torch.manual_seed(bench.seed)
    return students.for_images(parent, architecture, bench)


def _teach(
    student: "nn.Module", epochs: float, known: "Tensor", config: Config, bench: Bench
) -> None:
    lesson = Lesson(
        temperature=config.temperature,
        soft_share=config.soft_share,
        epochs=epochs,
        learning_rate=config.learning_rate,
    )
    teach(student, lesson, bench, answer=lambda rows, _: known[rows])


def _accuracy(student: "nn.Module", bench: Bench) -> float:
    """Share of right answers on the selection rows."""
    import torch

    rows = bench.data.selection
    right = training.logits(student, rows, bench).argmax(1) == torch.from_numpy(rows.labels)
    return float(right.float().mean())


def _shapes(model: "nn.Module") -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
