"""The tables that a run leaves in the terminal."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from segtrans.bench.summary import SAME_BACKBONE, WHITE_BOX
from segtrans.report import content
from segtrans.report.content import Pair, percent

MOST_TARGETS = 6
"""With more, the cells of pairs are left to the page and ``cells.csv``."""

MOST_BLOCKS = 2
"""More do not fit into 80 columns; the page has them all."""

_MARKS = {WHITE_BOX: "*", SAME_BACKBONE: "~"}


def print_tables(document: Mapping[str, Any], console: Console) -> None:
    """The ranking of attacks, and with few targets every pair of models; within 80 columns, colours or not."""
    values = dict(document)
    if not values["cells"]:
        console.print("no attack was finished, so there is nothing to show", soft_wrap=True)
        return
    console.print(_ranking(values))
    if any(ranked.preparation for ranked in content.ranking(values)):
        console.print("+ gradients that are spent once, before the first iteration", soft_wrap=True)
    if content.leads(values):
        console.print(_leads(values))
    if len(content.targets(values)) <= MOST_TARGETS:
        names = content.short_names(values)
        for surrogate in content.surrogates(values):
            console.print(Text(f"made on {names[surrogate]}, asr_miou in %"), soft_wrap=True)
            console.print(_pairs(values, surrogate))
        for line in _legend(values):
            console.print(line, soft_wrap=True)


def _ranking(document: content.Document) -> Table:
    blocks = content.ranked_blocks(document)[:MOST_BLOCKS]
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("\n\nattack, in %", overflow="fold", min_width=15)
    for block in blocks:
        # One word a line, so that two blocks and a long attack fit into 80 columns.
        words = "\n".join(block.split())
        table.add_column(f"{words}\nasr_miou", justify="right", no_wrap=True)
        table.add_column("\n\nasr_pixel", justify="right", no_wrap=True)
    table.add_column("\ngrads\nper it.", justify="right", no_wrap=True)
    table.add_column("\nseconds\nper image", justify="right", no_wrap=True)
    for ranked in content.ranking(document):
        scores = [ranked.scores.get(block) for block in blocks]
        numbers = [n for s in scores for n in ((s.asr_miou, s.asr_pixel) if s else (None, None))]
        control = ranked.place is None
        table.add_row(
            Text(f"{ranked.attack} (control)" if control else ranked.attack),
            *(percent(number) for number in numbers),
            ranked.gradients,
            content.seconds(ranked.seconds_per_image),
            style="dim" if control else "",
        )
    return table


def _leads(document: content.Document) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(f"lead over {document['config']['baseline']}, in points", overflow="fold", min_width=15)
    table.add_column("asr_miou", justify="right", no_wrap=True)
    table.add_column("95 % interval", justify="right", no_wrap=True)
    table.add_column("asr_pixel", justify="right", no_wrap=True)
    table.add_column("ahead on\nsurrogates", justify="right", no_wrap=True)
    for lead in content.leads(document):
        table.add_row(
            Text(lead.attack),
            content.signed(lead.asr_miou),
            content.ends(lead.asr_miou_interval),
            content.signed(lead.asr_pixel),
            f"{lead.ahead} of {lead.surrogates}",
        )
    return table


def _pairs(document: content.Document, surrogate: str) -> Table:
    """One surrogate's cells; columns are numbered, since the names of six models do not fit side by side."""
    found, targets = content.pairs(document), content.targets(document)
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("scored on", overflow="fold", min_width=15)
    for number in range(1, len(targets) + 1):
        table.add_column(f"({number})", justify="right", no_wrap=True)
    for attack in document["attacks"]:
        table.add_row(Text(attack), *(_cell(found.get((attack, surrogate, target))) for target in targets))
    return table


def _cell(pair: Pair | None) -> str:
    # The blank keeps the numbers without a mark aligned with those that have one.
    return "– " if pair is None else percent(pair.asr_miou) + _MARKS.get(pair.block, " ")


def _legend(document: content.Document) -> list[Text]:
    names = content.short_names(document)
    lines = [Text(f"({number}) {names[target]}") for number, target in enumerate(content.targets(document), 1)]
    blocks = {cell["block"] for cell in document["cells"]}
    marks = [f"{mark} {block}" for block, mark in _MARKS.items() if block in blocks]
    return [*lines, Text(", ".join(marks))] if marks else lines
