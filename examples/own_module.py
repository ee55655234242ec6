"""A network of your own as surrogate and target.

python examples/own_module.py    (LIMIT, SIDE and ITERATIONS in the environment make it smaller)
"""

import os

from torch import Tensor, nn

from segtrans import bench
from segtrans.models import load_model, wrap
from segtrans.report import write_report


class Mine(nn.Module):
    """Any module that returns logits, here in a dict. An embedded model stands in for trained layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = load_model("zoo:voc/deeplabv3plus-mobilenetv3s").network

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.layers(x)}


mine = wrap(Mine(), 21, multiple=16, name="mine", backbone="tu-mobilenetv3_small_100")
result = bench.run(
    surrogates=["mine"],
    targets=["mine", "zoo:voc/pspnet-mobilenetv3s", "zoo:voc/pspnet-efficientnetlite0"],
    attacks=["noise", "mi", "segtrans"],
    models={"mine": mine},
    data=f"photos?side={os.environ.get('SIDE', 256)}",
    limit=int(os.environ.get("LIMIT", 6)),
    iterations=int(os.environ.get("ITERATIONS", 10)),
    out="runs/own-module",
)
for row in result["summary"]:
    print(f"{row['attack']:9} {row['block']:15} asr_miou {100 * row['asr_miou']:5.1f} %")
print(write_report("runs/own-module")[0])
