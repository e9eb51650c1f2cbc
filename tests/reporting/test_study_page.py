"""The page of a study in a real browser: no errors, and the controls do what they say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from browser import looked_at, needs_browser
from clipdrift.reporting import Report

pytestmark = needs_browser


SCRIPTS = {
    "sorted": """
        type("runs-search", "lora pets");
        const words = shown("#runs-table").map((r) => r.textContent);
        const count = document.getElementById("runs-count").textContent;
        type("runs-search", "");
        const heads = [...document.querySelectorAll("#runs-table thead th")];
        const place = heads.findIndex((h) => h.dataset.column === "accuracy");
        const values = () => shown("#runs-table").map((r) => r.cells[place].textContent.trim());
        heads[place].querySelector("button").click();
        const up = values();
        heads[place].querySelector("button").click();
        return {words, count, up, down: values(), sort: heads[place].getAttribute("aria-sort")};
        """,
    "walked": """
        const rows = shown("#runs-table");
        const title = () => document.getElementById("run-title").textContent;
        const hidden = document.getElementById("run").hidden;
        rows[1].querySelector("button").click();
        const first = title();
        document.getElementById("run-after").click();
        const next = title();
        document.getElementById("run-before").click();
        return {hidden, keys: rows.map((r) => r.dataset.row), first, next, back: title(),
                hash: location.hash, charts: document.querySelectorAll("#run-charts .chart").length};
        """,
    "filtered": """
        type("tests-question", "tests_methods");
        const visible = [...document.querySelectorAll("[data-tests]")].filter((p) => p.offsetParent);
        const rows = () => shown('[data-tests="tests_methods"]').map((r) => r.dataset.row);
        const all = rows();
        type("tests-resolved", true);
        const resolved = rows();
        type("tests-resolved", false);
        type("tests-search", "paired retention");
        return {visible: visible.map((p) => p.dataset.tests), all, resolved, words: rows()};
        """,
    "viewed": """
        const runs = [...document.getElementById("view-run").options].map((o) => o.value);
        const pixels = (id) => { const c = document.querySelector(`#map-${id} canvas`);
          return c.toDataURL(); };
        type("view-run", runs[0]);
        type("view-block", "2");
        const one = {before: pixels("before"), after: pixels("after")};
        type("view-run", runs[1]);
        return {runs, one, other: {before: pixels("before"), after: pixels("after")},
                block: document.getElementById("view-block").value, hash: location.hash};
        """,
}
"""What a person might do, one after the other; each on rows as the one before left them."""


Answers = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def answers(reported: Report, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """What the scripts found, in a copy of the page that lets them run; opened once, as a browser is slow."""
    text = reported.page.read_text(encoding="utf-8")
    text, found = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    assert found == 1
    helpers = """
      const type = (id, text) => { const e = document.getElementById(id);
        if (e.type === "checkbox") e.checked = text; else e.value = text;
        for (const kind of ["input", "change"]) e.dispatchEvent(new Event(kind, {bubbles: true})); };
      const shown = (table) => [...document.querySelectorAll(table + " tbody tr")].filter((r) => !r.hidden);
      const said = document.createElement("pre"); said.id = "told"; document.body.append(said);
      const out = {};
    """
    steps = "".join(f"out.{name} = (() => {{{script}}})();" for name, script in SCRIPTS.items())
    body = f"<script>{{{helpers} {steps} said.textContent = JSON.stringify(out);}}</script></body>"
    folder = tmp_path_factory.mktemp("copy")
    (folder / "copy.html").write_text(text.replace("</body>", body), encoding="utf-8")
    page, console = looked_at(folder / "copy.html", folder / "profile")
    assert console == []
    heard: Answers = json.loads(page.id("told").text)
    return heard


def test_the_page_opens_without_errors_on_the_run_of_its_address(reported: Report, tmp_path: Path) -> None:
    """Under its own content policy, which forbids everything that is not inside."""
    runs = pd.read_csv(reported.page.parent / "tables" / "runs.csv").set_index("key")
    history = pd.read_csv(reported.page.parent / "tables" / "history.csv").set_index("key")
    key = runs[runs["status"] == "done"].index[1]
    page, console = looked_at(reported.page, tmp_path, f"#run={key}")
    assert console == []
    assert key in page.id("run-title").text
    assert json.loads(page.id("run-config").text)["seed"] == runs.loc[key, "seed"]
    dots = [e for e in page.elements if e["data-key"].startswith(f"history.csv:{key}@")]
    assert dots
    for dot in dots:
        place, column = dot["data-key"].removeprefix("history.csv:").split("/")
        shown = float(dot.text.rsplit(" ", 1)[1].replace("−", "-"))
        assert shown == pytest.approx(history.loc[place, column], rel=1e-3, abs=1e-6)


def test_search_and_sorting_of_runs(reported: Report, answers: Answers) -> None:
    """All words must occur; a heading sorts by value, then the other way; what is missing stands last."""
    found = answers["sorted"]
    assert found["words"]
    assert all("lora" in text and "pets" in text for text in found["words"])
    runs = pd.read_csv(reported.page.parent / "tables" / "runs.csv")
    assert found["count"] == f"{len(found['words'])} of {len(runs)} rows"
    assert len(found["words"]) == ((runs["method"] == "lora") & (runs["target"] == "pets")).sum()
    numbers = [float(text) for text in found["up"] if text]
    assert numbers == sorted(numbers)
    assert found["up"][len(numbers) :] == [""] * runs["accuracy"].isna().sum()
    assert [float(text) for text in found["down"] if text] == numbers[::-1]
    assert found["down"][-1] == ""
    assert found["sort"] == "descending"


def test_a_run_is_chosen_and_walked_through(reported: Report, answers: Answers) -> None:
    found = answers["walked"]
    keys = [row.removeprefix("runs.csv:") for row in found["keys"]]
    assert found["hidden"]
    assert keys[1] in found["first"]
    assert keys[2] in found["next"]
    assert found["back"] == found["first"]
    assert found["hash"] == f"#run={keys[1]}"
    assert found["charts"] == 6


def test_statistics_are_filtered(reported: Report, answers: Answers) -> None:
    """One question at a time; words; only what holds after Holm."""
    found = answers["filtered"]
    assert found["visible"] == ["tests_methods"]
    sheet = pd.read_csv(reported.page.parent / "tables" / "tests_methods.csv")
    keys = "tests_methods.csv:" + sheet["key"]
    assert found["all"] == list(keys)
    assert found["resolved"] == list(keys[sheet["p_corrected"] < 0.05])
    paired = sheet["test"].str.contains("paired") & sheet["statistic"].str.contains("retention")
    assert found["words"] == list(keys[paired])


def test_the_viewer_shows_the_run_that_is_chosen(reported: Report, answers: Answers) -> None:
    """Other runs, other maps; the image, block and head stay."""
    found = answers["viewed"]
    assert len(found["runs"]) > 1
    assert found["one"]["after"] != found["other"]["after"]
    assert found["block"] == "2"
    assert f"run={found['runs'][0]}" in found["hash"]
