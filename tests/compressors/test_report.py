"""The report: JSON with the documented keys, and pages that everybody can read."""

import math
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from compressors import figure, page, report
from compressors.build import build
from compressors.records import BuildRecord
from compressors.report import CheckedCascade, Confusion, ModelReport, Row
from tests.compressors import browser
from tests.compressors import plans as written_plans
from tests.compressors.browser import Browser
from tests.compressors.conftest import Ladder
from variants.cost import Prices
from variants.data_folder import DataFolder
from variants.errors import NotFound
from variants.evidence import (
    Agreement,
    Cascade,
    Drift,
    Evaluation,
    Interval,
    LayerSensitivity,
    WorstClass,
)
from variants.manifest import Step
from variants.profile import BATCHES, Accuracy, Profile, Quantiles
from variants.spec import ModelSpec, TensorSpec

PRICES = Prices(core_hour_usd=0.05, gib_hour_usd=0.005)
KEYS = {
    "model", "variant", "runtime", "technique", "accuracy", "latency_s", "throughput_per_s",
    "size_bytes", "memory_bytes", "load_s", "cost_usd_per_million", "pareto", "parents", "recipe",
    "build_s", "runtimes", "evaluation", "sensitivity", "cascades",
}  # fmt: skip
VOID = {"meta", "img", "source", "link", "br"}


LABELS = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker")
SPEC = ModelSpec(
    name="toy",
    task="classification",
    inputs=(TensorSpec(name="image", dtype="float32", shape=(1, 8, 8)),),
    outputs=(TensorSpec(name="logits", dtype="float32", shape=(len(LABELS),)),),
    labels=LABELS,
)
WIDTHS = (360, 1440)


def _row(variant: str, correct: int, latency_s: float, *, pareto: bool) -> Row:
    latency = {
        batch: Quantiles(p50=latency_s * batch, p95=latency_s * batch * 1.2, p99=latency_s * 40)
        for batch in BATCHES
    }
    profile = Profile(
        runtime="onnxruntime",
        runtime_version="1",
        device="cpu",
        host="h",
        threads=1,
        latency_s=latency,
        throughput_per_s=1 / latency_s,
        memory_bytes=int(latency_s * 1e10),
        load_s=0.1,
        measured_at="2026-01-02T03:04:05+00:00",
    )
    agreement = Agreement(
        reference="fp32",
        n=1000,
        flips=Interval(value=0.031, low=0.022, high=0.044),
        right_to_wrong=912 - correct + 9,
        wrong_to_right=9,
        difference=Interval(value=(correct - 912) / 1000, low=-0.025, high=0.006),
        mcnemar_p=0.0412,
    )
    drift = Drift(rows=256, max_abs_difference=2.1e-6, same_answer_ratio=1.0, limit=0.42)
    reference = variant == "fp32"
    return Row(
        model="toy",
        variant=variant,
        runtime="onnxruntime",
        technique=variant,
        accuracy=Accuracy.of(correct, 1000),
        latency_s=latency,
        throughput_per_s=1 / latency_s,
        size_bytes=1_000_000,
        memory_bytes=int(latency_s * 1e10),
        load_s=0.1,
        cost_usd_per_million=0.01,
        pareto=pareto,
        reference=reference,
        parents=() if reference else ("fp32",),
        recipe=(Step(technique=variant, config={"ratio": 0.75, "importance": "taylor"}),),
        profiles=(profile, replace(profile, runtime="openvino")),
        build_s=12.0,
        evaluation=Evaluation(
            calibration_error=0.021,
            worst_class=WorstClass(label="shirt", accuracy=Accuracy.of(73, 100)),
            agreement=None if reference else agreement,
            drift=drift if variant != "int8" else None,
        ),
        sensitivity=tuple(
            LayerSensitivity(
                layer=f"/features/features.{n}/conv/Conv", metric="relative_error", value=0.1 / n
            )
            for n in range(1, 30)
        )
        if variant == "int8"
        else (),
    )


ROWS = (
    _row("tiny", 890, 0.0001, pareto=True),
    _row("int8", 908, 0.0005, pareto=True),
    _row("pruned", 907, 0.00052, pareto=False),
    _row("fp32", 912, 0.002, pareto=True),
    _row('<b onload="x">', 911, 0.00201, pareto=False),
)
CASCADE = CheckedCascade(
    cascade=Cascade(
        first="tiny",
        then="fp32",
        threshold=0.8731,
        max_drop_points=0.5,
        n=2000,
        escalation=Interval(value=0.21, low=0.193, high=0.228),
        accuracy=Interval(value=0.911, low=0.898, high=0.923),
        latency_s=0.00052,
    ),
    speed_up=3.85,
    cost_usd_per_million=0.0121,
    escalation=0.217,
    difference=Interval(value=-0.002, low=-0.005, high=0.001),
)
LEFT_OUT = (
    BuildRecord(
        build_key="a" * 64,
        model="toy",
        variant="int4",
        status="built",
        reason="selection accuracy 0.8120 (n = 2000) is 9.80 points below the reference's 0.9100; "
        "max_accuracy_drop_points = 4",
        finished_at="2026-01-02T03:04:05+00:00",
    ),
    BuildRecord(
        build_key="b" * 64,
        model="toy",
        variant="broken",
        status="failed",
        reason="RuntimeError: this technique always fails",
        finished_at="2026-01-02T03:04:05+00:00",
    ),
)


