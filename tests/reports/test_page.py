"""The page in a browser: nothing fails, nothing is asked for, tables sort and filter, cells open their protocol."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from selfpatch.reports.report import main

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(not BROWSER, reason="no Chromium here")
# acts as a reader does, then leaves what it saw in the page, where --dump-dom shows it
READER = """<script>
const seen = { errors: [], wide: document.documentElement.scrollWidth - innerWidth };
addEventListener("error", (event) => seen.errors.push(String(event.message)));
addEventListener("load", () => {
  const table = document.querySelector("table.sheet"), rows = () => [...table.tBodies[0].rows];
  const column = [...table.tHead.rows].at(-1).cells.length - 1, head = [...table.tHead.rows].at(-1).cells[column];
  const values = () => rows().map((row) => parseFloat(row.cells[column].firstElementChild.textContent));
  head.querySelector("button").click(); seen.down = values(); seen.sort = head.getAttribute("aria-sort");
  head.querySelector("button").click(); seen.up = values();
  const filter = document.querySelector(".filter input");
  if (filter) { filter.value = "SELFPATCH"; filter.dispatchEvent(new Event("input"));
    seen.left = rows().filter((row) => !row.hidden).length; }
  const cell = document.querySelector("button.cell"); cell.click();
  seen.card = document.querySelector("dialog[open]")?.textContent.includes("topk");
  document.querySelector("dialog[open] .close").click(); seen.closed = !document.querySelector("dialog[open]");
  seen.pictures = [...document.images].every((image) => image.complete && image.naturalWidth > 0);
  seen.unnamed = [...document.querySelectorAll("img:not([alt]), button:empty, input:not(label input)")].length;
  const links = [...document.querySelectorAll("a[href^='#']")];
  seen.dangling = links.filter((a) => !document.getElementById(a.hash.slice(1))).length;
  seen.requests = performance.getEntriesByType("resource").filter((one) => !/^(data|file):/.test(one.name)).length;
  const pre = document.createElement("pre"); pre.id = "seen"; pre.textContent = JSON.stringify(seen);
  document.body.append(pre);
});
</script>"""


def read(page: Path, width: int) -> dict:
    """What a reader saw of a page in a window of that width."""
    acted = page.with_name("acted.html")
    acted.write_text(page.read_text(encoding="utf-8").replace("</body>", READER + "</body>"), encoding="utf-8")
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=4000",
        "--enable-logging=stderr",
    ]
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [BROWSER, *options, profile, f"--window-size={width},900", "--dump-dom", acted.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert "CONSOLE" not in done.stderr, done.stderr
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return json.loads(found[1].replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))


@pytest.fixture
def report(davis, write_record, tmp_path):
    """The page of five methods on two benchmarks, one of them with a hostile name."""
    methods = ["Random", "DINO", "DINO+SelfPatch", "MoBY", "<img src=x onerror=alert(1)>"]
    for shift, method in enumerate(methods):
        units = davis.units(0.02 * shift)
        write_record(method, metrics=davis.metrics(units), units=units)
        write_record(method, task="ade20k", metrics={"mIoU": 30.0 - shift, "IoU/wall": 60.0})
    out = tmp_path / "report"
    main(["--records", str(tmp_path / "records"), "--out", str(out), "--resamples", "20"])
    return out / "report.html"


@pytest.mark.parametrize("width", [1280, 500])
def test_a_reader_can_use_the_page(report, width):
    seen = read(report, width)
    assert seen["errors"] == []
    assert seen["requests"] == 0
    assert seen["wide"] <= 0  # only tables scroll sideways
    assert seen["down"] == sorted(seen["down"], reverse=True)
    assert seen["up"] == sorted(seen["up"])
    assert seen["sort"] == "descending"
    assert seen["left"] == 1
    assert seen["card"]
    assert seen["closed"]
    assert seen["pictures"]
    assert seen["unnamed"] == 0
    assert seen["dangling"] == 0
    assert report.stat().st_size < 10e6
