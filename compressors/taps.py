"""What happens inside a module: outputs of its parts, read by forward hooks.

with Tap(student, ["layers.2"]) as tap:
    student(batch)
    tap.seen["layers.2"]      # [batch, tokens, width]
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import dropwhile
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from compressors import anatomy
from compressors.bench import Bench
from compressors.students import spaced
from variants.errors import Invalid

if TYPE_CHECKING:
    from torch import Tensor, nn

Pair = tuple[str, str]
"""A module of the teacher and one of the student, by name."""


class Tap:
    """Keeps the output of each named module from the module's last run, while it is open.

    Raises `Invalid` for a name that is not there.
    """

    def __init__(self, model: "nn.Module", names: Sequence[str]) -> None:
        parts = dict(model.named_modules())
        for name in names:
            if name not in parts:
                raise Invalid(f"no module {name!r} in {type(model).__name__}")
        self._parts = {name: parts[name] for name in names}
        self.seen: dict[str, Tensor] = {}

    def __enter__(self) -> Self:
        def keep(name: str) -> Any:
            def hook(module: "nn.Module", inputs: object, output: Any) -> None:
                del module, inputs
                tensor = output[0] if isinstance(output, tuple) else output
                if hasattr(tensor, "shape"):
                    self.seen.pop(name, None)  # so that the order is that of the last run
                    self.seen[name] = tensor

            return hook

        self._handles = [
            part.register_forward_hook(keep(name)) for name, part in self._parts.items()
        ]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()


@contextmanager
def side_by_side(
    teacher: "nn.Module", student: "nn.Module", chosen: Sequence[Pair], bench: Bench
) -> "Iterator[Callable[[], list[tuple[Tensor, Tensor]]]]":
    """What each pair, teacher and student, gave when the two were run last.

    Both have been run on example rows before, so that shapes can be asked for.
    """
    with (
        Tap(teacher, [a for a, _ in chosen]) as theirs,
        Tap(student, [b for _, b in chosen]) as ours,
    ):
        run_example(teacher, bench)
        run_example(student, bench)
        yield lambda: [(theirs.seen[a], ours.seen[b]) for a, b in chosen]


def run_example(model: "nn.Module", bench: Bench) -> None:
    """Run the module on two calibration rows, in eval mode, on the device where it is."""
    import torch

    was = model.training
    device = next((weight.device for weight in model.parameters()), torch.device("cpu"))
    rows = (torch.from_numpy(bench.data.calibration[x.name][:2]) for x in bench.spec.inputs)
    with torch.no_grad():
        model.eval()(*(x.to(device) for x in rows))
    model.train(was)


def pairs(teacher: "nn.Module", student: "nn.Module", count: int, bench: Bench) -> tuple[Pair, ...]:
    """At most `count` pairs of stages, evenly spaced over both, the last of each among them.

    Raises `Invalid` where one of the two has no stage.
    """
    of_teacher, of_student = stages(teacher, bench), stages(student, bench)
    if not of_teacher or not of_student:
        raise Invalid("teacher and student have no inner layers whose outputs could be compared")
    count = min(count, len(of_teacher), len(of_student))
    return tuple(
        (of_teacher[a], of_student[b])
        for a, b in zip(spaced(len(of_teacher), count), spaced(len(of_student), count), strict=True)
    )


def same_size(one: "Tensor", other: "Tensor") -> "tuple[Tensor, Tensor]":
    """Two pictures `[batch, channels, height, width]` at the smaller's size; others unchanged."""
    from torch.nn import functional

    if one.ndim != 4 or one.shape[2:] == other.shape[2:]:
        return one, other
    size = (min(one.shape[2], other.shape[2]), min(one.shape[3], other.shape[3]))
    return functional.adaptive_avg_pool2d(one, size), functional.adaptive_avg_pool2d(other, size)


def stages(model: "nn.Module", bench: Bench) -> tuple[str, ...]:
    """Names of the modules that end a stage, in the order in which they run.

    The blocks of a transformer's longest list; the last module at each size of a convolutional
    network's pictures; the layers of any other network from the first with weights, the answer
    excepted.
    """
    with Tap(model, [name for name, _ in model.named_modules() if name]) as tap:
        run_example(model, bench)
    shapes = {name: tuple(tensor.shape) for name, tensor in tap.seen.items()}
    blocks = _blocks(model, shapes)
    if blocks:
        return blocks
    last_of_size = {shape[2:]: name for name, shape in shapes.items() if len(shape) == 4}
    if pictures := tuple(name for size, name in last_of_size.items() if size != (1, 1)):
        return pictures
    answer = (2, *bench.spec.outputs[0].shape)
    parts = dict(model.named_modules())
    leaves = [name for name in shapes if not any(parts[name].children())]
    weighted = dropwhile(lambda name: not any(True for _ in parts[name].parameters()), leaves)
    return tuple(n for n in weighted if len(shapes[n]) == 2 and shapes[n] != answer)


def _blocks(model: "nn.Module", shapes: dict[str, tuple[int, ...]]) -> tuple[str, ...]:
    """The repeated blocks of a list that give `[batch, tokens, width]`."""
    lists = [owner for owner, _ in anatomy.repeated(model)]
    found = (
        tuple(
            name
            for name in (
                f"{owner}.{child}" for child, _ in model.get_submodule(owner).named_children()
            )
            if len(shapes.get(name, ())) == 3
        )
        for owner in lists
    )
    return max(found, key=len, default=())
