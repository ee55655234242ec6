"""The tables that a run leaves in the terminal."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from segtrans.bench.summary import SAME_BACKBONE, WHITE_BOX
from segtrans.report.content import Document, Pair, mixed_budgets, pairs, poor, short_names, surrogates, targets
from segtrans.report.ranking import incomplete, lead_blocks, leads, ranked_blocks, ranking
from segtrans.report.words import ends, percent, seconds, signed

MOST_TARGETS = 6
"""With more, the cells of pairs are left to the page and ``cells.csv``."""

MOST_BLOCKS = 2
"""More do not fit into 80 columns; the page has them all."""

_NAME, _CELL = 15, 8
"""Columns of the terminal that an attack's name and a pair's cell take."""

_MARKS = {WHITE_BOX: "*", SAME_BACKBONE: "~"}


def print_tables(document: Document, console: Console) -> None:
    """The ranking of attacks, and with few targets every pair of models; within 80 columns, colours or not. Narrower
    terminals get fewer columns.
    """
    if not document["cells"]:
        console.print("no attack has a result, so there is nothing to show", soft_wrap=True)
        return
    console.print(_fitting(_ranking(document), console))
    if any(ranked.differs for ranked in ranking(document)):
        console.print(
            "two numbers of grads: the fewest and the most; each member of an ensemble counts", soft_wrap=True
        )
    if any(ranked.prepared for ranked in ranking(document)):
        console.print("+ gradients that are spent once, before the first iteration", soft_wrap=True)
    if fewer := incomplete(document):
        console.print(
            f"not over the same pairs, seeds and images: {', '.join(fewer)}",
            soft_wrap=True,
            markup=False,
            highlight=False,
        )
    if wrong := poor(document):
        said = f"wrong before any attack, so that ratios say little: {', '.join(wrong)}"
        console.print(said, soft_wrap=True, markup=False)
    if leads(document):
        console.print(_fitting(_leads(document), console))
    columns = targets(document)
    if len(columns) <= MOST_TARGETS:
        beside = max(1, (console.width - _NAME - 2) // _CELL)
        names = short_names(document)
        for surrogate in surrogates(document):
            console.print(Text(f"made on {names[surrogate]}, asr_miou in %"), soft_wrap=True)
            for first in range(0, len(columns), beside):
                console.print(_pairs(document, surrogate, range(first, min(first + beside, len(columns)))))
        for line in _legend(document):
            console.print(line, soft_wrap=True)


def _fitting(table: Table, console: Console) -> Table:
    """The table without as many of its last columns as do not fit; the page has them all."""
    unbounded = console.options.update_width(1000)
    while len(table.columns) > 2 and console.measure(table, options=unbounded).minimum > console.width:
        table.columns.pop()
    return table


def _ranking(document: Document) -> Table:
    blocks, budgets = ranked_blocks(document)[:MOST_BLOCKS], mixed_budgets(document)
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("\n\nattack, in %", overflow="fold", min_width=_NAME)
    for block in blocks:
        # One word a line, so that two blocks and a long attack fit into 80 columns.
        words = "\n".join(block.split())
        table.add_column(f"{words}\nasr_miou", justify="right", no_wrap=True)
        table.add_column("\n\nasr_pixel", justify="right", no_wrap=True)
    table.add_column("\ngrads\nper it.", justify="right", no_wrap=True)
    table.add_column("\nseconds\nper image", justify="right", no_wrap=True)
    for ranked in ranking(document):
        scores = [ranked.scores.get(block) for block in blocks]
        numbers = [n for s in scores for n in ((s.asr_miou, s.asr_pixel) if s else (None, None))]
        control = ranked.place is None
        notes = ["control"] * control + ([f"budget {budgets[ranked.attack]}"] if budgets else [])
        table.add_row(
            Text(f"{ranked.attack} ({', '.join(notes)})" if notes else ranked.attack),
            *(percent(number) for number in numbers),
            ranked.gradients,
            seconds(ranked.seconds_per_image),
            style="dim" if control else "",
        )
    return table


def _leads(document: Document) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(Text(f"lead over {document['config']['baseline']}, in points"), overflow="fold", min_width=_NAME)
    table.add_column("asr_miou", justify="right", no_wrap=True)
    # Intervals have blanks, at which they would be taken to break.
    longest = max(len(ends(lead.overall.asr_miou_interval)) for lead in leads(document))
    table.add_column("95 % interval", justify="right", no_wrap=True, min_width=longest)
    table.add_column("asr_pixel", justify="right", no_wrap=True)
    table.add_column("ahead on\nsurrogates", justify="right", no_wrap=True)
    blocks = lead_blocks(document)[:1]
    for block in blocks:
        table.add_column("\n".join(block.split()), justify="right", no_wrap=True)
    for lead in leads(document):
        overall = lead.overall
        table.add_row(
            Text(lead.attack),
            signed(overall.asr_miou),
            ends(overall.asr_miou_interval),
            signed(overall.asr_pixel),
            f"{lead.ahead} of {lead.surrogates}",
            *(signed(lead.blocks[b].asr_miou if b in lead.blocks else None) for b in blocks),
        )
    return table


def _pairs(document: Document, surrogate: str, shown: Iterable[int]) -> Table:
    """One surrogate's cells; columns are numbered, since the names of six models do not fit side by side."""
    found = pairs(document)
    numbered = {f"({i + 1})": targets(document)[i] for i in shown}
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("scored on", overflow="fold", min_width=_NAME)
    for number in numbered:
        table.add_column(number, justify="right", no_wrap=True)
    for attack in document["attacks"]:
        table.add_row(Text(attack), *(_cell(found.get((attack, surrogate, target))) for target in numbered.values()))
    return table


def _cell(pair: Pair | None) -> str:
    # The blank keeps the numbers without a mark aligned with those that have one.
    return "– " if pair is None else percent(pair.asr_miou) + _MARKS.get(pair.block, " ")


def _legend(document: Document) -> list[Text]:
    names = short_names(document)
    lines = [Text(f"({number}) {names[target]}") for number, target in enumerate(targets(document), 1)]
    blocks = {cell["block"] for cell in document["cells"]}
    marks = [f"{mark} {block}" for block, mark in _MARKS.items() if block in blocks]
    return [*lines, Text(", ".join(marks))] if marks else lines


def print_rows(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """A listing: a table where it fits, otherwise a paragraph for each row."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for key in rows[0]:
        table.add_column(key, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row.values()))
    longest = [max(len(str(row[key])) for row in rows) for key in rows[0]]
    # Long texts in the last column may be folded, but not into a column of single words.
    if sum(longest[:-1]) + 2 * len(longest) + min(longest[-1], 30) <= console.width:
        console.print(table)
        return
    for row in rows:
        (_, name), *details, (_, what) = row.items()
        paragraph = Text.assemble((str(name), "bold"), f": {what}" if what else "")
        if len(str(name)) >= console.width:
            # A name that is cut in two cannot be copied: the terminal may wrap it.
            console.print(paragraph[: len(str(name)) + 1], soft_wrap=True)
            paragraph = Text(str(what))
        if paragraph:
            console.print(paragraph, overflow="fold")
        said = "; ".join(f"{key} {value}" for key, value in details if value != "")
        if said:
            console.print(Padding(Text(said, style="dim", overflow="fold"), (0, 0, 0, 2)))
