"""Students learn from a trained teacher: which students there are, and that teaching pays."""

import copy
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from compressors import anatomy, plan, students, taps, techniques, training, weights
from compressors.architectures import BLOCKS, Architecture
from compressors.bench import Bench
from compressors.data import Data
from compressors.techniques import (
    architecture_search,
    distilled,
    feature_distilled,
    relation_distilled,
)
from compressors.training_settings import Train
from tests.compressors import plans as written
from variants import runtimes, trial
from variants.errors import Invalid
from variants.evaluation import EvaluationSet
from variants.measure import Effort
from variants.spec import ModelSpec, TensorSpec

torch = pytest.importorskip("torch")
if TYPE_CHECKING:
    from torch import nn
else:
    nn = torch.nn

CLASSES = 6
SPEC = ModelSpec(
    name="toy",
    task="classification",
    inputs=(TensorSpec(name="image", dtype="float32", shape=(1, 8, 8)),),
    outputs=(TensorSpec(name="logits", dtype="float32", shape=(CLASSES,)),),
)
TOKENS = ModelSpec(
    name="words",
    task="classification",
    inputs=(TensorSpec(name="tokens", dtype="int64", shape=(12,)),),
    outputs=(TensorSpec(name="logits", dtype="float32", shape=(2,)),),
)


def pictures(seed: int, n: int, wrong: float = 0.0) -> EvaluationSet:
    """Six noisy patterns; a share of the labels is drawn anew."""
    patterns = np.random.default_rng(7).random((CLASSES, 1, 8, 8))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n)
    rows = patterns[labels] + rng.normal(scale=0.5, size=(n, 1, 8, 8))
    drawn = rng.random(n) < wrong
    told = np.where(drawn, rng.integers(0, CLASSES, n), labels)
    return EvaluationSet(inputs={"image": rows.astype(np.float32)}, labels=told)


def bench_of(spec: ModelSpec, train: EvaluationSet, test: EvaluationSet, scratch: Path) -> Bench:
    """A bench with SGD on these rows."""
    return Bench(
        spec=spec,
        data=Data(train=train, selection=test, test=test, calibration=dict(test.inputs)),
        user=None,
        train=Train(batch_size=32, learning_rate=0.1),
        seed=5,
        scratch=scratch,
    )


class Centre(nn.Module):
    """Pixels around zero."""

    def forward(self, image: "torch.Tensor") -> "torch.Tensor":
        return image - 0.5


