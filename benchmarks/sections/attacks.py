"""Attacks beside the gradients that they ask for, and beside each other."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from sections.setting import Row, Setting
from segtrans.catalogue import attack


def loop(on: Setting) -> Iterator[Row]:
    """Attacks against as many bare gradients as they ask for."""
    for name in ("bim", "mi", "segpgd", "di", "segtrans"):
        yield _looped(on, f"{name}(iterations={on.iterations})", name)
    yield _looped(on, f"segtrans-k5(iterations={min(on.iterations, 2)})", "segtrans-k5")
    for name in ("mi", "segtrans"):
        half = f"{name}(iterations={on.iterations}, precision='bfloat16')"
        yield _looped(on, half, f"{name} in bfloat16, over float32")


def copies(on: Setting) -> Iterator[Row]:
    """As loop, attacks of twenty and more gradients per iteration."""
    for name in ("vmi", "sia", "bsr"):
        yield _looped(on, f"{name}(iterations={min(on.iterations, 2)})", name)


def _looped(on: Setting, spelled: str, what: str) -> Row:
    crafted = attack(spelled)
    whole, bare = partial(crafted, on.model, on.x, on.y), partial(on.gradients, crafted.evaluations)
    return on.ratio(
        "loop", f"{what}, {crafted.evaluations_per_iteration} per iteration", whole, bare, "× bare gradients"
    )


def published(on: Setting) -> Iterator[Row]:
    """Attacks at the cost they were published with, against one of segtrans."""
    own = partial(attack("segtrans"), on.model, on.x, on.y)
    for name in ("mi", "segtrans-k5", "bsr", "sia", "decowa", "vmi", "pgn"):
        crafted = attack(name)
        what = f"{name}, {crafted.evaluations} gradients"
        once = replace(on, repeats=min(on.repeats, 3))
        yield once.ratio("published", what, partial(crafted, on.model, on.x, on.y), own, "× segtrans")


def scaling(on: Setting) -> Iterator[Row]:
    """Seconds per image of a few iterations, over batch, size and copies."""
    crafted = partial(attack("segtrans(iterations=2)"), on.model)
    for batch in (1, 2, 4, 8):
        x = on.images(batch, on.size)
        crafted(x)
        yield Row("scaling", f"batch {batch}", on.seconds(partial(crafted, x)) / batch, "seconds per image")
    for size in (128, 256, 384, 512):
        x = on.images(1, size)
        crafted(x)
        yield Row("scaling", f"{size}×{size}", on.seconds(partial(crafted, x)), "seconds per image")
    for name in ("segtrans", "segtrans-k5", "segtrans-k20"):
        x, many = on.images(1, on.size), attack(f"{name}(iterations=2)")
        yield Row("scaling", name, on.seconds(partial(many, on.model, x)), "seconds per image")
