"""Single calls, and the start."""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import torch

from sections.setting import Row, Setting
from segtrans.logits import finite_images, predicted_classes


def kernels(on: Setting) -> Iterator[Row]:
    """What one call of our own and of others' takes on logits of 21 classes and on a gradient, the least of thirty."""
    random = torch.Generator().manual_seed(0)
    shape = (on.batch, 21, on.size, on.size)
    logits = torch.randn(shape, generator=random).to(on.device)
    pixels = logits.contiguous(memory_format=torch.channels_last)
    gradient = torch.randn((on.batch, 3, *shape[2:]), generator=random).to(on.device)
    many = torch.randn((on.batch, 150, *shape[2:]), generator=random).to(on.device)
    many = many.contiguous(memory_format=torch.channels_last)
    for what, call in (
        ("argmax(1)", lambda: logits.argmax(1)),
        ("predicted_classes, 150 classes, channels last", lambda: predicted_classes(many)),
        ("argmax(1), 150 classes, channels last", lambda: many.argmax(1)),
        ("max(1)", lambda: logits.max(1)),
        ("amax(1)", lambda: logits.amax(1)),
        ("predicted_classes", lambda: predicted_classes(logits)),
        ("predicted_classes, channels last", lambda: predicted_classes(pixels)),
        ("argmax(1), channels last", lambda: pixels.argmax(1)),
        ("isfinite().all()", lambda: logits.isfinite().flatten(1).all(1)),
        ("finite_images", lambda: finite_images(logits)),
        ("vector_norm(inf)", lambda: torch.linalg.vector_norm(gradient.flatten(1), float("inf"), dim=1)),
        ("abs().amax(1)", lambda: gradient.abs().flatten(1).amax(1)),
    ):
        yield Row("kernels", what, 1000 * min(on.seconds(call) for _ in range(30)), "ms")


def startup(on: Setting) -> Iterator[Row]:
    """Seconds until there is something to see, median of five."""
    torch_only = _python("import torch")
    for what, code in (
        ("import torch", "import torch"),
        ("import segtrans", "import segtrans"),
        ("import torch, segtrans.catalogue", "import torch, segtrans.catalogue"),
        ("segtrans --help", "import sys; sys.argv = ['segtrans', '--help']; from segtrans.cli import main; main()"),
        (
            "segtrans list attacks",
            "import sys; sys.argv[1:] = ['list', 'attacks']; from segtrans.cli import main; main()",
        ),
    ):
        yield Row("startup", what, torch_only if what == "import torch" else _python(code), "seconds")


def _python(code: str) -> float:
    found: list[float] = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
        found.append(time.perf_counter() - started)
    return statistics.median(found)
