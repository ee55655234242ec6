"""Attacks made for segmentation."""

from segtrans.areas import Classes, Patch
from segtrans.attack import Attack
from segtrans.catalogue.entry import MI, PGD, Entry
from segtrans.composition import compose
from segtrans.gradients import Grey, Smooth
from segtrans.objectives import (
    AdaptiveCrossEntropy,
    AugmentedLagrangian,
    BalancedCrossEntropy,
    Cosine,
    CosPGD,
    JensenShannon,
    Margin,
    MaskedCrossEntropy,
    PrimalDual,
    Prototype,
    SegPGD,
    Spherical,
    TwoStage,
    WrongClass,
)
from segtrans.steps import Adaptive, Proportional, Proximal, Universal
from segtrans.threat import LInf
from segtrans.transforms import Remap, Rescale, Resize
from segtrans.worst import WorstCase

# SEA's code begins SegPGD's weights anew with every stage, and at a random point of the first and largest ball; here
# weights go on, and it begins within the budget.
SEA = compose(PGD, Adaptive(stages=((0.3, 2), (0.3, 1.5), (0.4, 1)), judge="accuracy"), Attack(iterations=300))
PDPGD = Proximal(betas=(0.9, 0.999), final=0.01, floor=1e-8, wait=False)
SEGTRANS = (SegPGD(temperature=2, balance=0.5), Grey(), Smooth(size=5), MI)
SEA_OBJECTIVES = (MaskedCrossEntropy(), SegPGD(), JensenShannon(), Spherical())

