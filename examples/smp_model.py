"""A model of segmentation_models_pytorch: saved by smp, named on the command line, attacked.

python examples/smp_model.py    (LIMIT, SIDE and ITERATIONS in the environment make it smaller)
"""

import os

import segmentation_models_pytorch as smp

from segtrans import bench

# Yours is trained; this one has random weights, so its numbers mean nothing.
network = smp.Unet("resnet18", encoder_weights=None, classes=21)
network.save_pretrained("runs/unet-resnet18")

result = bench.run(
    # Also smp:unet/resnet18?weights=FILE&classes=21 for a bare checkpoint. Mean, std and size multiple are smp's own.
    surrogates=["smp:runs/unet-resnet18"],
    targets=["zoo:voc/pspnet-mobilenetv3s"],
    attacks=["noise", "mi", "segtrans"],
    data=f"photos?side={os.environ.get('SIDE', 256)}",
    limit=int(os.environ.get("LIMIT", 6)),
    iterations=int(os.environ.get("ITERATIONS", 10)),
    out="runs/smp",
)
for cell in result["cells"]:
    print(f"{cell['attack']:9} {cell['surrogate']} -> {cell['target']}: asr_miou {100 * cell['asr_miou']:.1f} %")
