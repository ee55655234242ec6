"""How long attacks, scores and whole runs take, beside what they cannot do without and beside other libraries.

Everything is a ratio of two things that are measured in turn on the same images and model, so that a machine that
drifts or is busy hurts both alike; the median of the pairs is printed with the least and the largest, and with --json
also written to a file.

    .venv/bin/python benchmarks/speed.py                       # all sections
    .venv/bin/python benchmarks/speed.py loop libraries        # some of them
    .venv/bin/python benchmarks/speed.py --device cuda --size 512 \\
        --surrogate "smp:deeplabv3plus/resnet101?weights=random&classes=21"
"""

import argparse
import json
import platform
from dataclasses import asdict, fields
from itertools import chain
from pathlib import Path

import torch
from sections.attacks import copies, loop, published, scaling
from sections.gradients import ceilings, compiled, gradient
from sections.libraries import libraries
from sections.memory import memory
from sections.parts import kernels, startup
from sections.runs import pipeline, scores
from sections.setting import Row, Setting

from segtrans.devices import exact
from segtrans.memory import keep_freed_memory

SECTIONS = {
    section.__name__: section
    for section in (
        kernels,
        gradient,
        ceilings,
        compiled,
        loop,
        copies,
        libraries,
        published,
        scores,
        pipeline,
        memory,
        scaling,
        startup,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; default: all")
    parser.add_argument("--surrogate", default="zoo:voc/deeplabv3plus-efficientnetlite0")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="also write the rows there")
    options = parser.parse_args()
    values = [field.name for field in fields(Setting)]
    on = Setting(**{name: getattr(options, name) for name in values})
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    # As our command line does; everybody here gains by it.
    keep_freed_memory()
    machine = torch.cuda.get_device_name() if options.device.startswith("cuda") else platform.processor()
    print(f"{on.surrogate}, {on.batch} images of {on.size}×{on.size}, {on.device}: {machine}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    rows: list[Row] = []
    # As in runs, TensorFloat-32 is off.
    with exact(torch.device(options.device)):
        for row in chain.from_iterable(SECTIONS[name](on) for name in options.sections or SECTIONS):
            spread = "" if row.low is None else f"  ({row.low:.3f} to {row.high:.3f})"
            print(f"{row.section:10s} {row.what:56s} {row.value:8.3f} {row.unit}{spread}", flush=True)
            rows.append(row)
    if options.json:
        found = {**{name: getattr(on, name) for name in values}, "torch": torch.__version__, "machine": machine}
        options.json.write_text(json.dumps({**found, "rows": [asdict(row) for row in rows]}, indent=2) + "\n")


if __name__ == "__main__":
    main()
