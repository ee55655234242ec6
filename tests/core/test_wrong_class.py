"""The wrong class that takes the place of each, and the attack that raises it until nearly all pixels are misread."""

import torch
from pixel_losses_by_hand import CLASSES, LOGITS, SIZE, Pixel, T, X, Y, each_goal, gradient_of, naive, run_at, value
from torch import Tensor

from segtrans.attack import Attack
from segtrans.catalogue import attack as read
from segtrans.data.base import VOID
from segtrans.goals import Goal
from segtrans.objectives import WrongClass
from segtrans.run import Run, View
from toys import Context, PixelLinear, labels, run_of

MANY = 10
MANY_LOGITS = PixelLinear(MANY)(X)
MANY_Y = labels(3, SIZE, values=(*range(MANY), VOID), block=2)


def assignment(objective: WrongClass, run: Run, logits: Tensor, y: Tensor) -> list[dict[int, int]]:
    """For each image the class that takes the place of each, read off the gradient."""
    gradient = gradient_of(objective, run, logits, y, logits)
    found = []
    for image in range(len(y)):
        pairs = dict[int, int]()
        for row, col in (gradient[image] != 0).any(0).nonzero().tolist():
            at, own = gradient[image, :, row, col], int(y[image, row, col])
            assert own == int(at.argmin())
            assert (at != 0).sum() == 2
            assert pairs.setdefault(own, int(at.argmax())) == int(at.argmax()), "one wrong class for all of a class"
        found.append(pairs)
    return found


def predicted_right(y: Tensor) -> Tensor:
    """Logits whose largest is the label's."""
    return torch.zeros(len(y), MANY, *SIZE, dtype=torch.float64).scatter(1, y.where(y != VOID, 0)[:, None], 1.0)


def test_wrong_classes_are_one_circle_per_image() -> None:
    # Images that are equal get the same; these differ.
    y = (torch.arange(99).view(9, 11) % MANY).expand(3, 9, 11).contiguous()
    run = run_of(Attack(objective=WrongClass(), iterations=T), X, y, PixelLinear(MANY))
    found = assignment(WrongClass(), run, predicted_right(y), y)
    for pairs in found:
        assert set(pairs) == set(pairs.values()) == set(range(MANY))
        at, seen = 0, []
        for _ in range(MANY):
            seen.append(at := pairs[at])
        assert sorted(seen) == list(range(MANY)), "through all classes and back"
    assert found[0] != found[1] != found[2]
    run = Run(run.attack, PixelLinear(MANY), X, y, seed=1)
    other = assignment(WrongClass(), run, predicted_right(y), y)
    assert all(one != another for one, another in zip(found, other, strict=True))


def test_wrong_classes_belong_to_the_image_and_not_to_its_place_in_the_view() -> None:
    run = run_of(Attack(objective=WrongClass(), iterations=T), X, MANY_Y, PixelLinear(MANY))
    bound = WrongClass().bind(run)
    whole = bound(View(labels=MANY_Y, logits=MANY_LOGITS, places=torch.arange(3)))
    places = torch.tensor([2, 0, 0, 1])
    assert torch.equal(bound(View(labels=MANY_Y[places], logits=MANY_LOGITS[places], places=places)), whole[places])


def test_wrong_classes_stay_for_the_whole_attack() -> None:
    run = run_of(Attack(objective=WrongClass(), iterations=T), X, MANY_Y, PixelLinear(MANY))
    bound = WrongClass().bind(run)
    logits = predicted_right(MANY_Y).requires_grad_()
    view = View(labels=MANY_Y, logits=logits, places=torch.arange(3))
    gradients = []
    for run.iteration in range(3):
        gradients.append(torch.autograd.grad(bound(view).sum(), logits)[0])
        run.gradient(X)
    assert (gradients[0] != 0).any()
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)


@each_goal
def test_wrong_class_formula(goal: Goal) -> None:
    """Sum of (logit of the other class - logit of the label) over active pixels."""
    run = run_at(WrongClass(), goal)
    pairs = assignment(WrongClass(), run_at(WrongClass()), LOGITS, Y)
    seen: list[list[Pixel]] = []

    def of_pixel(pixel: Pixel) -> float:
        if not any(image is pixel.image for image in seen):
            seen.append(pixel.image)
        if not pixel.todo():
            return 0.0
        other = pixel.f.index(max(pixel.f)) if pixel.targeted else pairs[len(seen) - 1][pixel.y]
        return pixel.f[other] - pixel.f[pixel.y]

    assert (value(WrongClass(), run) - naive(of_pixel, run)).abs().max() <= 1e-12


def test_an_image_is_left_alone_once_one_percent_is_left() -> None:
    y = torch.zeros(3, *SIZE, dtype=torch.int64)
    y[:, 0, :9] = VOID  # 90 valid pixels, of which 4.5 are five per cent
    logits = torch.zeros(3, CLASSES, *SIZE, dtype=torch.float64)
    logits[:, 1] = 1
    for image, active in enumerate((4, 5, 0)):
        logits[image, 0, 5, :active] = 2
    run = run_of(Attack(objective=WrongClass(), iterations=T), X, y, PixelLinear(CLASSES))
    moving = (gradient_of(WrongClass(rest=0.05), run, logits, y, logits) != 0).flatten(1).any(1)
    assert moving.tolist() == [False, True, False]
    # Exactly that share is no more than it: 4 of 80.
    y[:, 1, :10] = VOID
    exact = (gradient_of(WrongClass(rest=0.05), run, logits, y, logits) != 0).flatten(1).any(1)
    assert exact.tolist() == [False, True, False]
    moving = (gradient_of(WrongClass(rest=0), run, logits, y, logits) != 0).flatten(1).any(1)
    assert moving.tolist() == [True, True, False]


def test_dag_stops_by_itself() -> None:
    """With room enough nearly all pixels are misread, and then nothing moves any more."""
    model = Context()
    y = model(X).argmax(1)
    attack = read("linf(eps=0.5) + wrongclass(rest=0.1) + bim(step_size=0.02)")
    short, long = (
        read(f"linf(eps=0.5) + wrongclass(rest=0.1) + bim(step_size=0.02, iterations={n})") for n in (60, 80)
    )
    ended = short(model, X, y)
    assert torch.equal(ended, long(model, X, y))
    assert ((model(ended).argmax(1) == y).double().mean((1, 2)) <= 0.1).all()
    assert ((model(attack(model, X, y)).argmax(1) == y).double().mean((1, 2)) > 0.1).any()


def test_one_class_has_no_wrong_one() -> None:
    logits = X[:, :1].clone().requires_grad_()
    run = run_of(Attack(objective=WrongClass()), X, torch.zeros_like(Y), PixelLinear(1))
    loss = value(WrongClass(), run, logits, torch.zeros_like(Y), logits)
    assert (loss == 0).all()
