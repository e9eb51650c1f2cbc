"""The page of a comparison: every number traced to its cell, nothing loaded, every name escaped, the viewer's
data decoded. All comparisons are made up."""

from __future__ import annotations

import base64
import io
import json
import re
import shlex
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipdrift.comparison import Comparison
from clipdrift.pages.cells import CellLookup, UnresolvedError
from clipdrift.pages.compare import write_page
from clipdrift.pages.strips import HEIGHT, strip
from clipdrift.pages.viewer import pack
from clipdrift.runs.maps import Maps
from clipdrift.texts import change, number
from made_comparisons import ODD, alone, compared, made_comparison, made_maps
from page_reading import Page, Tables, agrees

VERDICT = ("The tower moved.", "Made up & <not> measured.")
MakePage = Callable[..., tuple[Page, str]]


@pytest.fixture(scope="module")
def figure(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("figures") / "cka_matrix.png"
    Image.new("RGB", (4, 3), "red").save(path)
    return path


@pytest.fixture(scope="module")
def make_page(tmp_path_factory: pytest.TempPathFactory, figure: Path) -> MakePage:
    """``make_page(comparison, maps=None)``: the page, parsed, and its text."""

    def make(comparison: Comparison, maps: Maps | None = None) -> tuple[Page, str]:
        path = tmp_path_factory.mktemp("page") / "index.html"
        assert write_page(comparison, maps, {"cka_matrix": figure}, path, verdict=VERDICT) == path
        text = path.read_text(encoding="utf-8")
        return Page.of(text), text

    return make


@pytest.fixture(scope="module")
def usual() -> Comparison:
    return made_comparison()


@pytest.fixture(scope="module")
def page(usual: Comparison, make_page: MakePage) -> tuple[Page, str]:
    return make_page(usual, made_maps(usual))


# ---------------------------------------------------------------- numbers


CASES = {
    "usual": {},
    "pooling head": {"blocks": 12, "pooling_head": True},
    "no transfer, no spectra": {"transfer": False, "spectra": False, "extras": False},
    "odd names": {"name": ODD, "blocks": 3},
    "both towers": {"texts": True, "blocks": 8},
    "index": {"indexed": True, "blocks": 2, "heads": 2},
    "index of odd names": {"indexed": True, "name": ODD, "blocks": 2, "heads": 2},
    "part of the weights": {"weight_kinds": ("q",), "blocks": 2, "heads": 2},
}


@pytest.mark.parametrize("case", CASES)
def test_every_number_is_the_cell_that_its_key_names(case: str, make_page: MakePage) -> None:
    comparison = made_comparison(**CASES[case])  # type: ignore[arg-type]
    parsed, _ = make_page(comparison, made_maps(comparison, 2))
    keyed = [element for element in parsed.elements if element["data-key"]]
    assert len(keyed) > 100
    tables = Tables(comparison)
    for element in keyed:
        key = element["data-key"]
        value = tables[key]
        text = element.text.rpartition(": ")[2] if element.tag == "rect" else element.text
        assert agrees(text, value), f"{key}: {text!r} is printed, {value!r} in the table"


def test_a_wrong_number_would_be_found() -> None:
    assert agrees("0.0123", 0.01234)
    assert agrees("−1.5 %", -1.4501)
    assert agrees("87,849,216", 87_849_216)
    assert not agrees("0.0123", 0.01239)
    assert not agrees("1.5", -1.5)
    assert not agrees("n/a", 0.0)
    assert not agrees("0.000", 0.004)


def test_digits_in_tables_have_a_key_or_count_something(page: tuple[Page, str]) -> None:
    parsed, _ = page
    keyed = {id(outer) for e in parsed.elements if e["data-key"] for outer in (*e.inside, e)}
    for element in parsed.all("td"):
        if id(element) not in keyed and re.search(r"\d", element.text):
            assert re.fullmatch(r"\d{1,2}", element.text), element.text  # a block or a k
    prose = " ".join(e.text for e in parsed.all("p") if e["class"] != "controls")
    loose = set(re.findall(r"\d[\d.,]*\d|\d", prose)) - {"1", "0", "20", "65,536"}
    facts = {e.text for e in parsed.elements if e["data-key"]}
    assert loose <= facts, loose - facts


def test_every_measure_is_there_with_all_its_columns(usual: Comparison, page: tuple[Page, str]) -> None:
    keys = {element["data-key"] for element in page[0].elements}
    for name, found in usual.measures.items():
        columns = ("before", "after", "drift") if found.value is None else ("value",)
        for column in columns:
            assert f"comparison.csv:{name}///{column}" in keys
        for block in range(1, len(found.drift_blocks or found.value_blocks) + 1):
            assert f"comparison.csv:{name}//{block}/{columns[-1]}" in keys
    for column in ("before", "after"):
        assert f"comparison.csv:zero_shot_accuracy/nothing%2Fto%20keep//{column}" in keys
        assert f"field:retrieval/text_to_image_{column}/10" in keys
        assert f"field:subsets/measures/sink_patches/{column}" in keys
        assert f"field:transfer/cifar100/ensemble_{column}" in keys
    assert "comparison.csv:retention/nothing%2Fto%20keep//value" not in keys  # nothing was there to keep
    assert "comparison.csv:effective_rank/fc1/6/value" in keys
    assert "field:cka_matrix/5/0" in keys
    assert "field:environment/packages/torch" in keys


def test_heads_are_the_first_twenty_of_each_measure(usual: Comparison, page: tuple[Page, str]) -> None:
    keys = [element["data-key"] for element in page[0].elements]
    frame = usual.heads_frame()
    for measure in ("entropy", "erf95", "gini"):
        rows = frame[frame["measure"] == measure].head(20)
        expected = [f"heads.csv:{measure}/{row.block}/{row.head}/change" for row in rows.itertuples()]
        assert [
            k for k in keys if k.startswith(f"heads.csv:{measure}/") and k.endswith("/change")
        ] == expected
    assert [option["value"] for option in page[0].all("option")] == ["entropy", "erf95", "gini"]


def test_a_number_that_no_table_holds_is_an_error(usual: Comparison) -> None:
    cells = CellLookup(usual)
    for ask in (
        lambda: cells.table("entropy", "value"),
        lambda: cells.table("entropy", "drift", block=7),
        lambda: cells.table("zero_shot_accuracy", "before", "imagenet"),
        lambda: cells.field("shape", "depth"),
        lambda: cells.field("cka_matrix", 6, 0),
    ):
        with pytest.raises(UnresolvedError):
            ask()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000"),
        (0.01234, "0.0123"),
        (0.00001234, "1.23e−05"),
        (-1.5, "−1.500"),
        (12.345, "12.35"),
        (345.67, "345.7"),
        (1234.6, "1,235"),
    ],
)
def test_numbers_keep_three_digits(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "absolute", "text"),
    [
        (5.26, False, "+5.3 %"),
        (-0.034, False, "−0.034 %"),
        (-1e-5, False, "−0.000010 %"),
        (0.0, False, "0 %"),
        (1.5, True, "+1.500"),
        (-0.5, True, "−0.500"),
        (0.0, True, "0"),
    ],
)
def test_drifts_have_a_sign_and_a_unit(value: float, absolute: bool, text: str) -> None:
    assert change(value, absolute) == text


