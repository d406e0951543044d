"""A student that learns the parent's answers and how the parent relates things to each other.

`attention`, in a convolutional network: where it looks. With Q = Σ_channels feature², flattened,
loss = weight × mean over rows and pairs of |Q_student ÷ |Q_student| − Q_teacher ÷ |Q_teacher||².
Source: S. Zagoruyko and N. Komodakis, "Paying more attention to attention" (2017), equation 2.

`attention`, in a transformer: which tokens look at which in its last layer. With q, k, v of each
head, loss = weight × (KL(softmax(q·kᵀ ÷ √d)) + KL(softmax(v·vᵀ ÷ √d))), teacher ‖ student. Source:
W. Wang et al., "MiniLM: deep self-attention distillation" (2020), equations 6 and 9; heads are cut
anew where the student has others, as in "MiniLMv2" (2021), section 3.

`batch`: which rows are alike. With G = F·Fᵀ and its rows at length 1, F `[batch, features]`,
loss = weight × mean over rows and pairs of |G_student − G_teacher|². Source: F. Tung and G. Mori,
"Similarity-preserving knowledge distillation" (2019), equations 1 to 4.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from compressors import students
from compressors.anatomy import Anatomy
from compressors.bench import Bench
from compressors.students import lacking
from compressors.taps import pairs, same_size, side_by_side
from compressors.teacher import Lesson, Live, teach
from compressors.techniques import Shapes
from variants.errors import Invalid

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["lacking"]

FAMILY: Literal["distillation"] = "distillation"
GUIDE = (
    "Transformers of fewer or narrower layers (attention), or any student whose features have "
    "little in common with the parent's (batch); a step costs the teacher's pass too."
)
HARDWARE = "any"
KNOBS: dict[str, tuple[Any, ...]] = {"width": (0.25, 0.375, 0.5, 0.75), "weight": (1.0, 5.0)}
WORKS_ON: Literal["torch"] = "torch"
REQUIRES: tuple[str, ...] = ("torch", "torch_pruning")

PARTS = ("query", "key", "value")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(Lesson):
    """Which relations are compared, and how much they count.

    `relation`: `attention` within each row, or `batch` between the rows.
    `weight`: of the relations' loss beside that of the answers.
    `stages`: pairs of features that are chosen, evenly spaced over both networks; a transformer's
    attention is that of its last layer alone.
    """

    relation: Literal["attention", "batch"] = "batch"
    weight: Annotated[float, Field(gt=0, le=10_000)] = 5.0
    stages: Annotated[int, Field(ge=1, le=64)] = 3


def unsuitable(anatomy: Anatomy, config: Config) -> str:
    """Attention needs convolutions, or layers with query, key and value."""
    if config.relation == "attention" and not (anatomy.convolutions or anatomy.attention_layers):
        return (
            "it has neither convolutions nor attention (layers 'query', 'key' and 'value'); "
            "relation = 'batch' needs none"
        )
    return students.unsuitable(anatomy, config)


def compress(model: "nn.Module", config: Config, bench: Bench) -> "nn.Module":
    """A student taught on the training rows; the teacher sees every augmented batch.

    Raises `Invalid` where the two have nothing that can be compared.
    """
    import torch

    student = students.make(model, config, bench)
    teacher = Live(model, bench)
    theirs, ours = _attention(model), _attention(student)
    by_token = config.relation == "attention" and theirs is not None and ours is not None
    if by_token:
        chosen = tuple((f"{theirs}.{part}", f"{ours}.{part}") for part in PARTS)
    else:
        chosen = pairs(model, student, config.stages, bench)
    with side_by_side(teacher.module, student, chosen, bench) as features:

        def relations(batch: Sequence["Tensor"]) -> "Tensor":
            if by_token:
                heads = _heads(model.get_submodule(str(theirs)))
                return config.weight * token_distance(features(), heads, _mask(batch, bench))
            distance = map_distance if config.relation == "attention" else batch_distance
            return config.weight * torch.stack([distance(b, a) for a, b in features()]).mean()

        teach(student, config, bench, answer=lambda _, batch: teacher(batch), further=relations)
    return student


def rebuild(model: "nn.Module", config: Config, shapes: Shapes, bench: Bench) -> "nn.Module":
    """The student, untrained."""
    return students.again(model, config, shapes, bench)


def map_distance(ours: "Tensor", theirs: "Tensor") -> "Tensor":
    """Squared distance of two attention maps, from features `[batch, channels, h, w]`.

    Channels may differ; sizes are brought to the smaller. Raises `Invalid` for other features.
    """
    from torch.nn import functional

    if ours.ndim != 4 or theirs.ndim != 4:
        raise Invalid("attention maps come from convolutions; relation = 'batch' needs none")
    ours, theirs = same_size(ours, theirs)
    one, other = (functional.normalize(x.square().sum(1).flatten(1)) for x in (ours, theirs))
    return (one - other).square().sum(1).mean()


def batch_distance(ours: "Tensor", theirs: "Tensor") -> "Tensor":
    """Squared distance of the rows' likeness, from features `[batch, …]` of any two forms."""
    from torch.nn import functional

    flat = (x.flatten(1) for x in (ours, theirs))
    one, other = (functional.normalize(x @ x.T) for x in flat)
    return (one - other).square().sum(1).mean()


def token_distance(
    parts: "Sequence[tuple[Tensor, Tensor]]", heads: int, mask: "Tensor | None"
) -> "Tensor":
    """KL of the attention and of the values' relation, from query, key and value of both.

    Each is `[batch, tokens, width]`, the teacher's first; `heads` divides the teacher's width.
    `mask [batch, tokens]` is true where there is a token and not padding.
    """
    import torch
    from torch.nn import functional

    heads = math.gcd(heads, parts[0][1].shape[-1])
    (their_q, our_q), (their_k, our_k), (their_v, our_v) = parts

    def related(one: "Tensor", other: "Tensor") -> "Tensor":
        one, other = (x.view(*x.shape[:2], heads, -1).transpose(1, 2) for x in (one, other))
        scores = one @ other.transpose(-1, -2) / math.sqrt(one.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None, :], torch.finfo(scores.dtype).min)
        return torch.log_softmax(scores, dim=-1)

    total = torch.zeros((), device=our_q.device)
    for theirs, ours in (
        (related(their_q, their_k), related(our_q, our_k)),
        (related(their_v, their_v), related(our_v, our_v)),
    ):
        of_token = functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1)
        of_token = of_token.mean(1)
        total = total + (of_token.mean() if mask is None else of_token[mask].mean())
    return total


def _attention(model: "nn.Module") -> str | None:
    """The name of the last module with query, key and value."""
    return next(
        (
            name
            for name, module in reversed(list(model.named_modules()))
            if {child for child, _ in module.named_children()} >= set(PARTS)
        ),
        None,
    )


def _heads(attention: Any) -> int:
    """Heads that the module says it has, or that follow from their size; one where it says none."""
    for name in ("num_heads", "num_attention_heads", "heads"):
        if isinstance(count := getattr(attention, name, None), int):
            return count
    for name in ("head_size", "head_dim", "attention_head_size"):
        if isinstance(size := getattr(attention, name, None), int):
            return int(attention.query.out_features) // size
    return 1


def _mask(batch: Sequence["Tensor"], bench: Bench) -> "Tensor | None":
    """Where there are tokens, from the input that is called a mask."""
    for spec, tensor in zip(bench.spec.inputs, batch, strict=True):
        if "mask" in spec.name and tensor.ndim == 2:
            return tensor != 0
    return None
