"""What objectives on features are tried on: images, a network, and the start of an attack on both."""

from typing import Any

import torch

from segtrans.attack import Attack
from segtrans.objectives import Attribution, FeatureImportance, Objective, Projection
from segtrans.run import Run
from toys import Context, images, labels, run_of

SIZE = (9, 11)
X, Y = images(2, SIZE), labels(2, SIZE)
MODEL = Context()
# The second image has no pixel of class 1, and the first one has void.
Y[1] = torch.where(Y[1] == 1, 0, Y[1])

PREPARED = (FeatureImportance, Attribution, Projection)


def at(objective: Objective, iteration: int = 3, iterations: int = 10, **settings: Any) -> Run:
    run = run_of(Attack(objective=objective, iterations=iterations, **settings), X, Y, MODEL)
    run.iteration = iteration
    return run