def _counts() -> np.ndarray:
    counts = np.random.default_rng(1).poisson(1.3, (len(LABELS), len(LABELS)))
    np.fill_diagonal(counts, 110)
    return counts


MODEL = ModelReport(
    spec=SPEC,
    rows=ROWS,
    confusions=(Confusion(variant="int8", counts=_counts()),),
    cascades=(CASCADE,),
    left_out=LEFT_OUT,
)


class _Page(HTMLParser):
    """Elements in order, and whether they are closed as they were opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_every_active_variant_is_a_row_with_the_documented_keys(ladder: Ladder) -> None:
    rows = report.rows(ladder.folder, PRICES, "toy")
    assert {row.variant for row in rows} >= set(ladder.outcomes)
    for row in rows:
        entry = row.as_json()
        assert set(entry) == KEYS
        assert set(entry["accuracy"]) == {"value", "n", "low", "high"}
        assert list(entry["latency_s"]) == ["1", "2", "4", "8", "16", "32"]
        assert set(entry["latency_s"]["1"]) == {"p50", "p95", "p99"}
    p50 = [row.latency_s[1].p50 for row in rows]
    assert p50 == sorted(p50)
    assert any(row.pareto for row in rows)
    assert [row.variant for row in rows if row.reference] == ["fp32"]


def test_cost_is_what_one_core_and_the_memory_cost_while_they_work(ladder: Ladder) -> None:
    (row,) = [r for r in report.rows(ladder.folder, PRICES) if r.variant == "fp32"]
    hourly = 0.05 + row.memory_bytes / 2**30 * 0.005
    assert math.isclose(row.cost_usd_per_million, row.latency_s[1].p50 * 1e6 * hourly / 3600)


def test_an_unknown_model_is_not_found(ladder: Ladder) -> None:
    with pytest.raises(NotFound):
        report.rows(ladder.folder, PRICES, "no")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The index, the model's page and the picture of `MODEL`."""
    pytest.importorskip("matplotlib")
    (index, toy), picture = page.write((MODEL,), tmp_path_factory.mktemp("report"))
    return index, toy, picture


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("which", [0, 1])
def test_a_page_is_well_formed_and_self_contained(
    written: tuple[Path, Path, Path], which: int
) -> None:
    text = text_of(written[which])
    found = _Page(text)
    assert found.all("html")[0]["lang"] == "en"
    assert len(found.all("title")) == len(found.all("main")) == len(found.all("h1")) == 1
    assert found.all("meta")[1]["name"] == "viewport"
    assert "prefers-color-scheme: dark" in text
    assert "http" not in text.replace("</html>", "")
    assert "<script" not in text
    for image in found.all("img"):
        assert (image["src"] or "").startswith("data:image/png;base64,")
    for source in found.all("source"):
        assert (source["srcset"] or "").startswith("data:image/png;base64,")


def test_each_model_has_a_page_that_the_index_leads_to(written: tuple[Path, Path, Path]) -> None:
    assert [path.name for path in written] == ["index.html", "toy.html", "pareto.png"]
    assert [link["href"] for link in _Page(text_of(written[0])).all("a")] == ["toy.html"]
    found = _Page(text_of(written[1]))
    places = {attributes.get("id") for _, attributes in found.elements}
    links = [link["href"] or "" for link in found.all("a")]
    assert links[0] == "index.html"
    assert {link.removeprefix("#") for link in links[1:]} <= places


def test_no_model_takes_the_place_of_the_index() -> None:
    assert page.file_name("index") != page.INDEX


def test_every_table_can_be_read_aloud(written: tuple[Path, Path, Path]) -> None:
    found = _Page(text_of(written[1]))
    tables = found.all("table")
    assert len(found.all("caption")) == len(tables) == 6
    assert all(header.get("scope") in ("col", "row") for header in found.all("th"))
    for table in tables:
        # A table that becomes cards on a telephone keeps its roles.
        assert ("cards" in (table["class"] or "")) == (table.get("role") == "table")


def test_what_scrolls_can_be_reached_by_keyboard(written: tuple[Path, Path, Path]) -> None:
    for part in _Page(text_of(written[1])).all("div"):
        if part.get("class") == "scroll":
            assert (part["tabindex"], part["role"]) == ("0", "region")
            assert part["aria-label"]


def test_the_page_tells_what_was_found(written: tuple[Path, Path, Path]) -> None:
    text = text_of(written[1]).replace("\N{NO-BREAK SPACE}", " ")
    for told in (
        "fp32 → <b>int8</b>",
        "91.20 %",
        "\N{MINUS SIGN}0.40",  # int8 against the reference
        "0.0412",
        "shirt 73.0 %",
        "batch 32",
        "tiny → fp32",
        "0.873",
        "21.0 % (19.3–22.8)",
        "9.80 points below",
        "refused by a gate",
        "RuntimeError: this technique always fails",
        "/features/features.1/conv/Conv",
        "the worst 20 of 29",
        "ratio = 0.75, importance = taylor",
    ):
        assert told in text, told


