"""Paths as people write them."""

from pathlib import Path

import pytest

from segtrans.data import load_data
from segtrans.errors import DataError
from segtrans.paths import at_home


def test_homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert at_home("~/data") == tmp_path / "data"
    assert at_home("data/~") == Path("data/~")


def test_where_there_is_no_such_user_a_path_is_what_it_is() -> None:
    assert at_home("~nobody-at-all/data") == Path("~nobody-at-all/data")
    with pytest.raises(DataError, match="~nobody-at-all/data"):
        load_data("folder:~nobody-at-all/data")
