"""Towards a label map: people become background, everything else stays.

python examples/targeted_attack.py    (SIDE and ITERATIONS in the environment make it smaller)
"""

import os

import torch

from segtrans.attack import Attack
from segtrans.catalogue import attack, compose
from segtrans.data import batch
from segtrans.models import load_model

BACKGROUND, PERSON = 0, 15

surrogate = load_model("zoo:voc/pspnet-mobilenetv3s")
targets = [load_model(f"zoo:voc/{name}") for name in ("deeplabv3plus-mobilenetv3s", "pspnet-efficientnetlite0")]
images, _ = batch("photos", count=2, size=int(os.environ.get("SIDE", 256)))  # an astronaut, a cameraman

wanted = surrogate(images).argmax(1)
people = wanted == PERSON
wanted[people] = BACKGROUND

towards = compose(attack("towards + di"), Attack(iterations=int(os.environ.get("ITERATIONS", 40))))
adversarial = towards(surrogate, images, wanted)
with torch.inference_mode():
    for model in (surrogate, *targets):
        clean, attacked = model(images).argmax(1), model(adversarial).argmax(1)
        # Of the pixels that the model called people, how many it now calls background; and what else changed.
        hidden = (attacked == BACKGROUND)[people & (clean == PERSON)].float().mean()
        kept = (attacked == clean)[~people].float().mean()
        print(f"{model.name}: {100 * hidden:.0f} % of the people hidden, {100 * kept:.0f} % of the rest as before")
