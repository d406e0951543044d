"""Plans for the tests, written next to a copy of the toy model."""

import shutil
from pathlib import Path

import numpy as np

from compressors import plan as plans
from compressors.texts import encode
from tests import models
from variants.runtimes.onnxruntime import load

TOY = Path(__file__).with_name("toy_model.py")

HEAD = """\
seed = 3

[model]
name = "toy"
python = "model.py"
inputs = [{ name = "image", dtype = "float32", shape = [1, 8, 8] }]
outputs = [{ name = "logits", dtype = "float32", shape = [4] }]
labels = ["a", "b", "c", "d"]

[train]
epochs = 2
batch_size = 64

[profile]
seconds = 0.001
samples = 10
"""

LADDER = """
[[recipe]]
name = "fp32"

[[recipe]]
name = "fp16"

[[recipe]]
name = "int8"

[[recipe]]
name = "pruned"
steps = [{ technique = "pruned", ratio = 0.5, round_to = 4, epochs = 1 }]

[[recipe]]
name = "low_rank"
steps = [{ technique = "low_rank", max_rank_ratio = 0.1, epochs = 1 }]

[[recipe]]
name = "distilled"
steps = [{ technique = "distilled", epochs = 4 }]

[[recipe]]
name = "distilled+int8"
from = "distilled"
steps = [{ technique = "int8" }]
"""


def write(folder: Path, recipes: str = LADDER, head: str = HEAD) -> Path:
    """A plan file in `folder`, with the toy model beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(TOY, folder / "model.py")
    path = folder / "plan.toml"
    path.write_text(head + recipes, encoding="utf-8")
    return path


def texts(
    folder: Path, preprocess: str = '{ kind = "text", tokenizer = "words.json", max_tokens = 8 }'
) -> Path:
    """A plan file for the tiny ONNX text model, with sentences that it labels itself."""
    path = models.text_onnx(folder / "words.onnx")
    (folder / "words.json").write_bytes(models.tiny_tokenizer())
    sentences = [
        f"{a} {b}" for a in ("a", "fine", "dull", "x") for b in ("film", "films", "a", "?")
    ]
    inputs = encode(folder / "words.json", sentences, models.TOKENS)
    logits = load(path, 1).run(inputs)["logits"]
    np.savez(folder / "rows.npz", labels=logits.argmax(axis=1), **inputs)
    plan = folder / "plan.toml"
    plan.write_text(
        '[model]\nname = "words"\nonnx = "words.onnx"\nevaluation = "rows.npz"\n'
        f"preprocess = {preprocess}\n"
        '[profile]\nseconds = 0.001\nsamples = 10\n[[recipe]]\nname = "fp32"\n',
        encoding="utf-8",
    )
    return plan


def onnx(folder: Path, recipes: str, gates: str = "") -> plans.Plan:
    """A plan for the tiny ONNX file and 100 labelled rows, of which it gets 90 right."""
    models.tiny_onnx(folder / "tiny.onnx")
    rows = models.tiny_evaluation(100, wrong=10)
    np.savez(folder / "rows.npz", labels=rows.labels, **dict(rows.inputs))
    path = folder / "plan.toml"
    path.write_text(
        '[model]\nname = "tiny"\nonnx = "tiny.onnx"\nevaluation = "rows.npz"\n'
        f"[profile]\nseconds = 0.001\nsamples = 10\n{gates}\n{recipes}",
        encoding="utf-8",
    )
    return plans.load(path)