def test_the_picture_is_described_in_words(written: tuple[Path, Path, Path]) -> None:
    alt = _Page(text_of(written[1])).all("img")[0]["alt"] or ""
    assert "fp32 91.2% at 2.00 ms" in alt
    assert "pruned 90.7% at 0.52 ms with 5 MiB (dominated)" in alt


def test_names_are_escaped(written: tuple[Path, Path, Path]) -> None:
    text = text_of(written[1])
    assert "<b onload" not in text
    assert "&lt;b onload" in text


def test_the_picture_is_a_png_of_the_stated_size(written: tuple[Path, Path, Path]) -> None:
    from PIL import Image

    with Image.open(written[2]) as image:
        assert image.format == "PNG"
        assert image.size == (1600, 1000)


@pytest.mark.parametrize("count", [0, 1])
def test_a_picture_of_few_variants_can_be_drawn(count: int) -> None:
    pytest.importorskip("matplotlib")
    assert figure.render(ROWS[:count], dark=True, narrow=True).startswith(b"\x89PNG")


def test_an_empty_ladder_gives_pages_that_say_so(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pages, _ = page.write((replace(MODEL, rows=(), confusions=(), cascades=()),), tmp_path)
    for path in pages:
        _Page(text_of(path))
        assert "No variant has been built yet" in text_of(path)


def test_many_classes_are_cut_to_those_that_changed(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    counts = np.diag(np.full(100, 10))
    counts[42, 17] = 3
    many = replace(MODEL, confusions=(Confusion(variant="int8", counts=counts),))
    text = text_of(page.write((many,), tmp_path)[0][1])
    assert "3 of 1,003 test rows have another answer; 80 classes" in text
    assert '<th scope="row">42</th>' in text and '<th scope="row">17</th>' in text


def test_a_real_ladder_is_told_with_its_pairs(ladder: Ladder, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (toy,) = report.read(ladder.folder, PRICES, "toy")
    others = {name for name in ladder.outcomes if name != "fp32"}
    assert {one.variant for one in toy.confusions} >= others
    for one in toy.confusions:
        row = next(row for row in toy.rows if row.variant == one.variant)
        assert row.evaluation is not None and row.evaluation.agreement is not None
        moved = int(one.counts.sum() - one.counts.diagonal().sum())
        assert one.counts.sum() == 400
        assert row.evaluation.agreement.flips.value == pytest.approx(moved / 400)
    chain = next(row for row in toy.rows if row.variant == "distilled+int8")
    assert chain.parents == ("distilled", "fp32")
    assert "distilled → <b>distilled+int8</b>" in text_of(page.write((toy,), tmp_path)[0][1])


def test_what_the_gates_refuse_is_told_until_they_let_it_pass(
    tmp_path: Path, data_folder: DataFolder
) -> None:
    recipes = '[[recipe]]\nname = "fp32"\n'
    build(written_plans.onnx(tmp_path, recipes, "[gates]\nmin_accuracy = 1.0"), data_folder)
    (refused,) = report.read(data_folder, PRICES)
    assert [(one.variant, one.status) for one in refused.left_out] == [("fp32", "built")]
    assert "min_accuracy = 1" in refused.left_out[0].reason
    build(written_plans.onnx(tmp_path, recipes), data_folder)
    (passed,) = report.read(data_folder, PRICES)
    assert passed.left_out == ()
    assert [row.variant for row in passed.rows] == ["fp32"]


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("which", [0, 1], ids=["index", "model"])
def test_a_real_browser_shows_it_at_any_width_and_shade(
    written: tuple[Path, Path, Path], which: int, width: int, dark: bool, tmp_path: Path
) -> None:
    program = browser.find()
    if program is None:
        pytest.skip(f"none of {', '.join(browser.NAMES)} is installed")
    chromium = Browser(path=program, scratch=tmp_path)
    found = chromium.probe(written[which], width=width, dark=dark)
    assert found["inner"] == found["scroll"] == width, "the page does not scroll sideways"
    assert found["wide"] == [], "nothing sticks out"
    if width == 1440:
        assert found["scrolling"] == [], "every table fits"
    assert found["background"] == ("rgb(20, 24, 29)" if dark else "rgb(255, 255, 255)")
    assert found["reached"], "links, folds and scrolling parts take the keyboard's focus"
    assert found["resources"] == [], "nothing is fetched"
    shot = tmp_path / f"{written[which].stem}-{width}-{'dark' if dark else 'light'}.png"
    chromium.screenshot(written[which], shot, width=width, dark=dark)
    from PIL import Image

    with Image.open(shot) as image:
        assert image.width == width
        corner = image.convert("RGB").getpixel((2, 2))
        assert corner == ((20, 24, 29) if dark else (255, 255, 255))
