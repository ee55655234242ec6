"""Paths as people write them."""

from pathlib import Path


def at_home(path: str | Path) -> Path:
    """``~`` and ``~user`` for the folders of users; as it is, as in the shell, where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