ENTRIES = (
    Entry(
        name="ds", attack=compose(Rescale(), MI),
        title="dynamic scaling, with momentum",
        paper="arXiv:2111.11368", venue="arXiv 2021", family="segmentation", provenance="reconstruction",
    ),
    Entry(
        name="segpgd", attack=compose(PGD, SegPGD()),
        title="SegPGD",
        paper="arXiv:2207.12391", venue="ECCV 2022", family="segmentation", provenance="code",
    ),
    Entry(
        name="cospgd", attack=compose(PGD, CosPGD()),
        title="CosPGD",
        paper="arXiv:2302.02213", venue="ICML 2024", family="segmentation", provenance="code",
    ),
    Entry(
        name="cospgd-sigmoid", attack=compose(PGD, CosPGD(probabilities="sigmoid")),
        title="CosPGD with sigmoid for softmax, as in SEA's code: a weaker baseline",
        paper="arXiv:2306.12941", venue="ECCV 2024", family="segmentation", provenance="code",
    ),
    Entry(
        name="masked-ce", attack=compose(PGD, MaskedCrossEntropy()),
        title="masked cross-entropy, of SEA's ensemble",
        paper="arXiv:2306.12941", venue="ECCV 2024", family="segmentation", provenance="code",
    ),
    Entry(
        name="balanced-ce", attack=compose(PGD, BalancedCrossEntropy(masked=True)),
        title="masked cross-entropy balanced over the image's classes, after SEA",
        paper="arXiv:2306.12941", venue="ECCV 2024", family="segmentation", provenance="paper",
    ),
    Entry(
        name="js", attack=compose(PGD, JensenShannon()),
        title="Jensen-Shannon divergence, of SEA's ensemble",
        paper="arXiv:2306.12941", venue="ECCV 2024", family="segmentation", provenance="code",
    ),
    Entry(
        name="masked-spherical", attack=compose(PGD, Spherical()),
        title="masked logit on the unit sphere, of SEA's ensemble",
        paper="arXiv:2306.12941", venue="ECCV 2024", family="segmentation", provenance="code",
    ),
    Entry(
        name="sea", attack=WorstCase(attacks=tuple(compose(SEA, objective) for objective in SEA_OBJECTIVES)),
        title="SEA: image by image the worst of four losses, each by Auto-PGD in shrinking balls, begun in the last",
        paper="arXiv:2306.12941", venue="ECCV 2024", family="segmentation", provenance="code",
    ),
    Entry(
        name="margin", attack=compose(PGD, Margin()),
        title="logit margin (Carlini and Wagner), per pixel",
        paper="arXiv:1608.04644", venue="S&P 2017", family="segmentation", provenance="paper",
    ),
    Entry(
        name="pgd-cos", attack=compose(PGD, Cosine()),
        title="angle between logits and label (the loss of PAdam-Cos), with PGD's step",
        paper="arXiv:2407.09150", venue="ECCV 2024", family="segmentation", provenance="code",
    ),
    Entry(
        name="transegpgd", attack=compose(PGD, TwoStage()),
        title="TranSegPGD, its thresholds after third-party code",
        paper="arXiv:2312.02207", venue="arXiv 2023", family="segmentation", provenance="third-party",
    ),
    Entry(
        name="rp-pgd", attack=compose(PGD, Prototype()),
        title="region and prototype based PGD; prototypes have a gradient, which the authors' code stops",
        paper="doi:10.1609/aaai.v39i10.33122", venue="AAAI 2025", family="segmentation", provenance="code",
    ),
    Entry(
        name="dag", attack=compose(WrongClass()),
        title="dense adversary generation with sign steps, projected to the budget",
        paper="arXiv:1703.08603", venue="ICCV 2017", family="segmentation", provenance="code",
    ),
    Entry(
        name="dag-original",
        attack=compose(LInf(1), WrongClass(), Proportional(), Attack(iterations=200, step_size=0.5 / 255)),
        title="dense adversary generation as published: no budget, until 99 % of the pixels are wrong",
        paper="arXiv:1703.08603", venue="ICCV 2017", family="segmentation", provenance="code",
    ),
    Entry(
        name="alma-prox",
        attack=compose(LInf(1), AugmentedLagrangian(), Proximal(), Attack(iterations=500, step_size=0.001)),
        title="augmented Lagrangian, proximal steps: the least perturbation for 99 % of the pixels, no budget",
        paper="arXiv:2206.07179", venue="CVPR 2023", family="segmentation", provenance="code",
    ),
    Entry(
        name="pdpgd", attack=compose(LInf(1), PrimalDual(), PDPGD, Attack(iterations=500, step_size=0.01)),
        title="primal-dual proximal gradient descent: as alma-prox, with dual variables",
        paper="arXiv:2106.01538", venue="arXiv 2021", family="segmentation", provenance="third-party",
    ),
    Entry(
        name="indirect", attack=compose(PGD, Classes()),
        title="indirect local attack: only class 0 changes, only the rest counts; not the adaptive, sparse one",
        paper="arXiv:1911.13038", venue="ECCV 2020", family="segmentation", provenance="paper",
    ),
    Entry(
        name="patch", attack=compose(LInf(1), Patch(), AdaptiveCrossEntropy(), Resize(copies=4, probability=1.0), MI),
        title="patch of free pixels of each image, in expectation over sizes and places",
        paper="arXiv:2201.01850", venue="TNNLS 2023", family="segmentation", provenance="paper",
    ),
    Entry(
        name="universal", attack=compose(Universal()),
        title="one perturbation for the whole batch, here untargeted",
        paper="arXiv:1704.05712", venue="ICCV 2017", family="segmentation", provenance="paper",
    ),
    # Regions that stay gain where one sample has to do; with five, from the one surrogate tried, they cost asr_miou
    # (docs/segtrans-screens.md).
    Entry(
        name="segtrans", attack=compose(*SEGTRANS, Remap(keep=0.25)),
        title="SegTrans, our reconstruction from its abstract",
        paper="arXiv:2510.08922", venue="IEEE TMM 2025", family="segmentation", provenance="reconstruction",
    ),
    Entry(
        name="segtrans-k5", attack=compose(*SEGTRANS, Remap(copies=5)),
        title="SegTrans, our reconstruction from its abstract, five copies per gradient, every region moved",
        paper="arXiv:2510.08922", venue="IEEE TMM 2025", family="segmentation", provenance="reconstruction",
    ),
    Entry(
        name="segtrans-k20", attack=compose(*SEGTRANS, Remap(copies=20)),
        title="SegTrans, our reconstruction from its abstract, twenty copies per gradient, every region moved",
        paper="arXiv:2510.08922", venue="IEEE TMM 2025", family="segmentation", provenance="reconstruction",
    ),
    Entry(
        name="segtrans-half", attack=compose(*SEGTRANS, Remap(probability=0.5)),
        title="SegTrans's samples half of the time and the image itself otherwise, for targets of any backbone",
        paper="arXiv:2510.08922", venue="IEEE TMM 2025", family="segmentation", provenance="reconstruction",
    ),
)  # fmt: skip
