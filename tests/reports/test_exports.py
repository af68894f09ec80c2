"""What leaves a report: LaTeX that LaTeX sets, files that read back equal, and hostile names as nothing but names."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest

from selfpatch.reports import exports, plots
from selfpatch.reports.figures import Plot, efficiency_plot, slug
from selfpatch.reports.latex import document, escape, to_latex
from selfpatch.reports.report import main
from selfpatch.reports.sheet import Cell, Head, Sheet, to_markdown

README = Path(__file__).parents[2] / "README.md"
SHADES = (("better", "#00704f"), ("worse", "#b3400a"))
HOSTILE = [
    "<script>alert('x')</script>",
    """a "b" & 'c' &amp; {{ 7 * 7 }}""",
    r"50% $x^2_1$ #1 {\input{x}} ~\\ | `y` *z* [w](v)",
    "Ünïcode 中文 😀 ‮abc",
    "n" * 300,
]


@pytest.fixture
def hostile_report(davis, write_record, tmp_path):
    for shift, method in enumerate(["DINO", *HOSTILE]):
        units = davis.units(0.01 * shift)
        write_record(method, metrics=davis.metrics(units), units=units, notes=[f"note of {method}"])
    out = tmp_path / "report"
    main(["--records", str(tmp_path / "records"), "--out", str(out), "--resamples", "20", "--also", "svg"])
    return out


def sheet(*methods):
    rows = [[Cell(method), Cell("61.0 ± 0.3", best=True, delta="+1.2"), Cell("–")] for method in methods]
    heads = [Head("method"), Head("J&F", "davis_2017, davis2017-dino@1+topk=7", True), Head("mIoU", "ade, p@1", True)]
    return Sheet("Overview of 100 %", heads, rows, "Against DINO, better: A_b.", ["± is over seeds."])


def test_latex_has_rules_marks_and_footnotes():
    text = to_latex(Sheet("T", [Head("method"), Head("J&F", "davis, davis2017-dino@1", True)], [
        [Cell("A"), Cell("61.0 ± 0.3", best=True, delta="+1.2")], [Cell("B"), Cell("60.0", second=True)]]))  # fmt: skip
    for part in (
        r"\toprule",
        r"\multicolumn{1}{c}{davis\textsuperscript{a}}",
        r"\textsuperscript{a} davis, davis2017-dino@1",
        r"A & \textbf{61.0 $\pm$ 0.3} {\scriptsize +1.2} \\",
        r"B & \underline{60.0} \\",
        r"J\&F",
    ):
        assert part in text


def test_no_character_of_a_name_is_a_command():
    text = escape("".join(HOSTILE))
    commands = {"textless", "textgreater", "textbackslash", "textasciitilde", "textasciicircum", "textbar"}
    commands |= {"textquotedbl", "textquotesingle", "textasciigrave"}
    assert set(re.findall(r"\\([A-Za-z]+)", text)) <= commands
    assert not re.search(r"(?<!\\)[&%$#_]", text)
    assert "{[}U+4E2D]" in text
    assert "{[}U+202E]" in text


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex here")
def test_latex_is_set_by_latex(tmp_path):
    found = subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True, text=True)
    if found.returncode:
        pytest.skip("no booktabs here")
    every = "".join(map(chr, range(32, 0x250)))
    text = document([sheet("DINO", *HOSTILE, *(every[i : i + 40] for i in range(0, len(every), 40)))])
    head = "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{booktabs}\\begin{document}\n"
    (tmp_path / "t.tex").write_text(head + text + "\\end{document}\n", encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "t.pdf").stat().st_size > 1000


class Text(HTMLParser):
    """Collects the scripts of a page and all that it shows."""

    def __init__(self):
        super().__init__()
        self.shown, self.tags, self.inside = [], [], None

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside not in ("script", "style"):
            self.shown.append(data)


def test_hostile_names_are_text_on_the_page(hostile_report):
    page = Text()
    page.feed((hostile_report / "report.html").read_text(encoding="utf-8"))
    shown = " ".join("".join(page.shown).split())
    assert all(" ".join(name.split()) in shown for name in HOSTILE)
    assert len([tag for tag, _ in page.tags if tag == "script"]) <= 1
    assert not [attrs for _, attrs in page.tags if any(name.startswith("on") for name in attrs)]


def test_hostile_names_are_text_in_markdown(hostile_report):
    text = (hostile_report / "report.md").read_text(encoding="utf-8")
    assert "<script" not in text.replace("\\<script", "")
    grid = to_markdown(sheet(*HOSTILE)).splitlines()
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in grid if line.startswith("|")}) == 1


def test_hostile_names_make_plain_file_names_and_whole_plots(hostile_report):
    names = [path.name for path in (hostile_report / "plots").iterdir()]
    assert all(re.fullmatch(r"[a-z0-9-]{1,230}\.(png|csv|svg)", name) for name in names)
    for path in (hostile_report / "plots").glob("*.svg"):
        assert not [one for one in ElementTree.parse(path).iter() if one.tag.endswith("script")]
    assert slug("a" * 300) != slug("a" * 299 + "b")
    assert slug("中")


def test_json_holds_what_the_csv_files_hold(hostile_report):
    content = json.loads((hostile_report / "report.json").read_text(encoding="utf-8"))
    for name in ("report", "comparison", "bootstrap"):
        frame = pd.read_csv(hostile_report / f"{name}.csv")
        assert [line["method"] for line in content[name]] == list(frame["method"])
    assert [line["delta"] for line in content["bootstrap"]] == pytest.approx(frame["delta"].tolist(), abs=1e-9)


def test_parquet_reads_back_equal(davis, write_record, tmp_path):
    pytest.importorskip("pyarrow")
    for method, shift in (("DINO", 0.0), ("MoBY", 0.05)):
        units = davis.units(shift)
        write_record(method, metrics=davis.metrics(units), units=units)
    frames = {}
    write = exports.write_frames
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("selfpatch.reports.report.write_frames", lambda f, *more: frames.update(f) or write(f, *more))
        main(
            [
                "--records",
                str(tmp_path / "records"),
                "--out",
                str(tmp_path / "o"),
                "--resamples",
                "20",
                "--also",
                "parquet",
            ]
        )
    for name, frame in frames.items():
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "o" / f"{name}.parquet"), frame.reset_index(drop=True))


def test_plots_as_vectors_are_equal_for_equal_data(tmp_path):
    for folder in ("a", "b"):
        scores = {"DINO": {"cow": 40.0, "dog": 60.0}, "MoBY": {"cow": 50.0, "dog": 55.0}}
        colours = plots.method_colours(scores)
        figure = plots.scatter("vit", "J&F", scores, "DINO", colours)
        Plot("x", figure, pd.DataFrame(scores)).save(tmp_path / folder / "x", ("pdf", "svg"))
        (line,) = (line for line in figure.axes[0].lines if len(line.get_xdata()) == 2 and line.get_label() == "MoBY")
        assert list(zip(line.get_xdata(), line.get_ydata())) == [(40.0, 50.0), (60.0, 55.0)]
    for ending in ("png", "pdf", "svg", "csv"):
        assert (tmp_path / f"a/x.{ending}").read_bytes() == (tmp_path / f"b/x.{ending}").read_bytes()


def test_a_metric_against_epochs_where_a_run_was_scored_several_times(write_record, tmp_path):
    from selfpatch.reports.frames import load_records
    from selfpatch.reports.tables import comparison_tables

    for epochs in (10, 2, 5):
        write_record(metrics={"J&F": 30.0 + epochs}, pretrain_epochs=epochs, config={"schedule": {"epochs": epochs}})
    (table,) = comparison_tables(load_records(tmp_path / "records"))
    plot = efficiency_plot(table, "J&F", plots.method_colours(["DINO"]))
    assert plot.data[["epochs", "J&F"]].to_numpy().tolist() == [[2, 32], [5, 35], [10, 40]]


def test_the_readmes_notebook_gives_frames_and_a_style(davis, write_record, tmp_path, monkeypatch):
    for shift, method in ((0.0, "DINO"), (0.3, "DINO+SelfPatch"), (-0.3, HOSTILE[0])):
        units = davis.units(shift)
        write_record(method, metrics=davis.metrics(units), units=units)
    (tmp_path / "work_dirs").mkdir()
    (tmp_path / "records").rename(tmp_path / "work_dirs/records")
    monkeypatch.chdir(tmp_path)
    text = re.search(r"```python\n# notebook\n(.*?)```", README.read_text(), re.DOTALL)[1]
    *lines, last = text.strip().splitlines()
    names = {}
    exec("\n".join(lines), names)
    assert len(names["scores"]) == 9
    page = eval(last, names).to_html()
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    colours = {verdict: re.search(rf"#T_\w+(_row\d+_col\d+)[^}}]*{colour}", page)[1] for verdict, colour in SHADES}
    for verdict, cell in colours.items():
        assert re.search(rf'{cell}" class="[^"]*" >{verdict}<', page)
