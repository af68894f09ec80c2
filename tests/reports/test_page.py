"""The page in a browser: nothing fails, nothing is asked for, tables sort and filter, cells open their protocol."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from chromium import PROGRAM, Page

from selfpatch.reports import pictures
from selfpatch.reports.report import main

AXE = importlib.util.find_spec("axe_core_python")
browser = pytest.mark.skipif(not PROGRAM, reason="no Chromium here")
# acts as a reader does, and says what it saw
READER = """(() => {
  const seen = { wide: document.documentElement.scrollWidth - innerWidth };
  const table = document.querySelector("table.sheet"), rows = () => [...table.tBodies[0].rows];
  const column = [...table.tHead.rows].at(-1).cells.length - 1, head = [...table.tHead.rows].at(-1).cells[column];
  const values = () => rows().map((row) => parseFloat(row.cells[column].firstElementChild.textContent));
  head.querySelector("button").click(); seen.down = values(); seen.sort = head.getAttribute("aria-sort");
  head.querySelector("button").click(); seen.up = values();
  const filter = document.querySelector(".filter input");
  filter.value = "SELFPATCH"; filter.dispatchEvent(new Event("input"));
  seen.left = rows().filter((row) => !row.hidden).length;
  filter.value = ""; filter.dispatchEvent(new Event("input"));
  const links = [...document.querySelectorAll("a[href^='#']")];
  seen.dangling = links.filter((a) => !document.getElementById(a.hash.slice(1))).length;
  return seen;
})()"""
PICTURES = """(async () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
  const images = [...document.images];
  for (const image of images) image.loading = "eager";
  await Promise.all(images.map((image) => image.decode()));
  return images.length && images.every((image) => image.naturalWidth > 0);
})()"""
FOCUS = "(document.activeElement.closest('dialog') ? 'dialog ' : '') + document.activeElement.className"


@pytest.fixture
def report(davis, write_record, tmp_path):
    """The page of five methods on two benchmarks, one of them with a hostile name."""
    methods = ["Random", "DINO", "DINO+SelfPatch", "MoBY", "<img src=x onerror=alert(1)>"]
    for shift, method in enumerate(methods):
        units = davis.units(0.02 * shift)
        write_record(method, metrics=davis.metrics(units), units=units, notes=["object 2 was lost"], miniature=True)
        write_record(method, task="ade20k", metrics={"mIoU": 30.0 - shift, "IoU/wall": 60.0})
    out = tmp_path / "report"
    main(["--records", str(tmp_path / "records"), "--out", str(out), "--resamples", "20"])
    return out / "report.html"


@browser
def test_a_reader_can_use_the_page(report, tmp_path):
    with Page(tmp_path / "profile") as page:
        for width, dark in ((1280, False), (390, True), (1280, True), (390, False)):
            page.open(report, width, dark)
            check_use(page)
            check_keyboard(page)
            assert page.run(PICTURES)
            check_axe(page)
            names = [name for name, _ in page.events]
            assert not {"Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"} & set(names)
            asked = [what["request"]["url"] for name, what in page.events if name == "Network.requestWillBeSent"]
            assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
            assert [url for url in asked if url.startswith("file")] == [report.as_uri()]
    assert report.stat().st_size < 10e6


def check_use(page):
    seen = page.run(READER)
    assert seen["wide"] <= 0  # only tables scroll sideways
    assert seen["down"] == sorted(seen["down"], reverse=True)
    assert seen["up"] == sorted(seen["up"])
    assert seen["sort"] == "descending"
    assert seen["left"] == 1
    assert seen["dangling"] == 0


def check_keyboard(page):
    """A protocol's card is opened, read and closed without a mouse, and the focus comes back."""
    for _ in range(40):
        page.press("Tab")
        if page.run(FOCUS) == "cell":
            break
    page.press("Enter")
    assert page.run("document.querySelector('dialog[open]').textContent.includes('topk')")
    assert page.run(FOCUS).startswith("dialog")
    page.press("Escape")
    assert page.run("!document.querySelector('dialog[open]')")
    assert page.run(FOCUS) == "cell"


def check_axe(page):
    """No serious fault of accessibility by axe-core's rules, with everything unfolded."""
    if AXE is None:
        pytest.skip("no axe-core here: pip install axe-core-python")
    page.run((Path(AXE.origin).parent / "axe.min.js").read_text(encoding="utf-8") + ";0")
    found = page.run("axe.run(document).then((found) => found.violations)")
    grave = [one for one in found if one["impact"] in ("serious", "critical")]
    assert not [(one["id"], one["nodes"][0]["html"], one["nodes"][0]["failureSummary"]) for one in grave]


@pytest.mark.parametrize("assets", [False, True])
def test_clips_are_left_out_of_a_page_that_would_grow_too_large(assets, davis, write_record, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for shift, method in enumerate(["DINO", "MoBY"]):
        units = davis.units(0.02 * shift)
        write_record(method, metrics=davis.metrics(units), units=units, kept={"masks": "here"})
    monkeypatch.setattr(pictures, "video", lambda *_: (rng.bytes(100_000), rng.bytes(400_000)))
    monkeypatch.setattr(pictures, "LARGEST_PAGE", 1_500_000)
    out = tmp_path / "report"
    more = ["--assets"] * assets
    main(["--records", str(tmp_path / "records"), "--out", str(out), "--resamples", "20", *more])
    text = (out / "report.html").read_text(encoding="utf-8")
    assert (text.count("as a clip</summary>") == 5) == assets
    assert ("clips are left out" in text) != assets
    assert len(text) < 2_300_000
