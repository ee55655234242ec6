"""A run in several processes here, or in the workers of a Ray cluster.

python examples/cluster_run.py
RAY_ADDRESS=HEAD:6379 WORKERS=16 python examples/cluster_run.py

LIMIT, SIDE and ITERATIONS in the environment make it smaller.
"""

import os

from segtrans import bench
from segtrans.report import write_report

OUT = "runs/cluster"  # on a cluster: a folder that all machines see

if __name__ == "__main__":  # workers import this file
    result = bench.run(
        surrogates=["zoo:voc/pspnet-mobilenetv3s", "zoo:voc/pspnet-efficientnetlite0"],
        targets=["zoo:voc/deeplabv3plus-mobilenetv3s", "zoo:voc/deeplabv3plus-efficientnetlite0"],
        attacks=["noise", "mi", "segtrans"],
        data=f"photos?side={os.environ.get('SIDE', 256)}",
        limit=int(os.environ.get("LIMIT", 6)),
        iterations=int(os.environ.get("ITERATIONS", 10)),
        workers=int(os.environ.get("WORKERS", 2)),
        engine="ray" if "RAY_ADDRESS" in os.environ else "local",  # Ray reads the address itself
        out=OUT,
    )
    for row in result["summary"]:
        print(f"{row['attack']:9} {row['block']:15} asr_miou {100 * row['asr_miou']:5.1f} %")
    print(write_report(OUT)[0])
