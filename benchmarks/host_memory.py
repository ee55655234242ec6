"""Whether a run's memory stays flat, however many images it goes through.

Runs a toy model over generated images in a process of its own for each number of them, and prints the peak of resident
memory, and how much a thousand more images add.

    .venv/bin/python benchmarks/host_memory.py --images 200 2000
"""

import argparse
import resource
import tempfile
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from segtrans import bench
from segtrans.models import SegModel

CLASSES = 4


def peak(images: int, size: int, slice_: int) -> float:
    """MiB at most in this process, which has made so many images and run over them."""
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, CLASSES, 3, padding=1))
    with tempfile.TemporaryDirectory() as root:
        data = Path(root) / "data"
        for folder, channels, most in (("images", (3,), 256), ("masks", (), CLASSES)):
            (data / folder).mkdir(parents=True)
            for i in range(images):
                pixels = random.integers(0, most, (size, size, *channels), dtype=np.uint8)
                Image.fromarray(pixels).save(data / folder / f"{i:05}.png")
        bench.run(
            surrogates=["toy"],
            models={"toy": SegModel(network, CLASSES, name="toy")},
            attacks=["mi"],
            iterations=2,
            data=f"folder:{data}?classes={CLASSES}",
            pictures=0,
            slice=slice_,
            out=Path(root) / "run",
            quiet=True,
        )
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[200, 2000])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--slice", type=int, default=64)
    options = parser.parse_args()

    found: list[tuple[int, float]] = []
    for images in options.images:
        # A fresh process each: a peak is never forgotten.
        with get_context("spawn").Pool(1) as pool:
            found.append((images, pool.apply(peak, (images, options.size, options.slice))))
        print(f"{images:6} images: {found[-1][1]:8.1f} MiB at most")
    for (few, low), (many, high) in pairwise(found):
        print(f"{few} to {many}: {1000 * (high - low) / (many - few):+.2f} MiB per thousand images")


if __name__ == "__main__":
    main()
