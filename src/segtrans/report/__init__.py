"""What a run found, for people: pictures, a page, a table in the terminal."""

from pathlib import Path

from segtrans.report.html import write_page
from segtrans.report.pictures import draw_pictures

__all__ = ["draw_pictures", "write_page", "write_report"]


def write_report(run: Path) -> list[Path]:
    """Draw a finished run's pictures and write its page, from nothing but its folder; returns what was written.

    Raises:
        DataError: the folder holds no result, or an image in it is damaged.
    """
    pictures = draw_pictures(run)
    page = write_page(run)
    return [page, run / "pictures"] if pictures else [page]
