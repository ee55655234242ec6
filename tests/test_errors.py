"""What errors of other libraries become in ours."""

import pytest
import torch

from segtrans.devices import pick_device
from segtrans.errors import MissingError, first_line, reason


@pytest.mark.parametrize(
    ("said", "found"), [("", "ValueError"), ("\n ", "ValueError"), ("one", "one"), ("\none\ntwo", "one")]
)
def test_the_first_line_or_the_type(said: str, found: str) -> None:
    assert first_line(ValueError(said)) == found


@pytest.mark.parametrize(("said", "found"), [("", "ValueError"), ("\n ", "ValueError"), ("\none\n  two", "one two")])
def test_the_reason_is_all_of_it_or_the_type(said: str, found: str) -> None:
    assert reason(ValueError(said)) == found


def test_a_device_that_fails_without_a_word_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(torch, "zeros", silent)
    with pytest.raises(MissingError, match=r"^device 'cpu' cannot be used here \(RuntimeError\)$"):
        pick_device("cpu")