# ---------------------------------------------------------------- strips


def test_strips_are_in_proportion_and_start_where_nothing_changed(usual: Comparison) -> None:
    measures = {
        "entropy": compared("entropy", [1.0, 1.0, 1.0], [1.2, 0.9, 1.0]),
        "cka": alone("cka", np.array([1.0, 0.9, 0.6])),
    }
    cells = CellLookup(usual.model_copy(update={"measures": measures}))
    drift = strip("entropy", measures["entropy"], cells)
    cka = strip("cka", measures["cka"], cells)
    assert drift is not None
    assert cka is not None
    assert [bar.height for bar in drift.bars] == pytest.approx([20, 10, 0])
    assert [bar.rises for bar in drift.bars] == [True, False, False]
    assert drift.bars[0].top + drift.bars[0].height == pytest.approx(drift.bars[1].top) == drift.rest
    assert [bar.height for bar in cka.bars] == pytest.approx([0, 7.5, 30])
    assert {bar.top for bar in cka.bars} == {cka.rest}
    assert max(bar.top + bar.height for bar in (*drift.bars, *cka.bars)) <= HEIGHT
    assert (drift.largest.block, cka.largest.block) == (1, 3)
    assert (drift.largest.cell.text, cka.largest.cell.text) == ("+20.0 %", "0.600")


