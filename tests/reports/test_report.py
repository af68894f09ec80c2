"""The command writes every file of a report, says what it could not do, and fails in one line."""

import json
import pkgutil
import re
import subprocess
import sys
from html.parser import HTMLParser

import pandas as pd
import pytest
from matplotlib.figure import Figure

from selfpatch.pretrain.cli import UserError
from selfpatch.reports import plots
from selfpatch.reports.frames import GROUP
from selfpatch.reports.report import main


class Page(HTMLParser):
    """Collects the resources that a page would load."""

    def __init__(self, text):
        super().__init__()
        self.sources, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "br", "input"):
            self.open.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def records(davis, write_record, tmp_path):
    for method, shift in (("Random", -0.1), ("DINO", 0.0), ("DINO+SelfPatch", 0.05)):
        units = davis.units(shift)
        write_record(method, metrics=davis.metrics(units), units=units, miniature=True, notes=["object 2 was <lost>"])
        write_record(method, task="ade20k", metrics={"mIoU": 30.0 + 10 * shift, "IoU/wall": 60.0})
    return tmp_path / "records"


def run(records, out, *more):
    main(["--records", str(records), "--out", str(out), "--resamples", "50", *more])


def test_every_file_is_written(records, tmp_path, capsys):
    out = tmp_path / "report"
    run(records, out)
    assert {path.name for path in out.iterdir()} == {
        "report.md",
        "report.tex",
        "report.json",
        "report.csv",
        "comparison.csv",
        "bootstrap.csv",
        "plots",
        "report.html",
    }
    assert len(list((out / "plots").glob("*.png"))) == 4  # a bar plot a task, the sequences, and against the baseline's
    assert len(list((out / "plots").glob("*.csv"))) == 4
    assert len(pd.read_csv(out / "report.csv")) == 3 * (3 + 2)
    bootstrap = pd.read_csv(out / "bootstrap.csv")
    assert list(bootstrap["method"]) == ["Random", "DINO+SelfPatch"]
    assert (bootstrap["low"] <= bootstrap["delta"]).all()
    text = capsys.readouterr().out
    for part in ("Overview", "davis2017-dino@1", "no benchmark figures", "Published", "above zero", "written to"):
        assert part in text


def test_markdown_links_the_plots_that_are_there(records, tmp_path):
    out = tmp_path / "report"
    run(records, out)
    text = (out / "report.md").read_text()
    links = re.findall(r"\(plots/([^)]*)\)", text)
    assert sorted(links) == sorted(path.name for path in (out / "plots").glob("*.png"))
    assert text.index("Published figures") > text.index("DINO+SelfPatch")


def test_the_page_needs_nothing_from_outside(records, tmp_path):
    out = tmp_path / "report"
    run(records, out)
    text = (out / "report.html").read_text()
    page = Page(text)
    assert page.open == []  # every tag is closed
    assert page.sources
    assert all(source.startswith(("data:image/", "#")) for source in page.sources)
    assert "url(" not in text
    assert "3 of the 6 records were scored on\nminiature data" in text
    for part in (
        "150 of 150 tensors set",
        "topk",
        "2.13.0",
        "object 2 was &lt;lost&gt;",
        "IoU in detail",
        "not measured here",
    ):
        assert part in text


def test_html_can_be_left_out(records, tmp_path):
    run(records, tmp_path / "report", "--no-html")
    assert not (tmp_path / "report" / "report.html").exists()


def test_a_baseline_that_is_not_there_is_said_in_one_line(records, tmp_path, capsys):
    run(records, tmp_path / "report", "--baseline", "MoBY")
    assert "no record of the baseline MoBY" in capsys.readouterr().err
    assert "delta" not in (tmp_path / "report" / "comparison.csv").read_text()


def test_units_that_do_not_fit_leave_the_table_standing(records, tmp_path, capsys):
    for path in records.glob("davis-*.json"):
        record = json.loads(path.read_text())
        if record["method"] == "Random":
            record["metrics"]["J&F"] += 5
            path.write_text(json.dumps(record))
    run(records, tmp_path / "report")
    assert "No bootstrap of J&F for Random" in capsys.readouterr().out
    assert list(pd.read_csv(tmp_path / "report" / "bootstrap.csv")["method"]) == ["DINO+SelfPatch"]