def convolutional() -> "nn.Module":
    """Two convolutions and a linear layer."""
    return nn.Sequential(
        Centre(),
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, CLASSES),
    )


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> "nn.Module":
    """Trained on many rows with true labels."""
    torch.manual_seed(0)
    model = convolutional()
    bench = bench_of(SPEC, pictures(1, 2048), pictures(2, 500), tmp_path_factory.mktemp("teacher"))
    training.fit(model, bench, epochs=4, learning_rate=0.1)
    return model


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Few rows, and half of their labels are drawn by lot: the teacher knows better."""
    return bench_of(SPEC, pictures(3, 384, wrong=0.5), pictures(4, 500), tmp_path)


def score(model: "nn.Module", bench: Bench) -> float:
    """Share of right answers on the test rows."""
    answers = training.logits(model, bench.data.test, bench)
    return float((answers.argmax(1).numpy() == bench.data.test.labels).mean())


def calls(model: "nn.Module") -> list[int]:
    """Grows by the rows of each later call of the module."""
    seen: list[int] = []
    model.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    return seen


@pytest.mark.parametrize(
    "config",
    [
        distilled.Config(width=0.5, epochs=3),
        distilled.Config(student="resnet", width=0.25, epochs=4),
        distilled.Config(student="mobilenet", width=0.5, depth=0.4, epochs=4, teacher="live"),
    ],
    ids=["narrow", "resnet", "mobilenet"],
)
def test_a_taught_student_beats_the_same_student_alone(
    teacher: "nn.Module", bench: Bench, config: distilled.Config
) -> None:
    taught = distilled.compress(teacher, config, bench)
    alone = students.make(teacher, config, bench)
    training.fit(alone, bench, epochs=config.epochs, learning_rate=config.learning_rate)
    assert score(taught, bench) > score(alone, bench) + 0.03
    assert score(taught, bench) > 0.8


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 32), (3, 64), (3, 224)])
def test_an_architecture_fits_its_images(block: Any, channels: int, size: int) -> None:
    model = Architecture(block=block, width=0.25).build(channels=channels, size=size, classes=7)
    with torch.inference_mode():
        assert model.eval()(torch.zeros(2, channels, size, size + 4)).shape == (2, 7)


def test_width_and_depth_add_weights() -> None:
    def count(**changed: float) -> int:
        model = Architecture(block="mobilenet", **changed).build(channels=3, size=32, classes=10)
        return sum(p.numel() for p in model.parameters())

    assert count(width=0.5) < count() < count(width=1.5)
    assert count() < count(depth=2)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_student_by_name_gives_the_same_answers_on_the_serving_runtimes(
    teacher: "nn.Module", bench: Bench, block: Any
) -> None:
    pytest.importorskip("onnxscript")
    from compressors import export

    student = distilled.compress(
        teacher, distilled.Config(student=block, width=0.25, epochs=1), bench
    )
    path = bench.scratch / "student.onnx"
    export.export(student, SPEC, path)
    rows = dict(bench.data.test.inputs)
    with torch.inference_mode():
        expected = student(torch.from_numpy(rows["image"])).numpy()
    for name in runtimes.installed():
        answers = runtimes.find(name).load(path, 1).run(rows)["logits"]
        np.testing.assert_allclose(answers, expected, atol=1e-3)


def test_a_student_by_name_prepares_its_pixels_as_the_parent_does(
    teacher: "nn.Module", bench: Bench
) -> None:
    named = Architecture(block="resnet", width=0.25)
    assert isinstance(students.for_images(teacher, named, bench)[0][0], Centre)
    bare = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))
    assert isinstance(students.for_images(bare, named, bench)[0], nn.BatchNorm2d)


@pytest.mark.parametrize("student", ["resnet", "mobilenet", "efficientnet"])
def test_stored_weights_rebuild_the_student(
    teacher: "nn.Module", bench: Bench, student: Any
) -> None:
    config = distilled.Config(student=student, width=0.25, epochs=1)
    taught = distilled.compress(teacher, config, bench)
    path = bench.scratch / "student.safetensors"
    weights.save(taught, path)
    again = distilled.rebuild(teacher, config, weights.shapes(path), bench)
    weights.load(again, path)
    rows = bench.data.test
    torch.testing.assert_close(
        training.logits(again, rows, bench),
        training.logits(taught, rows, bench),
        rtol=0,
        atol=1e-4,
    )


def test_a_cached_teacher_answers_each_row_once_for_all_recipes(
    teacher: "nn.Module", bench: Bench
) -> None:
    seen = calls(teacher)
    for width in (0.25, 0.5):
        config = distilled.Config(student="resnet", width=width, epochs=1)
        distilled.compress(teacher, config, bench)
    assert sum(seen) == len(bench.data.training().labels)


def test_other_rows_or_another_teacher_are_asked_anew(teacher: "nn.Module", bench: Bench) -> None:
    config = distilled.Config(student="resnet", width=0.25, epochs=0.1)
    seen = calls(teacher)
    distilled.compress(teacher, config, bench)
    other = dataclasses.replace(bench, data=dataclasses.replace(bench.data, train=pictures(9, 320)))
    distilled.compress(teacher, config, other)
    assert sum(seen) == 384 + 320


def test_a_live_teacher_sees_what_the_student_sees_and_stays_as_it_was(
    teacher: "nn.Module", bench: Bench
) -> None:
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    config = distilled.Config(student="resnet", width=0.25, epochs=1, teacher="live")
    distilled.compress(teacher, config, bench)
    assert all(torch.equal(before[name], now) for name, now in teacher.state_dict().items())
    assert not list(bench.scratch.glob("*.answers.safetensors"))


class Block(nn.Module):
    """Self-attention with residual connections."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: "torch.Tensor") -> "torch.Tensor":
        scores = self.query(x) @ self.key(x).transpose(1, 2) / x.shape[-1] ** 0.5
        mixed: torch.Tensor = self.norm(x + scores.softmax(-1) @ self.value(x))
        return mixed


