"""All tables as one HTML page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from metis_lightning.evaluate.html.document import asset, document
from metis_lightning.evaluate.tables.layout import Cell, Line, Section, Table, plain

_GOOD = ("▲", "△")


def tables_page(tables: Sequence[Table]) -> str:
    """Return the page."""
    links = "".join(f'<a href="#{table.name}">{table.number} {_text(table.title)}</a>' for table in tables)
    body = "\n".join(
        [
            "<h1>Metis: the paper's tables and ours</h1>",
            '<p class="soft">Written by <code>python -m metis_lightning tables</code>.</p>',
            f"<nav>{links}</nav>",
            *(_table(table) for table in tables),
        ]
    )
    return document("Metis: the paper's tables and ours", asset("base.css") + asset("tables.css"), body)


def _table(table: Table) -> str:
    """Return one table with its notes."""
    notes = "".join(f'<li id="{table.name}-{key}">{_text(text)}</li>' for key, text in table.notes.items())
    return "\n".join(
        [
            f'<article id="{table.name}">',
            f"<h2>Table {table.number}: {_text(table.title)}</h2>",
            *(_section(table.name, section) for section in table.sections),
            f"<ol>{notes}</ol>" if notes else "",
            "</article>",
        ]
    )


def _section(name: str, section: Section) -> str:
    """Return one grid with its heading."""
    names, counts = section.label_names[: section.text_columns], section.label_names[section.text_columns :]
    heads = [f'<th class="name">{_text(text)}</th>' for text in names]
    heads += [f"<th>{_text(text)}</th>" for text in counts]
    heads += [f"<th>{_cell(name, cell)}</th>" for cell in section.column_names]
    remarks = "".join(f"<li>{_text(remark)}</li>" for remark in section.remarks)
    return "\n".join(
        [
            f"<section><h3>{_text(section.title)}</h3>",
            f"<p>{_text(section.intro)}</p>",
            f'<div class="grid"><table><thead><tr>{"".join(heads)}</tr></thead>',
            f"<tbody>{_rows(name, section.lines, section.text_columns)}</tbody></table></div>",
            f"<ul>{remarks}</ul>" if remarks else "",
            "</section>",
        ]
    )


def _rows(name: str, lines: Iterable[Line], text_columns: int) -> str:
    """Return the rows; labels that the row above has too are dimmed, a new test set gets a rule."""
    rows: list[str] = []
    above: Line | None = None
    for line in lines:
        new_set = above is not None and line.kind == "paper" and line.labels[0].text != above.labels[0].text
        classes = f"{line.kind} first" if new_set else line.kind
        names = [
            f'<td class="name{_again(line, above, index)}">{_cell(name, cell)}</td>'
            for index, cell in enumerate(line.labels[:text_columns])
        ]
        numbers = [f"<td>{_cell(name, cell)}</td>" for cell in (*line.labels[text_columns:], *line.cells)]
        rows.append(f'<tr class="{classes}">{"".join([*names, *numbers])}</tr>')
        above = line
    return "\n".join(rows)


def _again(line: Line, above: Line | None, index: int) -> str:
    """Return the class of a label that repeats the one above."""
    return " again" if above and line.kind != "paper" and above.labels[index] == line.labels[index] else ""


def _text(text: str) -> str:
    """Return text in which nothing is markup."""
    return escape(plain(text))


def _cell(name: str, cell: Cell) -> str:
    """Return a cell's number, interval, significance, failures and notes."""
    spread = f' <span class="interval">{_text(cell.interval)}</span>' if cell.interval else ""
    failed = f' <span class="failed">{cell.n_failed} failed</span>' if cell.n_failed else ""
    links = ",".join(f'<a href="#{name}-{key}">{key}</a>' for key in cell.notes)
    notes = f"<sup>{links}</sup>" if links else ""
    mark = f' <span class="{"good" if cell.mark in _GOOD else "bad"}">{cell.mark}</span>' if cell.mark else ""
    return _text(cell.text) + spread + mark + failed + notes
