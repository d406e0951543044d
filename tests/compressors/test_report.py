"""The report: JSON with the documented keys, and a page that everybody can read."""

import math
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest

from compressors import report
from compressors.report import Row
from tests.compressors.conftest import Ladder
from variants.cost import Prices
from variants.errors import NotFound
from variants.profile import BATCHES, Accuracy, Quantiles

PRICES = Prices(core_hour_usd=0.05, gib_hour_usd=0.005)
KEYS = {
    "model", "variant", "runtime", "technique", "accuracy", "latency_s", "throughput_per_s",
    "size_bytes", "memory_bytes", "load_s", "cost_usd_per_million", "pareto",
}  # fmt: skip
VOID = {"meta", "img", "source", "link", "br"}


def _row(variant: str, correct: int, latency_s: float, *, pareto: bool) -> Row:
    quantiles = Quantiles(p50=latency_s, p95=latency_s * 1.2, p99=latency_s * 1.5)
    return Row(
        model="toy",
        variant=variant,
        runtime="onnxruntime",
        technique=variant,
        accuracy=Accuracy.of(correct, 1000),
        latency_s=dict.fromkeys(BATCHES, quantiles),
        throughput_per_s=1 / latency_s,
        size_bytes=1_000_000,
        memory_bytes=int(latency_s * 1e10),
        load_s=0.1,
        cost_usd_per_million=0.01,
        pareto=pareto,
        reference=variant == "fp32",
    )


ROWS = (
    _row("tiny", 890, 0.0001, pareto=True),
    _row("int8", 908, 0.0005, pareto=True),
    _row("pruned", 907, 0.00052, pareto=False),
    _row("fp32", 912, 0.002, pareto=True),
    _row('<b onload="x">', 911, 0.00201, pareto=False),
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


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The page and the picture of `ROWS`."""
    pytest.importorskip("matplotlib")
    return report.write(ROWS, tmp_path_factory.mktemp("report"))


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


def test_the_page_is_well_formed_and_self_contained(written: tuple[Path, Path]) -> None:
    text = written[0].read_text(encoding="utf-8")
    page = _Page(text)
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("title")) == len(page.all("main")) == len(page.all("h1")) == 1
    assert page.all("meta")[1]["name"] == "viewport"
    assert "prefers-color-scheme: dark" in text
    assert "http" not in text.replace("</html>", "")
    assert "<script" not in text
    for image in page.all("img"):
        assert (image["src"] or "").startswith("data:image/png;base64,")


def test_the_table_can_be_read_aloud(written: tuple[Path, Path]) -> None:
    page = _Page(written[0].read_text(encoding="utf-8"))
    assert len(page.all("caption")) == 1
    scopes = [header.get("scope") for header in page.all("th")]
    assert scopes.count("col") == 11
    assert scopes.count("row") == len(ROWS)


def test_the_picture_is_described_in_words(written: tuple[Path, Path]) -> None:
    page = _Page(written[0].read_text(encoding="utf-8"))
    alt = page.all("img")[0]["alt"] or ""
    assert "fp32 91.2% at 2.00 ms" in alt
    assert "pruned 90.7% at 0.52 ms with 5 MiB (dominated)" in alt


def test_names_are_escaped(written: tuple[Path, Path]) -> None:
    text = written[0].read_text(encoding="utf-8")
    assert "<b onload" not in text
    assert "&lt;b onload" in text


def test_the_picture_is_a_png_of_the_stated_size(written: tuple[Path, Path]) -> None:
    from PIL import Image

    with Image.open(written[1]) as image:
        assert image.format == "PNG"
        assert image.size == (1600, 1000)


def test_an_empty_ladder_gives_a_page_that_says_so(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    page, _ = report.write((), tmp_path)
    text = page.read_text(encoding="utf-8")
    _Page(text)
    assert "No variant has been built yet" in text