class Transformer(nn.Module):
    """Six blocks over embedded tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(16, 24)
        self.layers = nn.ModuleList([Block(24) for _ in range(6)])
        self.head = nn.Linear(24, 2)

    def forward(self, tokens: "torch.Tensor") -> "torch.Tensor":
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        logits: torch.Tensor = self.head(x.mean(1))
        return logits


def sentences(seed: int, n: int, wrong: float = 0.0) -> EvaluationSet:
    """Twelve tokens of sixteen; the label says whether more are large than small."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 16, (n, 12))
    labels = ((tokens >= 8).sum(1) > 6).astype(np.int64)
    drawn = rng.random(n) < wrong
    return EvaluationSet(
        inputs={"tokens": tokens}, labels=np.where(drawn, rng.integers(0, 2, n), labels)
    )


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> "nn.Module":
    """Trained on many rows with true labels."""
    torch.manual_seed(0)
    model = Transformer()
    bench = bench_of(TOKENS, sentences(1, 2048), sentences(2, 500), tmp_path_factory.mktemp("t"))
    training.fit(model, bench, epochs=3, learning_rate=0.05)
    return model


@pytest.fixture
def words(tmp_path: Path) -> Bench:
    """Few sentences, half of their labels drawn by lot."""
    return bench_of(TOKENS, sentences(3, 384, wrong=0.5), sentences(4, 500), tmp_path)


def test_a_shorter_transformer_keeps_spaced_layers_with_their_weights(
    transformer: "nn.Module", words: Bench
) -> None:
    assert students.spaced(6, 3) == (0, 2, 5)
    shorter = students.shorten(transformer, 3, words)
    for kept, index in zip(shorter.layers, (0, 2, 5), strict=True):
        assert torch.equal(kept.query.weight, transformer.layers[index].query.weight)
    assert len(transformer.layers) == 6


def test_a_shorter_transformer_learns_from_the_whole_one(
    transformer: "nn.Module", words: Bench
) -> None:
    config = distilled.Config(layers=2, epochs=2, learning_rate=0.02)
    taught = distilled.compress(transformer, config, words)
    alone = students.make(transformer, config, words)
    training.fit(alone, words, epochs=config.epochs, learning_rate=config.learning_rate)
    assert score(taught, words) > score(alone, words) + 0.02


def test_too_many_layers_are_refused_by_the_anatomy(transformer: "nn.Module") -> None:
    found = anatomy.of_module(transformer)
    assert distilled.unsuitable(found, distilled.Config(layers=5)) == ""
    assert "repeats 5" in distilled.unsuitable(found, distilled.Config(layers=6))


@pytest.mark.parametrize(
    ("keys", "hint"),
    [
        ('student = "mobilnet"', "mobilnet"),
        ('student = "resnet", layers = 2', "'depth'"),
        ("depth = 2", "by name"),
        ("width = 0.5, layers = 2", "either"),
        ("width = 1.5", "below 1"),
        ("layers = 3", "repeats 0"),
    ],
)
def test_a_student_that_cannot_be_is_refused_with_the_plan(
    tmp_path: Path, keys: str, hint: str
) -> None:
    recipe = f'[[recipe]]\nname = "x"\nsteps = [{{ technique = "distilled", {keys} }}]\n'
    path = written.write(tmp_path, f'\n[[recipe]]\nname = "fp32"\n{recipe}')
    with pytest.raises(Invalid, match=hint):
        plan.load(path).hold_against(anatomy.of_module(convolutional()))


