"""A SegFormer of Hugging Face, from a folder or with random weights, against CNNs.

python examples/hf_segformer.py [FOLDER]    (LIMIT, SIDE and ITERATIONS in the environment make it smaller)
"""

import os
import sys

from transformers import SegformerConfig, SegformerForSemanticSegmentation

from segtrans import bench
from segtrans.models import load_model, wrap

target = "zoo:voc/pspnet-efficientnetlite0"
if len(sys.argv) > 1:
    # A folder in which save_pretrained was called; its own classes must be those of the target.
    segformer = load_model(f"hf:{sys.argv[1]}")
else:
    print("no folder given: a SegFormer-B0 with random weights, whose numbers mean nothing")
    network = SegformerForSemanticSegmentation(SegformerConfig(num_labels=21))
    segformer = wrap(network, 21, multiple=32, name="segformer-random", backbone="mit_b0")

result = bench.run(
    surrogates=["segformer"],
    targets=[target],
    attacks=["noise", "mi", "segtrans"],
    models={"segformer": segformer},
    data=f"photos?side={os.environ.get('SIDE', 256)}",
    limit=int(os.environ.get("LIMIT", 6)),
    iterations=int(os.environ.get("ITERATIONS", 10)),
    out="runs/segformer",
)
for cell in result["cells"]:
    # A transformer against a CNN is a block of its own.
    print(f"{cell['attack']:9} {cell['block']}: asr_miou {100 * cell['asr_miou']:.1f} %")