def test_a_strip_of_nothing_is_a_line_and_a_single_value_has_none(usual: Comparison) -> None:
    still = {"entropy": compared("entropy", [1.0, 1.0], [1.0, 1.0])}
    found = strip("entropy", still["entropy"], CellLookup(usual.model_copy(update={"measures": still})))
    assert found is not None
    assert [bar.height for bar in found.bars] == [0, 0]
    assert strip("rollout_gini", usual.measures["rollout_gini"], CellLookup(usual)) is None


# ---------------------------------------------------------------- the file


def test_it_is_well_formed_and_loads_nothing(page: tuple[Page, str]) -> None:
    parsed, text = page
    assert parsed.errors == []
    assert text.startswith("<!DOCTYPE html>")
    assert len(parsed.all("script")) == 2
    for element in parsed.elements:
        for name in ("src", "href", "action", "data", "poster", "srcset", "xlink:href"):
            assert element[name].startswith(("data:", "#")) or not element[name], (element.tag, name)
        assert not [name for name in element.attributes if name.startswith("on")], element.tag
    assert not re.search(r"url\(|@import|https?://|//cdn", text)
    policy = next(e["content"] for e in parsed.all("meta") if e["http-equiv"] == "Content-Security-Policy")
    assert "default-src 'none'" in policy