def test_a_student_by_name_needs_images(tmp_path: Path) -> None:
    recipe = '[[recipe]]\nname = "x"\nsteps = [{ technique = "distilled", student = "resnet" }]\n'
    head = written.HEAD.replace("[1, 8, 8]", "[64]")
    path = written.write(tmp_path, f'\n[[recipe]]\nname = "fp32"\n{recipe}', head)
    with pytest.raises(Invalid, match=r"image classifiers.*float32\[64\]"):
        plan.load(path)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("feature_distilled", {}),
        ("relation_distilled", {"relation": "batch", "weight": 20.0}),
        ("relation_distilled", {"relation": "attention"}),
    ],
)
def test_what_the_teacher_sees_inside_helps_without_its_answers(
    teacher: "nn.Module", bench: Bench, name: str, keys: dict[str, Any]
) -> None:
    technique: Any = techniques.find(name)
    config = technique.Config(student="resnet", width=0.25, epochs=4, soft_share=0, **keys)
    taught = technique.compress(teacher, config, bench)
    alone = students.make(teacher, config, bench)
    training.fit(alone, bench, epochs=4, learning_rate=config.learning_rate)
    assert score(taught, bench) > score(alone, bench) + 0.02


def test_a_student_looks_where_its_teacher_looks(teacher: "nn.Module", bench: Bench) -> None:
    def distance(student: "nn.Module") -> float:
        chosen = taps.pairs(teacher, student, 3, bench)
        with taps.side_by_side(teacher, student, chosen, bench) as features:
            training.logits(student, bench.data.selection, bench)
            training.logits(teacher, bench.data.selection, bench)
            found = [relation_distilled.map_distance(b, a).item() for a, b in features()]
        return sum(found)

    config = relation_distilled.Config(relation="attention", student="resnet", width=0.25, epochs=3)
    plain = distilled.Config(student="resnet", width=0.25, epochs=3, teacher="live")
    taught = relation_distilled.compress(teacher, config, bench)
    untold = distilled.compress(teacher, plain, bench)
    assert distance(taught) < 0.7 * distance(untold)
    assert score(taught, bench) > score(untold, bench) - 0.05


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("feature_distilled", {}),
        ("relation_distilled", {"relation": "batch"}),
        ("relation_distilled", {"relation": "attention"}),
    ],
)
def test_a_shorter_transformer_learns_from_inside_the_whole_one(
    transformer: "nn.Module", words: Bench, name: str, keys: dict[str, Any]
) -> None:
    technique: Any = techniques.find(name)
    config = technique.Config(layers=2, epochs=2, learning_rate=0.02, **keys)
    taught = technique.compress(transformer, config, words)
    alone = students.make(transformer, config, words)
    training.fit(alone, words, epochs=2, learning_rate=0.02)
    assert score(taught, words) > score(alone, words) + 0.02


def test_stages_are_blocks_picture_sizes_or_layers(
    teacher: "nn.Module", transformer: "nn.Module", bench: Bench, words: Bench
) -> None:
    assert taps.stages(transformer, words) == tuple(f"layers.{n}" for n in range(6))
    assert taps.stages(teacher, bench) == ("3", "7")  # before pooling, and before flattening
    dense = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 6)
    )
    assert taps.stages(dense, bench) == ("1", "2", "3", "4")


def test_pairs_may_be_named_and_a_wrong_name_is_refused(teacher: "nn.Module", bench: Bench) -> None:
    def config(*pairs: tuple[str, str]) -> feature_distilled.Config:
        return feature_distilled.Config(width=0.5, epochs=0.2, pairs=pairs)

    feature_distilled.compress(teacher, config(("7", "7"), ("3", "3")), bench)
    with pytest.raises(Invalid, match="no module 'x'"):
        feature_distilled.compress(teacher, config(("7", "x")), bench)
    with pytest.raises(Invalid, match="compared"):
        feature_distilled.compress(teacher, config(("7", "8")), bench)


def test_equal_networks_are_at_no_distance() -> None:
    torch.manual_seed(0)
    pictures = torch.rand(4, 8, 6, 6)
    assert relation_distilled.map_distance(pictures, 3 * pictures).item() == pytest.approx(0)
    assert relation_distilled.batch_distance(pictures, 3 * pictures).item() == pytest.approx(0)
    assert relation_distilled.batch_distance(pictures, torch.randn(4, 50)).item() > 0.01
    tokens = [(x, x) for x in torch.randn(3, 4, 5, 8)]
    assert relation_distilled.token_distance(tokens, 2, None).item() == pytest.approx(0)