@pytest.mark.parametrize("content", [None, b"", b"junk", "cut"])
def test_a_broken_file_of_units_costs_its_row_an_interval_and_no_more(records, tmp_path, capsys, content):
    for path in records.glob("davis-*.json"):
        if json.loads(path.read_text())["method"] == "Random":
            units = path.with_suffix(".npz")
            whole = units.read_bytes()
            units.unlink()
            if content is not None:
                units.write_bytes(whole[: len(whole) // 2] if content == "cut" else content)
    run(records, tmp_path / "report")
    text = capsys.readouterr().out
    assert "No bootstrap of J&F for Random" in text
    assert "No plot of units for Random" in text
    assert len(list((tmp_path / "report" / "plots").glob("*units*.png"))) == 1  # the two others have one


def test_a_record_without_an_overall_figure_is_left_out(records, write_record, tmp_path, capsys):
    write_record("Empty", metrics={"IoU/wall": 3.0})
    run(records, tmp_path / "report")
    assert "holds no overall metric" in capsys.readouterr().err
    assert "Empty" not in (tmp_path / "report" / "comparison.csv").read_text()


@pytest.mark.parametrize("metrics", [{}, {"IoU/wall": 3.0}])
def test_no_overall_figure_at_all_is_one_line(write_record, tmp_path, metrics):
    path = write_record("Empty", task="ade20k")
    path.write_text(json.dumps({**json.loads(path.read_text()), "metrics": metrics}))
    with pytest.raises(UserError, match="holds no overall metric"):
        run(path.parent, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_rows_of_one_label_keep_their_own_values_in_the_plot_of_sequences(davis, write_record, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(plots, "units", lambda *a: shown.append(a) or Figure())
    for method, epochs, shift in (("DINO", 200, 0.0), ("DINO", None, 0.1), ("SelfPatch", 200, 0.2)):
        units = davis.units(shift)
        name = f"{method}{epochs}"
        write_record(method, metrics=davis.metrics(units), units=units, pretrain_epochs=epochs, config={"of": name})
    run(tmp_path / "records", tmp_path / "report")
    ((_, _, scores, reference, colours),) = shown
    assert list(scores) == ["DINO, unknown epochs", "DINO, 200 epochs", "SelfPatch"]
    assert len({str(values) for values in scores.values()}) == 3
    assert reference in scores
    assert set(colours) == set(scores)


def test_tables_that_are_apart_can_be_told_apart_in_the_csv(davis, write_record, tmp_path):
    for topk in (5, 6):
        for method, shift in (("DINO", 0.0), ("SelfPatch", 0.1 * topk)):
            units = davis.units(shift)
            protocol = {"name": "davis2017-dino@1", "parameters": {"topk": topk}}
            changes = {"protocol": protocol, "units": units, "config": {"topk": topk}}
            path = write_record(method, metrics=davis.metrics(units), **changes)
            for suffix in (".json", ".npz"):
                path.with_suffix(suffix).rename(path.with_name(f"{topk}-{path.stem}{suffix}"))
            path = path.with_name(f"{topk}-{path.name}")
            path.write_text(path.read_text().replace('"units": "', f'"units": "{topk}-'))
    run(tmp_path / "records", tmp_path / "report")
    for name in ("comparison.csv", "bootstrap.csv"):
        rows = pd.read_csv(tmp_path / "report" / name)
        assert rows.groupby(GROUP).ngroups == 2
        assert list(rows.columns[: len(GROUP)]) == GROUP


def test_brackets_are_not_taken_for_markup(davis, write_record, tmp_path, capsys):
    units = davis.units()
    path = write_record("DINO [/x]", metrics=davis.metrics(units), units=units, dataset="a[/b]$c$d")
    cells = [
        {"name": "one", "settings": {"k": "[/k]"}, "status": "done", "records": [str(path)]},
        {"name": "two", "settings": {"k": 4}, "status": "failed", "error": "no [/tmp/x] here", "records": []},
    ]
    sweep = {"name": "of [/all]", "axes": {"k": ["[/k]", 4]}, "cells": cells}
    (tmp_path / "sweep.json").write_text(json.dumps(sweep))
    run(tmp_path / "records", tmp_path / "report", "--sweep", str(tmp_path / "sweep.json"))
    text = capsys.readouterr().out
    for part in ("DINO [/x]", "of [/all]", "[/k]", "no [/tmp/x] here"):
        assert part in text


def test_a_sweep_adds_its_table_and_curve(write_record, records, tmp_path):
    cells = []
    for k in (1, 4):
        path = write_record("DINO+SelfPatch", metrics={"J&F": 50.0 + k}, config={"k": k}, miniature=True)
        cells.append({"name": f"k{k}", "settings": {"k": k}, "status": "done", "records": [str(path)]})
    (tmp_path / "sweep.json").write_text(json.dumps({"name": "neighbours", "axes": {"k": [1, 4]}, "cells": cells}))
    out = tmp_path / "report"
    run(records, out, "--sweep", str(tmp_path / "sweep.json"))
    assert any("sweep-neighbours" in path.name for path in (out / "plots").iterdir())
    for name in ("report.md", "report.html"):
        assert "Sweep neighbours" in (out / name).read_text()


def test_no_records_is_one_line_and_nothing_is_written(tmp_path):
    with pytest.raises(UserError, match=r"tools/eval_davis\.sh"):
        run(tmp_path / "none", tmp_path / "report")
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("argv", [["--resamples", "0"], ["--sweep", "absent.json"]])
def test_options_that_make_no_sense_are_refused_before_anything_is_written(records, tmp_path, argv):
    with pytest.raises(UserError):
        main(["--records", str(records), "--out", str(tmp_path / "report"), *argv])
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_an_out_that_cannot_be_written_is_refused_first(tmp_path, out):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--out .*file is a file"):
        run(tmp_path / "none", tmp_path / out)


def test_a_mistake_exits_with_status_2_and_one_line(tmp_path):
    command = [sys.executable, "-m", "selfpatch.reports.report", "--records", str(tmp_path / "none")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_help_shows_an_example(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    assert "tools/report.sh --records" in capsys.readouterr().out


def test_reports_import_neither_torch_nor_the_mm_libraries():
    import selfpatch.reports

    modules = [module.name for module in pkgutil.iter_modules(selfpatch.reports.__path__)]
    assert "report" in modules
    code = (
        "import sys\n"
        + "".join(f"import selfpatch.reports.{name}\n" for name in modules)
        + "print([n for n in sys.modules if n.split('.')[0] in ('torch', 'mmengine', 'mmcv', 'mmdet', 'mmseg')"
        + " or n == 'matplotlib.pyplot'])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stderr == ""
    assert result.stdout.strip() == "[]"