def test_scripts_never_make_markup_of_data() -> None:
    script = files("clipdrift.pages").joinpath("compare.js").read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(", script)
    assert "</" not in script  # would end the script


def test_sections_come_in_order(page: tuple[Page, str]) -> None:
    ids = [e["id"] for e in page[0].all("section")]
    families = ["attention", "flow", "representation", "weights"]
    rest = [
        "transfer",
        "retrieval",
        "sensitivity",
        "figures",
        "heads",
        "viewer",
        "spectra",
        "facts",
        "reproduce",
    ]
    assert ids == ["verdict", "notes", *families, *rest]
    linked = [e["href"] for e in page[0].all("a") if any(o.tag == "nav" for o in e.inside)]
    assert linked == [f"#{name}" for name in (*families, *rest)]


def test_the_text_tower_has_a_section_where_it_changed(make_page: MakePage) -> None:
    """Its own number of blocks; where it is the same, a word says so."""
    changed, same = make_page(made_comparison(8, texts=True)), make_page(made_comparison(8))
    (section,) = [e for e in changed[0].all("section") if e["id"] == "text"]
    assert "The text tower on class prompts of cifar100" in section.text
    keys = {e["data-key"] for e in changed[0].elements}
    assert "comparison.csv:text_cka//4/value" in keys
    assert "comparison.csv:text_cka//5/value" not in keys
    assert "drift or value by block" in section.text  # of attention, of CKA and weights
    assert {"comparison.csv:text_gini///drift", "field:text_tower/count", "field:text_tower/short"} <= keys
    assert "text" not in {e["id"] for e in same[0].all("section")}
    assert "<dt>text towers</dt><dd>the same</dd>" in same[1]
    assert "<dt>text towers</dt>" not in changed[1]


def test_an_index_has_a_section_with_every_search(make_page: MakePage) -> None:
    """A table for images and one for captions; intervals where there are; the way to do it again."""
    comparison = made_comparison(2, 2, indexed=True)
    parsed, text = make_page(comparison)
    assert parsed.errors == []
    (section,) = [e for e in parsed.all("section") if e["id"] == "index"]
    keys = [e["data-key"] for e in parsed.elements if e["data-key"].startswith("field:index/by_")]
    for place, yardsticks in (("by_image", 9), ("by_text", 7)):
        values = [k for k in keys if k.startswith(f"field:index/{place}/searches") and k.endswith("/value")]
        assert len(values) == len(set(values)) == 5 * yardsticks
    assert "field:index/by_image/searches/today/overlap/1/low" not in keys
    assert "field:index/by_image/won_back/ridge/overlap%4010/value" in keys
    assert not [key for key in keys if "won_back/rotation" in key]
    assert "share of right class of 10" in section.text
    assert "own image in 5" in section.text
    assert "--index &#39;photos/of pets&#39; --queries &#39;photos/of other pets&#39;" in text


def test_what_was_not_measured_is_left_out(make_page: MakePage) -> None:
    bare = made_comparison(transfer=False, spectra=False, extras=False).model_copy(update={"heads": ()})
    parsed, _ = make_page(bare)
    ids = {e["id"] for e in parsed.all("section")}
    assert not ids & {
        "notes",
        "transfer",
        "retrieval",
        "sensitivity",
        "heads",
        "viewer",
        "spectra",
        "ability",
    }
    assert len(parsed.all("script")) == 1
    assert parsed.errors == []


def test_verdict_and_notes_stand_as_they_are(usual: Comparison, page: tuple[Page, str]) -> None:
    lines = [e.text for e in page[0].all("li")]
    assert lines[:2] == list(VERDICT)
    assert usual.notes[0] in lines
    assert "photos/broken.jpg: truncated file" in lines


def test_it_can_be_used_without_a_mouse_or_sight(page: tuple[Page, str]) -> None:
    parsed, _ = page
    ids = [e["id"] for e in parsed.elements if e["id"]]
    assert len(ids) == len(set(ids))
    for select in parsed.all("select"):
        assert any(outer.tag == "label" for outer in select.inside), select["id"]
    assert all("alt" in image.attributes for image in parsed.all("img"))
    shown = next(image for image in parsed.all("img") if image["src"])
    assert shown["alt"].startswith("Heat map")
    for svg in parsed.all("svg"):
        assert svg["role"] == "img"
        assert "blocks" in svg["aria-label"]
    assert parsed.all("html")[0]["lang"] == "en"
    for labelled in parsed.all("section"):
        assert labelled["aria-labelledby"] in ids


def test_figures_are_inside(page: tuple[Page, str], figure: Path) -> None:
    shown = next(e["src"] for e in page[0].all("img") if e["src"])
    head, _, body = shown.partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(body) == figure.read_bytes()


def test_figures_of_other_formats_are_refused(usual: Comparison, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a.pdf: a page shows .png or .svg figures"):
        write_page(usual, None, {"a": tmp_path / "a.pdf"}, tmp_path / "index.html", verdict=())
    assert not list(tmp_path.iterdir())


def test_names_are_text_wherever_they_stand(make_page: MakePage) -> None:
    comparison = made_comparison(blocks=2, heads=2, name=ODD)
    parsed, text = make_page(comparison, made_maps(comparison, 2))
    assert parsed.errors == []
    assert "<img src=x" not in text
    assert "alert(1)>" not in text
    assert len(parsed.all("script")) == 2
    assert parsed.all("h1")[0].text == f"{ODD} against {ODD}"
    assert parsed.all("title")[0].text.startswith(f"{ODD} against {ODD}")
    assert ODD in [e.text for e in parsed.all("th")]  # a transfer set
    assert ODD in [e.text for e in parsed.all("q")]  # a prompt
    assert ODD in [e.text for e in parsed.all("li")]  # a note
    assert json.loads(parsed.id("view-data").text)["titles"] == [ODD, ODD]
    words = shlex.split(parsed.all("code")[0].text)
    assert words[:5] == ["clipdrift", "compare", ODD, ODD, "--images"]


def test_how_to_reproduce(usual: Comparison, page: tuple[Page, str], make_page: MakePage) -> None:
    words = shlex.split(page[0].all("pre")[0].text)
    assert words[2:6] == [usual.base.name, usual.tuned.name, "--images", "photos/of pets"]
    assert [words[i + 1] for i, w in enumerate(words) if w == "--transfer"] == list(usual.transfer)
    memory = usual.model_copy(update={"tuned": usual.tuned.model_copy(update={"kind": "in memory"})})
    assert make_page(memory)[0].all("pre") == []


# ---------------------------------------------------------------- attention


def unpacked(data: dict, side: str, image: int, blocks: int, patches: int) -> tuple[np.ndarray, np.ndarray]:
    """(L, 1 + heads, P) shares, and the largest error of each that rounding may bring."""
    numbers = np.frombuffer(base64.b64decode(data[side][image]), f"<u{data['width']}")
    scales = np.frombuffer(base64.b64decode(data[f"{side}_scales"][image]), "<f4")
    slots = len(data["heads"][0]) + 1
    scale = scales.reshape(blocks, slots, 1).astype(float)
    top = 256 ** data["width"] - 1
    return numbers.reshape(blocks, slots, patches) * scale / top, 0.51 * scale / top


@pytest.mark.parametrize("width", [2, 1])
def test_attention_decodes_to_the_maps(usual: Comparison, width: int) -> None:
    maps = made_maps(usual, 3)
    needed = 3 * 6 * 5 * 2 * (49 * 2 + 4) * 4 // 3
    data, said = pack(usual, maps, budget=needed if width == 2 else needed - 1)
    assert data["width"] == width
    assert ("65,536 steps" if width == 2 else "256 steps") in said[0]
    assert len(said) == 1
    for side in ("before", "after"):
        for image in range(3):
            shares, step = unpacked(data, side, image, 6, 49)
            for block in range(1, 7):
                for slot, head in enumerate((None, 1, 2, 3, 4)):
                    true = maps.of(side, image, block, head).ravel()
                    assert np.abs(shares[block - 1, slot] - true).max() <= step[block - 1, slot, 0]


def test_pictures_come_back_to_the_byte(usual: Comparison) -> None:
    maps = made_maps(usual, 2)
    data, _ = pack(usual, maps)
    for uri, picture in zip(data["pictures"], maps.images, strict=True):
        head, _, body = uri.partition(",")
        assert head == "data:image/png;base64"
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(body)))), picture)


