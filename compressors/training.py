"""One training loop for the reference and for every fine-tuning.

Deterministic for a seed on one machine: order, augmentation and dropout come from torch's
generator, which is seeded at the start.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from compressors.bench import Bench
from variants.evaluation import EvaluationSet

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Loss = Callable[["Tensor", "Tensor", Sequence["Tensor"]], "Tensor"]
"""Scalar loss from logits `[batch, classes]`, the training rows' numbers `[batch] int64` and the
augmented inputs `[batch, …]` that the logits were made from.
"""

WARM_UP_SHARE = 0.25
"""Share of the steps in which the learning rate rises."""


def tensors(rows: EvaluationSet) -> tuple[list["Tensor"], "Tensor"]:
    """Inputs in the order of the set and labels, as torch tensors that share its memory."""
    import torch

    inputs = [torch.from_numpy(array) for array in rows.inputs.values()]
    return inputs, torch.from_numpy(rows.labels)


def fit(
    model: "nn.Module",
    bench: Bench,
    *,
    epochs: float,
    learning_rate: float,
    loss: Loss | None = None,
    helper: "nn.Module | None" = None,
    after_step: Callable[[float], None] = lambda _: None,
) -> None:
    """Train `model` in place for `epochs` passes (a fraction is allowed); leaves it in eval mode.

    `learning_rate` is the peak of the one-cycle schedule. The default loss is cross-entropy with
    label smoothing; the last, incomplete batch of a pass is left out. `helper` holds further
    parameters that the loss needs trained, such as projections. `after_step` is told the share
    that is done after each change of the weights, which it may change again.
    """
    import torch
    from torch.nn import functional

    torch.manual_seed(bench.seed)
    settings = bench.train
    inputs, labels = tensors(bench.data.training())
    size = min(settings.batch_size, len(labels))
    per_epoch = len(labels) // size
    steps = round(epochs * per_epoch)
    if steps == 0:
        model.eval()
        return
    device = torch.device(settings.device)
    model.to(device)
    parameters = list(model.parameters())
    if helper is not None:
        parameters += helper.to(device).parameters()
    if any(tensor.ndim == 4 for tensor in inputs):
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # untyped there
    optimizer = _optimizer(parameters, bench, learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: one_cycle((step + 1) / (steps + 1))
    )

    def cross_entropy(logits: "Tensor", rows: "Tensor", batch: Sequence["Tensor"]) -> "Tensor":
        del batch
        return functional.cross_entropy(
            logits, labels[rows].to(device), label_smoothing=settings.label_smoothing
        )

    objective = loss or cross_entropy
    model.train()
    order = torch.randperm(len(labels))
    for step in range(steps):
        at = step % per_epoch
        if step and at == 0:
            order = torch.randperm(len(labels))
        rows = order[at * size : (at + 1) * size]
        batch = [_augmented(tensor[rows], bench, step / steps).to(device) for tensor in inputs]
        value = objective(model(*batch), rows, batch)
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        schedule.step()
        after_step((step + 1) / steps)
        bench.progress((step + 1) / steps)
    model.eval()
    model.to("cpu")


def _optimizer(
    parameters: "list[nn.Parameter]", bench: Bench, learning_rate: float
) -> "torch.optim.Optimizer":
    import torch

    settings = bench.train
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(
            parameters, lr=learning_rate, weight_decay=settings.weight_decay, fused=True
        )
    return torch.optim.SGD(
        parameters,
        lr=learning_rate,
        momentum=settings.momentum,
        nesterov=settings.momentum > 0,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def logits(model: "nn.Module", rows: EvaluationSet, bench: Bench) -> "Tensor":
    """The module's answers to all rows, `[n, classes] float32`, made on the training device."""
    import torch

    inputs, labels = tensors(rows)
    size = bench.train.batch_size
    device = bench.train.device
    parts = []
    model.eval().to(device)
    with torch.inference_mode():
        for start in range(0, len(labels), size):
            batch = (tensor[start : start + size].to(device) for tensor in inputs)
            parts.append(model(*batch).cpu())
    model.to("cpu")
    # Cloned outside inference mode, so that a loss may use them.
    return torch.cat(parts).clone()


def one_cycle(share: float) -> float:
    """Learning rate as a share of its peak: a straight rise, then a cosine down to nothing.

    `share` of the steps done, from 0 to 1. Source: L. N. Smith and N. Topin, "Super-convergence"
    (2019), with a cosine for its second leg.
    """
    if share < WARM_UP_SHARE:
        return share / WARM_UP_SHARE
    return 0.5 + 0.5 * math.cos(math.pi * (share - WARM_UP_SHARE) / (1 - WARM_UP_SHARE))


def _augmented(batch: "Tensor", bench: Bench, progress: float) -> "Tensor":
    import torch

    if bench.user is not None and bench.user.offers("augment"):
        wanted = bench.user.parameters("augment")
        batch = bench.user.call("augment", *(batch, progress)[:wanted])
    return batch.contiguous(memory_format=torch.channels_last) if batch.ndim == 4 else batch
