"""Intel Neural Compressor's table: int8 and fp32 of the same model on one socket.

Accuracy in percent, throughput at batch 1 over all instances of the socket. One ladder is made of
the image classifiers, since only their accuracies mean the same: each model in both precisions,
thinned as timm's. Latency is instances ÷ throughput, from `…NinsMbs` in `perf_config`.
"""

import re

from benchmarks.routing import timm
from benchmarks.routing.csv_table import Line, Table
from benchmarks.routing.ladder import Ladder, candidate, in_proportion, ladder_of, log_normal
from router.candidate import Candidate
from variants.errors import Invalid
from variants.profile import BATCHES, Accuracy

CLASSIFIER = re.compile(
    r"resnet|resnext|inception|mobilenet|densenet|vgg|efficientnet|vit|regnet|shufflenet|"
    r"squeezenet|alexnet|googlenet|beit|swin|deit|xception|caffenet|zfnet|peleenet",
    re.IGNORECASE,
)
NOT = re.compile(r"ssd|r-?cnn|yolo|mask|bert|unet", re.IGNORECASE)


def recognises(table: Table) -> bool:
    """Whether the header is that of the int8 against fp32 table."""
    return table.has("model", "acc_int8", "acc_fp32", "throughput_int8", "throughput_fp32")


def ladder(table: Table) -> Ladder:
    """Classifiers in both precisions. Raises `Invalid` where fewer than two remain."""
    found: dict[str, Candidate] = {}
    for line in table.lines:
        model = line.text("model")
        if not CLASSIFIER.search(model) or NOT.search(model):
            continue
        for precision in ("int8", "fp32"):
            rung = _rung(line, model, precision)
            if rung is not None:
                found.setdefault(rung.variant, rung)
    if len(found) < 2:
        raise Invalid(f"{table.path}: fewer than two classifiers with accuracy and throughput")
    return ladder_of(table.path.stem, timm.rungs(list(found.values())))


def _rung(line: Line, model: str, precision: str) -> Candidate | None:
    if not line.cells[f"acc_{precision}"] or not line.cells[f"throughput_{precision}"]:
        return None
    accuracy = line.number_of(f"acc_{precision}", zero=True, most=100) / 100
    instances = re.search(r"(\d+)ins", line.cells.get("perf_config", ""))
    per_s = line.number_of(f"throughput_{precision}") / (int(instances[1]) if instances else 1)
    example = line.cells.get("example", "")
    name = re.sub(r"[^a-z0-9]+", "-", f"{model}-{example}-{precision}".lower()).strip("-")
    return candidate(
        name,
        Accuracy.of(round(accuracy * timm.TEST_ROWS), timm.TEST_ROWS),
        in_proportion(log_normal(1 / per_s), BATCHES),
    )
