"""Tables for papers: LaTeX with booktabs; any text comes out as text."""

from collections.abc import Iterable, Sequence

from selfpatch.reports.sheet import Cell, Sheet

PREAMBLE = "% needs \\usepackage[T1]{fontenc} and \\usepackage{booktabs}"
SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    "[": "{[}",  # it and a star would be arguments of the line break before them
    "*": "{*}",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": "$-$",
    "Δ": r"$\Delta$",
    "→": r"$\to$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
} | {character: f"\\{character}" for character in "&%$#_{}"}
LATIN, WITHOUT = 0x17F, "ĦħĸŉŦŧĿŀſ"  # the last letter that pdflatex sets by itself, and those before that it lacks
LONG, PIECE = 48, 12  # a longer cell is broken into lines, where need be after so many characters
BREAK = r"\allowbreak{}"


def escape(text: str) -> str:
    r"""``text`` so that LaTeX sets it as it is; what its fonts lack is named: 中 becomes [U+4E2D]."""
    return "".join(map(_set, text))


def _set(c: str) -> str:
    if c in SPECIAL or c.isspace():
        return SPECIAL.get(c, " ")
    known = c.isprintable() if c.isascii() else c.isalpha() and ord(c) <= LATIN and c not in WITHOUT
    return c if known else f"{{[}}U+{ord(c):04X}]"


def to_latex(sheet: Sheet) -> str:
    """A table environment: the best of a column bold, the second underlined, differences small beside scores.

    Data sets stand above their columns; protocols and notes below the table, those of the columns as footnotes.
    """
    marks = {group: chr(ord("a") + i) for i, group in enumerate(dict.fromkeys(h.group for h in sheet.heads if h.group))}
    align = "".join("r" if head.number else "l" for head in sheet.heads)
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{escape(sheet.title)}}}"]
    lines += [rf"\begin{{tabular}}{{{align}}}", r"\toprule"]
    if sheet.spans():
        lines += _groups(sheet, marks)
    lines += [_line(escape(head.name) for head in sheet.heads), r"\midrule"]
    lines += [_line(map(_cell, row)) for row in sheet.rows]
    lines += [r"\bottomrule", r"\end{tabular}"]
    below = [rf"\textsuperscript{{{mark}}} {escape(group)}" for group, mark in marks.items()]
    below += [escape(note) for note in [sheet.lead, *sheet.notes] if note]
    if below:
        lines += [r"\par\smallskip\begin{minipage}{\linewidth}\footnotesize", "\\par\n".join(below), r"\end{minipage}"]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def document(sheets: Sequence[Sheet]) -> str:
    """All tables as one file to be ``\\input``."""
    return "\n".join([PREAMBLE, *map(to_latex, sheets)])


def _groups(sheet: Sheet, marks: dict[str, str]) -> list[str]:
    cells, rules, place = [], [], 1
    for group, span in sheet.spans():
        name = rf"{escape(group.split(', ', 1)[0])}\textsuperscript{{{marks[group]}}}" if group else ""
        cells.append(rf"\multicolumn{{{span}}}{{c}}{{{name}}}")
        rules += [rf"\cmidrule(lr){{{place}-{place + span - 1}}}"] * bool(group)
        place += span
    return [_line(cells), "".join(rules)]


def _line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    if len(cell.text) > LONG:
        pieces = (cell.text[i : i + PIECE] for i in range(0, len(cell.text), PIECE))  # a name may have no space
        text = rf"\parbox[t]{{0.45\linewidth}}{{\raggedright {BREAK.join(map(escape, pieces))}}}"
    if cell.best:
        text = rf"\textbf{{{text}}}"
    elif cell.second:
        text = rf"\underline{{{text}}}"
    return rf"{text} {{\scriptsize {escape(cell.delta)}}}" if cell.delta else text
