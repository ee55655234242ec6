"""Other libraries' attacks in our runs: they keep our laws, cost what they cost, and score what ours score."""

import math
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segtrans import bench
from segtrans.catalogue import attack as read
from segtrans.data.base import VOID
from segtrans.errors import MissingError, UsageError
from segtrans.interop import LIBRARIES, Foreign
from segtrans.models import Ensemble, wrap
from segtrans.testing import check_attack
from segtrans.threat import L2, LInf, Threat
from toys import Context, images, labels

PACKAGES = {"torchattacks": "torchattacks", "foolbox": "foolbox", "art": "art", "adv_lib": "adv_lib"}


def need(text: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip(PACKAGES[text.partition(":")[0]], reason="not installed ; make setup installs it")
    return text


def theirs(text: str) -> Foreign:
    found = read(need(text))
    assert isinstance(found, Foreign)
    return found


# The same attack four times, by the names its settings have there.
PGD = {
    "torchattacks": "torchattacks:PGD(random_start=False, alpha=2/255, steps=4)",
    "foolbox": "foolbox:LinfPGD(random_start=False, abs_stepsize=2/255, steps=4)",
    "art": "art:ProjectedGradientDescent(eps_step=2/255, max_iter=4)",
    "adv_lib": "adv_lib:pgd_linf(random_init=False, absolute_step_size=2/255, steps=4)",
}
each_library = pytest.mark.parametrize("library", PGD)


class Sure(Context):
    """In float32, and more certain of what it says."""

    def __init__(self) -> None:
        super().__init__()
        self.float()

    def forward(self, x: Tensor) -> Tensor:
        return 8 * super().forward(x)


@each_library
def test_pgd_is_ours(library: str) -> None:
    """In float32, in which ART computes. adv-lib returns the point before the last step, if that is wrong."""
    model, x, text = Sure(), images(2).float(), PGD[library]
    y = model(x).argmax(1).masked_fill(labels(2) == VOID, VOID)
    if library == "adv_lib":
        text = text.replace("steps=4", "steps=5")
    region = torch.arange(x.shape[-1]).expand(x.shape[-2:]) > 1
    expected = read("bim(iterations=4)")(model, x, y, region=region)
    assert (expected != x).float().mean() > 0.85
    assert (theirs(text)(model, x, y, region=region) - expected).abs().max() <= 1e-6


@pytest.mark.parametrize(
    "text",
    [
        *list(PGD.values())[:3],
        "torchattacks:VMIFGSM(steps=2)",
        "foolbox:L2PGD(random_start=False, steps=3)",
        "art:MomentumIterativeMethod(max_iter=3, norm=2)",
        "adv_lib:asma(num_steps=10)",
    ],
)
def test_they_keep_our_laws(text: str) -> None:
    check_attack(theirs(text))


DRAWING = [
    "torchattacks:PGD(steps=2)",
    "torchattacks:APGD(steps=3)",
    "foolbox:LinfPGD(steps=2)",
    "art:ProjectedGradientDescent(max_iter=2, num_random_init=1)",
    "adv_lib:pgd_linf(steps=16)",
]


@pytest.mark.parametrize("text", DRAWING)
def test_random_numbers_belong_to_the_seed_and_the_image(text: str) -> None:
    attack, model, x = theirs(text), Sure(), images(3).float()
    found = attack(model, x, seed=1)
    state = torch.get_rng_state()
    torch.rand(7)
    assert torch.equal(attack(model, x, seed=1), found)
    assert torch.equal(attack(model, x[1:2], seed=1), found[1:2]), "whatever batch it is in"
    assert not torch.equal(attack(model, x, seed=2), found)
    torch.set_rng_state(state)


def test_void_pixels_never_matter() -> None:
    """For two classes and for dense labels, on a model whose pixels do not see their neighbours."""
    model = nn.Conv2d(3, 4, 1).requires_grad_(False).double()
    x, y = images(1), model(images(1)).argmax(1)
    y[:, 5:9] = VOID
    for text in ("torchattacks:PGD(random_start=False)", "adv_lib:alma_prox(num_steps=30, lr_init=0.01)"):
        found = theirs(text)(model, x, y)
        assert torch.equal(found[..., 5:9, :], x[..., 5:9, :]), "no gradient ever got there"
        assert (found != x).any()


def test_what_is_wrong_at_first_is_attacked() -> None:
    """APGD of theirs leaves alone what it takes for wrong already."""
    x, y = images(2).float(), labels(2)
    assert F.cross_entropy(Sure()(x), y, ignore_index=VOID) > 2 * math.log(2)
    found = theirs("torchattacks:APGD(steps=20, eps=64/255)")(Sure(), x, y)
    assert (found != x).flatten(1).any(1).all()


def test_nan_on_the_way() -> None:
    """A model that fails on all but clean images."""
    x = images(2)

    def model(z: Tensor) -> Tensor:
        moved = torch.stack([(one != x).flatten(1).any(1).all() for one in z])
        return Context()(z).masked_fill(moved.view(-1, 1, 1, 1), torch.nan)

    result = theirs("torchattacks:PGD(random_start=False)").perturb(model, x)
    assert result.failed.tolist() == [True, True]
    assert torch.equal(result.adversarial, x)


@pytest.mark.parametrize(
    ("text", "evaluations"),
    [
        ("torchattacks:FGSM", 1),
        ("torchattacks:EOTPGD(steps=3, eot_iter=4)", 12),
        ("torchattacks:VMIFGSM(steps=3, N=5)", 18),
        ("torchattacks:GN", 0),
        ("torchattacks:PGDRS(steps=2, noise_batch_size=3)", 6),
        ("foolbox:LinfPGD(steps=3)", 3),
        ("art:FastGradientMethod", 1),
        ("art:ProjectedGradientDescent(max_iter=3, num_random_init=2)", 6),
        ("adv_lib:alma_prox(num_steps=7)", 7),
    ],
)
def test_gradients_are_counted(text: str, evaluations: int) -> None:
    attack, asked = theirs(text), 0

    class Counting(Context):
        def forward(self, x: Tensor) -> Tensor:
            nonlocal asked
            asked += len(x) * x.requires_grad
            return super().forward(x)

    result = attack.perturb(Counting(), images(1))
    assert result.evaluations == asked == evaluations
    assert (
        attack.evaluations == attack.preparation + attack.iterations * attack.evaluations_per_iteration == evaluations
    )


def test_members_of_an_ensemble_count_for_themselves() -> None:
    both = Ensemble([wrap(nn.Conv2d(3, 4, 3, padding=1), 4, name=name) for name in "ab"])
    attack = theirs("torchattacks:BIM(steps=3)")
    assert attack.perturb(both, images(1).float()).evaluations == attack.evaluations_on(2).total == 6


@each_library
def test_settings_are_passed_on(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    call = LIBRARIES[library].call

    def watched(make: Any, threat: Threat, shown: Any, arguments: dict[str, Any]) -> Any:
        given.update(arguments)
        return call(make, threat, shown, arguments)

    monkeypatch.setitem(LIBRARIES, library, LIBRARIES[library]._replace(call=watched))
    found = theirs(PGD[library]).configured(eps="4/255", iterations=7, step_size="eps/T")
    found.perturb(Context(), images(1))
    words = {
        "torchattacks": ("eps", "steps", "alpha"),
        "foolbox": ("", "steps", "abs_stepsize"),
        "art": ("eps", "max_iter", "eps_step"),
        "adv_lib": ("ε", "steps", "absolute_step_size"),
    }[library]
    expected = dict(zip(words, (4 / 255, 7, 4 / 255 / 7), strict=True))
    expected.pop("", None)
    assert given.items() >= expected.items()


def test_what_is_not_said() -> None:
    """Budget and step are ours, iterations theirs; a norm in the name counts."""
    found = theirs("torchattacks:PGD")
    assert (found.threat, found.iterations, found.step_size, found.alpha) == (LInf(), 10, "eps/4", 2 / 255)
    assert theirs("foolbox:FGM").threat == L2()
    assert theirs("torchattacks:PGDL2(eps=2)").threat == L2(2)
    assert theirs("art:FastGradientMethod(norm=2, eps=3)").threat == L2(3)
    assert theirs("torchattacks:APGD").step_size is None
    assert theirs("torchattacks:FFGSM").step_size is None, "a single step is theirs"
    assert theirs("foolbox:LinfPGD(rel_stepsize=0.125, eps=16/255)").alpha == 2 / 255
    assert theirs("torchattacks:pifgsm(eps=4/255)") == theirs("torchattacks:PIFGSM(max_epsilon=4/255)").__class__(
        library="torchattacks", name="pifgsm", threat=LInf("4/255"), iterations=10
    )
    assert "version='3." in repr(found), "another version is another attack"


def test_what_leaves_the_budget_is_moved_back() -> None:
    """Noise of a standard deviation of 0.5, and a smallest perturbation that is not small enough."""
    x = images(2)
    for text in ("torchattacks:GN(std=0.5)", "foolbox:L2DeepFoolAttack(eps=0.01)"):
        attack = theirs(text)
        distance = attack.threat.distance(attack(Context(), x), x)
        assert (distance <= attack.threat.radius * (1 + 1e-12)).all()
        assert (distance >= attack.threat.radius * 0.99).all()


BAD = {
    "foolbix:PGD": "unknown attack library 'foolbix'; did you mean foolbox",
    "torchattacks:MIFGMS": "unknown attack of torchattacks 'MIFGMS'; did you mean .*MIFGSM",
    "torchattacks:PGD(stepz=3)": "unknown setting of torchattacks:PGD 'stepz'; did you mean steps",
    "torchattacks:PGD(model=3)": "unknown setting of torchattacks:PGD 'model'",
    "art:ProjectedGradientDescent(targeted=True)": "unknown setting of art:ProjectedGradientDescent 'targeted'",
    "torchattacks:FGSM(iterations=3)": "unknown setting of torchattacks:FGSM 'iterations'",
    "foolbox:LinfPGD(norm=2)": "unknown setting of foolbox:LinfPGD 'norm'",
    "foolbox:LinfPGD(rel_stepsize=0)": "rel_stepsize is 0; allowed are numbers from",
    "torchattacks:APGD(norm='L1')": "has the norm '1'; allowed are 'inf' and 2",
    "foolbox:L1PGD": "has the norm '1'; allowed are 'inf' and 2",
    "torchattacks:PGD(eps=8)": "eps is 8; images are in",
    "torchattacks:PGD(steps=-1)": "iterations is -1; allowed are whole numbers",
    "torchattacks:PGD(2)": "cannot read the settings",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_spellings(text: str) -> None:
    if not text.startswith("foolbix"):
        need(text)
    with pytest.raises(UsageError, match=BAD[text]):
        read(text)


def test_what_cannot_work_fails_before_a_run() -> None:
    """A loss that needs three classes, and a setting of the wrong kind, in one sentence each."""
    for text in ("torchattacks:APGD(loss='dlr')", "foolbox:LinfPGD(random_start=False, steps='many')"):
        with pytest.raises(UsageError, match=r"^attack \w+:\w+ fails on an image of 16 × 16: |iterations is 'many'"):
            theirs(text).configured()


def test_a_library_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    with pytest.raises(MissingError, match=r"need torchattacks \(.*\); pip install torchattacks"):
        read("torchattacks:PGD")


def test_lack_of_memory_is_left_to_the_run() -> None:
    def model(x: Tensor) -> Tensor:
        if x.requires_grad:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return F.pad(x, (0, 0, 0, 0, 0, 1))

    with pytest.raises(torch.OutOfMemoryError):
        theirs("torchattacks:PGD").perturb(model, images(1))


TARGETS = ("zoo:voc/deeplabv3plus-efficientnetlite0", "zoo:voc/fcn-mobilenetv3s")


def test_in_a_real_run_they_score_what_ours_scores(tmp_path: Path) -> None:
    """Without labels, on photographs: each cell within a tenth of a point, and the same bill."""
    names = ["bim", *(need(text).replace(", steps=4", "").replace(", max_iter=4", "") for text in PGD.values())][:4]
    run = partial(
        bench.run,
        surrogates=["zoo:voc/pspnet-mobilenetv3s"],
        targets=list(TARGETS),
        attacks=names,
        data="photos?side=96",
        limit=2,
        iterations=3,
        device="cpu",
        pictures=0,
        quiet=True,
    )
    result = run(out=tmp_path / "two", batch=2)
    cells = {(cell["attack"], cell["target"]): cell for cell in result["cells"]}
    assert len(cells) == 4 * 2
    for name in names:
        for target in TARGETS:
            for measure in ("asr_miou", "asr_pixel", "miou"):
                assert cells[name, target][measure] == pytest.approx(cells["bim", target][measure], abs=1e-3)
            assert cells[name, target]["asr_pixel"] > 0.02
    assert {cost["gradient_evaluations"] for cost in result["costs"]} == {3}
    assert {result["attacks"][name]["provenance"] for name in names[1:]} == {"foreign"}
    assert result["attacks"][names[1]]["title"] == "PGD of torchattacks 3.5.1"
    # One of theirs that draws random numbers, in batches of another size.
    drawing = ["torchattacks:PGD(steps=2)"]
    one, two = (run(attacks=drawing, iterations=None, out=tmp_path / str(b), batch=b)["cells"] for b in (1, 2))
    assert one == two