def test_padding_does_not_count_in_relations_of_tokens() -> None:
    torch.manual_seed(0)
    ours, theirs = torch.randn(2, 3, 4, 5, 8).unbind()
    mask = torch.ones(4, 5, dtype=torch.bool)
    mask[:, 3:] = False
    before = relation_distilled.token_distance(list(zip(theirs, ours, strict=True)), 2, mask)
    ours[:, :, 3:] = 7.0
    after = relation_distilled.token_distance(list(zip(theirs, ours, strict=True)), 2, mask)
    assert before.item() == pytest.approx(after.item()) and before.item() > 0.01


def test_attention_needs_something_that_attends() -> None:
    found = anatomy.of_module(nn.Sequential(nn.Flatten(), nn.Linear(64, 6)))
    config = relation_distilled.Config(relation="attention", width=0.5)
    assert "relation = 'batch'" in relation_distilled.unsuitable(found, config)


def test_hooks_are_gone_after_the_lesson(teacher: "nn.Module", bench: Bench) -> None:
    config = feature_distilled.Config(width=0.5, epochs=0.1)
    own = copy.deepcopy(teacher)
    for part in own.modules():
        part._forward_hooks.clear()  # other tests of the module count the teacher's calls
    taught = feature_distilled.compress(own, config, bench)
    assert not any(part._forward_hooks for part in (*taught.modules(), *own.modules()))


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> "nn.Module":
    """A teacher that is slow enough for students to be measurably faster."""
    torch.manual_seed(0)
    model = nn.Sequential(
        Centre(),
        nn.Conv2d(1, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(8),
        nn.Flatten(),
        nn.Linear(256, CLASSES),
    )
    rows = bench_of(SPEC, pictures(1, 256), pictures(2, 500), tmp_path_factory.mktemp("heavy"))
    training.fit(model, rows, epochs=1, learning_rate=0.01)
    return model


def latency_s(model: "nn.Module", bench: Bench) -> float:
    """Median at batch 1 on ONNX Runtime."""
    from compressors import export

    path = bench.scratch / "timed.onnx"
    export.export(model, SPEC, path)
    effort = Effort(seconds=0.05, samples=50, batches=(1,))
    request = trial.Request(path=path, spec=SPEC, runtimes=("onnxruntime",), effort=effort)
    return trial.run(request).profiles[0].latency_s[1].p50


@pytest.mark.slow
def test_the_search_finds_a_student_within_the_bound(heavy: "nn.Module", bench: Bench) -> None:
    config = architecture_search.Config(
        max_latency_ratio=0.3,
        blocks=("resnet", "mobilenet"),
        depths=(1,),
        widths=(0.25, 0.5, 2),
        epochs=8,
        soft_share=0,  # this teacher is there for its latency
    )
    rows = dataclasses.replace(bench.data, train=pictures(3, 384))
    bench = dataclasses.replace(bench, data=rows)
    found = architecture_search.within_bound(heavy, config, bench)
    assert {architecture.block for architecture in found} == {"resnet", "mobilenet"}
    assert max(architecture.width for architecture in found) < 2
    student = architecture_search.compress(heavy, config, bench)
    assert latency_s(student, bench) < 0.5 * latency_s(heavy, bench)
    assert score(student, bench) > 0.6
    path = bench.scratch / "student.safetensors"
    weights.save(student, path)
    again = architecture_search.rebuild(heavy, config, weights.shapes(path), bench)
    weights.load(again, path)
    assert score(again, bench) == score(student, bench)


@pytest.mark.slow
def test_a_bound_that_no_student_keeps_is_refused(heavy: "nn.Module", bench: Bench) -> None:
    config = architecture_search.Config(
        max_latency_ratio=1e-5, blocks=("resnet",), depths=(1,), widths=(0.25,)
    )
    with pytest.raises(Invalid, match="max_latency_ratio"):
        architecture_search.compress(heavy, config, bench)


def test_weights_of_another_form_are_no_student_of_the_search(
    teacher: "nn.Module", bench: Bench
) -> None:
    config = architecture_search.Config(blocks=("resnet",), depths=(1,), widths=(0.25,))
    with pytest.raises(Invalid, match="stored shapes"):
        architecture_search.rebuild(teacher, config, {"0.weight": (3, 3)}, bench)
