"""Adversarial versions of a folder of photographs, as PNG.

python examples/photographs.py [FOLDER]    (LIMIT and ITERATIONS in the environment make it smaller)
"""

import os
import sys
from pathlib import Path

from segtrans.catalogue import attack
from segtrans.data import load_data
from segtrans.io import to_pixels, to_tensor, write_image
from segtrans.models import load_model

data = load_data(f"folder:{sys.argv[1]}?side=512" if len(sys.argv) > 1 else "photos")
surrogate = load_model("zoo:voc/pspnet-mobilenetv3s")
target = load_model("zoo:voc/deeplabv3plus-efficientnetlite0")
segtrans = attack(f"segtrans(iterations={os.environ.get('ITERATIONS', 10)})")
out = Path("runs/photographs")

for sample in data.take(int(os.environ.get("LIMIT", len(data)))):
    image = to_tensor(sample.image)[None]
    # Without labels the surrogate's own clean prediction is attacked.
    adversarial = segtrans.threat.quantise(segtrans(surrogate, image), image)
    write_image(out / f"{sample.name}.png", to_pixels(adversarial[0]))
    changed = (target(adversarial).argmax(1) != target(image).argmax(1)).float().mean()
    print(f"{out / sample.name}.png: the target says something else at {100 * changed:.1f} % of the pixels")
