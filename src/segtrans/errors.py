"""Every error a user can cause, with the exit code the command line gives it."""

import math
import re
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from difflib import get_close_matches


class SegtransError(Exception):
    """Base of all errors raised on purpose; the message is one sentence that names the culprit."""

    exit_code = 1


class UsageError(SegtransError, ValueError):
    """An argument, a name or a configuration value that cannot be used."""

    exit_code = 2


class DataError(SegtransError):
    """A file that is missing, unreadable or not what its place says."""

    exit_code = 4


class MissingError(SegtransError):
    """An optional dependency, a device or weights that are not on this machine."""

    exit_code = 4


class ModelError(SegtransError):
    """A model that returns something a segmentation model may not return, or lacks what an attack needs of it."""

    exit_code = 2


class ImageSizeError(ModelError):
    """A network from a file that cannot be run on some images, as a rule for their size; on others it may."""


class NonFiniteError(SegtransError):
    """A model returned NaN or infinite logits for some images; ``indices`` are their places in the batch."""

    exit_code = 3

    def __init__(self, indices: Iterable[int]) -> None:
        self.indices = tuple(indices)
        places = ", ".join(map(str, self.indices))
        super().__init__(
            f"the model returned NaN or infinite logits for image(s) {places} of the batch; they were left as they were"
        )


@contextmanager
def optional(what: str, extra: str) -> Generator[None]:
    """A context in which libraries of an extra are imported: MissingError, with what to install, if one is not here or
    is broken.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingError(f"{what} needs {error.name}; run: pip install 'segtrans[{extra}]'") from None
    except ImportError as error:
        raise MissingError(
            f"{what} cannot import what it needs ({error}); try: pip install -U 'segtrans[{extra}]'"
        ) from error


def reason(error: Exception) -> str:
    """What an error of another library says, on one line; its type's name if it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def first_line(error: Exception) -> str:
    """As :func:`reason`, for errors that go on with advice and traces after their first line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


_LACKING = re.compile(r"out of memory|not enough memory|can't allocate memory|ALLOC_FAILED|[Ff]ailed to allocate")
"""How PyTorch, CUDA's libraries and onnxruntime say so where the error is of no kind of its own."""


def lacks_memory(error: Exception) -> bool:
    """Whether that is what an error says."""
    # PyTorch's kind by its name, since importing it takes longer than anything else of a short command.
    kind = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return kind or _LACKING.search(str(error)) is not None


def check_whole(what: str, value: object, least: int) -> None:
    """UsageError unless ``value`` is a whole number (2.0 and True are not) of at least ``least``."""
    if type(value) is not int or value < least:
        raise UsageError(f"{what} is {value!r}; allowed are whole numbers from {least}")


def check_odd(what: str, value: object) -> None:
    """UsageError unless ``value`` is an odd whole number of at least 1."""
    if type(value) is not int or value < 1 or value % 2 == 0:
        raise UsageError(f"{what} is {value!r}; allowed are odd numbers from 1")


def check_choice(what: str, value: object, allowed: Sequence[str]) -> None:
    """UsageError unless ``value`` is one of the two or more that are ``allowed``."""
    if value not in allowed:
        *others, last = map(repr, allowed)
        raise UsageError(f"{what} is {value!r}; allowed are {', '.join(others)} and {last}")


def check_number(what: str, value: object, least: float, most: float = math.inf) -> None:
    """UsageError unless ``value`` is a finite number from ``least`` to ``most``."""
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    # NaN fails every comparison.
    if not (least <= number <= most and number < math.inf):
        bounds = f"from {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
        raise UsageError(f"{what} is {value!r}; allowed are numbers {bounds}")


def unknown(kind: str, name: str, allowed: Iterable[str]) -> UsageError:
    """A did-you-mean error for ``name``, which is not among the ``allowed`` names."""
    names = sorted(allowed)
    close = get_close_matches(name, names, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(names)}"
    return UsageError(f"unknown {kind} {name!r}; {hint}")
