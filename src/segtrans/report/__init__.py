"""What a run found, for people: pictures, a page, figures for papers, a table in the terminal."""

from pathlib import Path

from segtrans.report.content import read_document
from segtrans.report.figures import write_figures
from segtrans.report.html import write_page
from segtrans.report.pictures import draw_pictures

__all__ = ["draw_pictures", "read_document", "write_figures", "write_page", "write_report"]


def write_report(run: Path | str, against: Path | str | None = None) -> list[Path]:
    """Draw a finished run's pictures and figures and write its page, from nothing but its folder; returns what was
    written. With ``against``, the page compares the run with the one in that folder.

    Raises:
        DataError: a folder holds no result, or an image in it is damaged.
    """
    run = Path(run)
    document = read_document(run)
    pictures = draw_pictures(run, document)
    page = write_page(run, document, None if against is None else Path(against))
    figures = write_figures(run, document)
    return [page, *([run / "pictures"] if pictures else []), *([figures] if figures else [])]