def test_a_small_budget_keeps_the_heads_that_changed_most_and_says_so() -> None:
    comparison = made_comparison(3, 8)
    maps = made_maps(comparison, 4)
    budget = 4 * 3 * 6 * 2 * (49 + 4) * 4 // 3  # mean and five heads
    data, said = pack(comparison, maps, budget)
    assert "the 5 that changed most are here" in said[1]
    assert said[-1] == "All are in maps.npz."
    frame = comparison.heads_frame()
    for block, kept in enumerate(data["heads"], start=1):
        ranked = frame[(frame["measure"] == "entropy") & (frame["block"] == block)]["head"]
        assert kept == sorted(ranked[:5])
    shares, step = unpacked(data, "after", 3, 3, 49)
    true = maps.of("after", 3, 2, data["heads"][1][4]).ravel()
    assert np.abs(shares[1, 5] - true).max() <= step[1, 5, 0]
    assert sum(len(part) for side in ("before", "after") for part in data[side]) <= budget
    data, said = pack(comparison, maps, budget // 2)
    assert len(data["titles"]) == len(data["after"]) == 2
    assert "Of 4 images, the first 2 are here." in said


def test_heads_of_an_unlisted_comparison_are_kept_in_order() -> None:
    comparison = made_comparison(2, 8).model_copy(update={"heads": ()})
    data, _ = pack(comparison, made_maps(comparison, 1), budget=1)
    assert data["heads"] == [[1, 2, 3, 4]] * 2


@pytest.mark.parametrize(
    ("blocks", "heads", "side", "most"), [(12, 12, 7, 1_500_000), (24, 16, 24, 13_000_000)]
)
def test_size_of_a_usual_and_of_a_large_page(
    blocks: int, heads: int, side: int, most: int, tmp_path: Path
) -> None:
    comparison = made_comparison(blocks, heads, (side, side))
    path = write_page(comparison, made_maps(comparison, 6), {}, tmp_path / "index.html", verdict=())
    assert path.stat().st_size < most


def test_large_photographs_are_jpeg(monkeypatch: pytest.MonkeyPatch, usual: Comparison) -> None:
    monkeypatch.setattr("clipdrift.pages.viewer._PICTURES", 100)
    data, _ = pack(usual, made_maps(usual, 1))
    assert data["pictures"][0].startswith("data:image/jpeg;base64,")


def test_links_to_heads_lead_to_maps_that_are_there(usual: Comparison, page: tuple[Page, str]) -> None:
    links = [e["href"] for e in page[0].all("a") if e.text == "show"]
    assert len(links) == 3 * 20
    first = usual.heads_frame().iloc[0]
    assert links[0] == f"#block={first['block']}&head={first['head']}"


def test_the_template_is_part_of_the_package() -> None:
    names = {file.name for file in files("clipdrift.pages").iterdir()}
    parts = ("compare", "macros", "tables", "pictures", "facts")
    assert {f"{part}.html.j2" for part in parts} | {"compare.css", "compare.js"} <= names
