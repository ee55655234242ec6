"""The same attacks in other libraries."""

import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from sections.setting import EPS, Row, Setting, as_it_comes
from segtrans.catalogue import attack


def libraries(on: Setting) -> Iterator[Row]:
    """Other libraries' time over ours, with the same labels, budget and number of iterations, on the same model but for
    three rows, in which they get the network as it comes and ours the model as we load it.
    """
    steps, model, x, y = on.iterations, on.model, on.x, on.y
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torchattacks

        common: dict[str, Any] = {"eps": EPS, "alpha": EPS / 4, "steps": steps}
        for name, ours, more in (
            ("PGD", "pgd", {"random_start": True}),
            ("MIFGSM", "mi", {}),
            ("DIFGSM", "di", {"resize_rate": 0.9, "diversity_prob": 0.5}),
            ("TIFGSM", "ti", {"resize_rate": 0.9, "diversity_prob": 0.0}),
            ("VMIFGSM", "vmi(iterations=2)", {"steps": 2, "N": 20}),
        ):
            theirs = getattr(torchattacks, name)(model, **{**common, **more})
            own = attack(ours if "(" in ours else f"{ours}(iterations={steps})")
            yield on.ratio(
                "libraries", f"torchattacks {name}", partial(theirs, x, y), partial(own, model, x, y), "× ours"
            )

        pgd = partial(attack(f"pgd(iterations={steps})"), model, x, y)
        yield on.ratio("libraries", "foolbox LinfPGD", _foolbox(on, model), pgd, "× ours")
        plain = as_it_comes(on.surrogate, on.device)
        yield on.ratio("libraries", "foolbox LinfPGD, network as it comes", _foolbox(on, plain), pgd, "× ours")
        theirs = torchattacks.PGD(plain, **common, random_start=True)
        yield on.ratio("libraries", "torchattacks PGD, network as it comes", partial(theirs, x, y), pgd, "× ours")
        yield on.ratio("libraries", "ART ProjectedGradientDescent", _art(on, model), pgd, "× ours")
        theirs = _art(on, plain)
        yield on.ratio("libraries", "ART ProjectedGradientDescent, network as it comes", theirs, pgd, "× ours")
        for name, ours in (("alma_prox", "alma-prox"), ("dag", "dag")):
            own = partial(attack(f"{ours}(iterations={steps})"), model, x, y)
            yield on.ratio("libraries", f"adv-lib {name}", _adv_lib(on, name), own, "× ours")


def _foolbox(on: Setting, network: nn.Module) -> Callable[[], object]:
    import scipy.ndimage

    sys.modules.setdefault("scipy.ndimage.filters", scipy.ndimage)
    import foolbox

    def dense(model: Any, labels: Any) -> Callable[[Any], Any]:
        return lambda z: type(z)(F.cross_entropy(model(z).raw, labels.raw, reduction="none").mean((1, 2)).sum())

    theirs = foolbox.attacks.LinfPGD(abs_stepsize=EPS / 4, steps=on.iterations, random_start=True)
    theirs.get_loss_fn = dense
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device=on.device)
    return partial(theirs.run, model, on.x, foolbox.criteria.Misclassification(on.y), epsilon=EPS)


def _art(on: Setting, network: nn.Module) -> Callable[[], object]:
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators import BaseEstimator, LossGradientsMixin
    from art.estimators.classification import ClassifierMixin

    class Dense(ClassifierMixin, LossGradientsMixin, BaseEstimator):
        """The surrogate with an image's number in the place of its label."""

        input_shape = tuple(on.x.shape[1:])
        nb_classes = on.batch
        fit = None

        def predict(self, x: np.ndarray, **_: Any) -> np.ndarray:
            return np.zeros((len(x), on.batch))

        def loss_gradient(self, x: np.ndarray, y: np.ndarray, **_: Any) -> np.ndarray:
            leaf, numbers = torch.from_numpy(x).to(on.device).requires_grad_(), torch.from_numpy(y).argmax(1)
            loss = F.cross_entropy(network(leaf), on.y[numbers], reduction="none").mean((1, 2)).sum()
            return torch.autograd.grad(loss, leaf)[0].cpu().numpy()

    settings: dict[str, Any] = {"eps": EPS, "eps_step": EPS / 4, "max_iter": on.iterations, "num_random_init": 1}
    theirs = ProjectedGradientDescent(Dense(model=network, clip_values=(0, 1)), verbose=False, **settings)
    return partial(theirs.generate, on.x.cpu().numpy(), np.arange(on.batch))


def _adv_lib(on: Setting, name: str) -> Callable[[], object]:
    plots: Any = ModuleType("visdom")
    plots.Visdom = object
    sys.modules.setdefault("visdom", plots)
    from adv_lib.attacks import segmentation

    # What it would compile takes minutes, once.
    torch.compiler.set_stance("force_eager")
    settings = {"num_steps": on.iterations} if name == "alma_prox" else {"max_iter": on.iterations}
    return partial(getattr(segmentation, name), on.model, on.x, on.y, **settings)
