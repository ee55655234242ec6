"""Hooks that stay for a while."""

from collections.abc import Generator, Iterable
from contextlib import ExitStack, contextmanager

from torch.utils.hooks import RemovableHandle


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Generator[None]:
    """A context that takes hooks, registered as it begins, away again."""
    with ExitStack() as stack:
        for handle in handles:
            stack.enter_context(handle)
        yield
