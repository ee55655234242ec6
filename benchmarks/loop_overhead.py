"""What the attack loop costs beyond the gradients it needs.

Prints, per attack, the time of the whole attack over the time of as many bare gradients (one forward and one backward
to the input) of the same surrogate on the same images, measured in turn so that a drifting machine hurts both alike.

    .venv/bin/python benchmarks/loop_overhead.py --surrogate zoo:voc/pspnet-mobilenetv3s
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional as F

from segtrans.catalogue import attack
from segtrans.data import load_data
from segtrans.data.base import resize
from segtrans.io import to_tensor
from segtrans.models import load_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--surrogate", default="zoo:voc/deeplabv3plus-efficientnetlite0")
    parser.add_argument("--attacks", nargs="+", default=["bim", "mi", "segpgd", "di", "segtrans"])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()

    model = load_model(options.surrogate, options.device)
    photos = load_data("photos").take(options.batch)
    x = torch.stack([to_tensor(resize(sample, options.size).image) for sample in photos]).to(options.device)
    with torch.no_grad():
        y = model(x).argmax(1)

    def bare() -> None:
        for _ in range(options.iterations):
            leaf = x.clone().requires_grad_()
            torch.autograd.grad(F.cross_entropy(model(leaf), y), leaf)

    def seconds(work: Callable[[], object]) -> float:
        started = time.perf_counter()
        work()
        if options.device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter() - started

    bare()
    print(f"{options.surrogate}, {len(x)} images of {options.size}×{options.size}, {options.iterations} iterations")
    for name in options.attacks:
        crafted = attack(f"{name}(iterations={options.iterations})")
        gradients = crafted.evaluations_per_iteration
        whole = partial(crafted, model, x, y)
        whole()
        ratios = [seconds(whole) / (gradients * seconds(bare)) for _ in range(options.repeats)]
        spread = f"min {min(ratios):.3f}, max {max(ratios):.3f}"
        print(f"{name:10s} {gradients:3d} gradients per iteration: {statistics.median(ratios):.3f} × bare ({spread})")


if __name__ == "__main__":
    main()
