"""Several surrogates as one, at the same number of gradients as one alone.

python examples/ensemble_surrogate.py    (LIMIT, SIDE and ITERATIONS in the environment make it smaller)
"""

import os

from segtrans import bench
from segtrans.catalogue import attack

iterations = int(os.environ.get("ITERATIONS", 10))
psp, fcn, efficient = (f"zoo:voc/{n}" for n in ("pspnet-mobilenetv3s", "fcn-mobilenetv3s", "pspnet-efficientnetlite0"))
result = bench.run(
    surrogates=[psp, f"loss:{psp},{efficient}", f"mean:{psp},{fcn}"],
    targets=["zoo:voc/deeplabv3plus-efficientnetlite0", "zoo:voc/deeplabv3plus-mobilenetv3s"],
    # An ensemble of two costs two gradients per iteration: one model alone may take twice as many.
    attacks={
        "mi, all iterations": attack(f"mi(iterations={iterations})"),
        "mi, half of them": attack(f"mi(iterations={max(1, iterations // 2)})"),
    },
    data=f"photos?side={os.environ.get('SIDE', 256)}",
    limit=int(os.environ.get("LIMIT", 6)),
    out="runs/ensembles",
)
cost = {(c["attack"], c["surrogate"]): c["gradient_evaluations"] for c in result["costs"]}
for cell in result["cells"]:
    gradients = cost[cell["attack"], cell["surrogate"]]
    if gradients == iterations:
        print(f"{cell['surrogate']} -> {cell['target']} ({cell['block']}), {gradients} gradients:", end=" ")
        print(f"asr_miou {100 * cell['asr_miou']:.1f} %")
