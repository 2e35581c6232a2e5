"""The digits task: its data, what a seed fixes, its noise, its networks and optimizers, and that it learns."""

from __future__ import annotations

import itertools

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from belay import Belay, Oscillator
from study.design.tasks.digits import CLASSES, TRAINING_IMAGES, Digits


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def epoch(task: Digits, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All training images and labels of a seed, in the order of its first epoch."""
    batches = list(task.batches(seed, 0, TRAINING_IMAGES // task.batch_size))
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


def by_image(images: torch.Tensor, labels: torch.Tensor) -> dict[bytes, int]:
    return {image.numpy().tobytes(): int(label) for image, label in zip(images, labels, strict=True)}


# --- data -------------------------------------------------------------------------------------------------------------


def test_the_1797_digits_are_split_into_600_for_training_and_1197_for_validation():
    known = load_digits()
    everything = {
        (image / 16).astype("float32").tobytes(): label for image, label in zip(known.data, known.target, strict=True)
    }
    training = by_image(*epoch(Digits(batch_size=1), seed=0))
    assert len(everything) == 1797  # no digit occurs twice, so an image tells which it is
    assert len(training) == TRAINING_IMAGES == 600
    assert all(everything[image] == label for image, label in training.items())

    seen: dict[bytes, int] = {}

    class Watched(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.update(by_image(images, torch.zeros(len(images))))
            return torch.zeros(len(images), CLASSES)

    Digits().evaluate(Watched())
    assert len(seen) == 1197
    assert seen.keys() == everything.keys() - training.keys()


def test_pixels_lie_between_0_and_1():
    images, _ = epoch(Digits(batch_size=600), seed=0)
    assert (images.min(), images.max(), images.dtype) == (0, 1, torch.float32)


def test_an_epoch_shows_every_image_once_and_the_next_in_another_order():
    images, labels = zip(*Digits(batch_size=100).batches(0, 0, 12), strict=True)
    first, second = (by_image(torch.cat(images[part]), torch.cat(labels[part])) for part in (slice(6), slice(6, 12)))
    assert len(first) == 600
    assert first == second
    assert list(first) != list(second)


@pytest.mark.parametrize(("batch_size", "steps"), [(32, 40), (600, 3), (599, 3), (400, 5), (1, 7)])
def test_there_are_as_many_batches_as_steps_and_all_are_full(batch_size, steps):
    sizes = [(len(images), len(labels)) for images, labels in Digits(batch_size=batch_size).batches(0, 0, steps)]
    assert sizes == [(batch_size, batch_size)] * steps


def test_a_longer_run_begins_like_a_shorter_one():
    short, long = (list(Digits().batches(3, 0, steps)) for steps in (5, 30))
    for (images, labels), (same_images, same_labels) in zip(short, long, strict=False):
        assert torch.equal(images, same_images)
        assert torch.equal(labels, same_labels)


def test_the_digest_is_that_of_the_data_whatever_the_hyperparameters():
    assert Digits().data_digest() == Digits(lr=1, label_noise=0.5).data_digest()
    assert len(Digits().data_digest()) == 16


# --- seeds ------------------------------------------------------------------------------------------------------------


def weights(task: Digits, seed: int) -> torch.Tensor:
    return nn.utils.parameters_to_vector(task.build_model(seed).parameters())


def test_a_seed_fixes_the_initial_weights_and_nothing_else_does():
    torch.manual_seed(99)
    once = weights(Digits(), 5)
    torch.manual_seed(7)
    assert torch.equal(once, weights(Digits(lr=2.0, label_noise=0.4, optimizer="adam", batch_size=7), 5))


def test_building_a_model_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    Digits().build_model(5)
    assert torch.equal(before, torch.get_rng_state())


def test_a_seed_fixes_the_order_of_the_batches_whatever_the_setting():
    for (images, _), (same, _) in zip(
        Digits().batches(5, 0, 25), Digits(lr=3, label_noise=0.5).batches(5, 0, 25), strict=True
    ):
        assert torch.equal(images, same)


def test_a_seed_fixes_which_labels_are_wrong():
    task = Digits(label_noise=0.3)
    assert by_image(*epoch(task, 5)) == by_image(*epoch(task, 5))


def test_seeds_differ_in_weights_batches_and_wrong_labels():
    task = Digits(label_noise=0.3, batch_size=600)
    (images, labels), (other_images, other_labels) = epoch(task, 0), epoch(task, 1)
    assert not torch.equal(weights(task, 0), weights(task, 1))
    assert not torch.equal(images, other_images)
    assert by_image(images, labels) != by_image(other_images, other_labels)


# --- noise ------------------------------------------------------------------------------------------------------------


def wrong(share: float, seed: int) -> dict[bytes, tuple[int, int]]:
    """Images whose label is not the true one, with the true label and the one given."""
    true, given = (by_image(*epoch(Digits(label_noise=noise, batch_size=600), seed)) for noise in (0.0, share))
    return {image: (true[image], given[image]) for image in true if true[image] != given[image]}


@pytest.mark.parametrize("share", [0.05, 0.2, 0.6])
def test_the_share_of_wrong_labels_is_the_label_noise(share):
    n = 20 * TRAINING_IMAGES
    found = sum(len(wrong(share, seed)) for seed in range(20)) / n
    assert abs(found - share) < 4 * (share * (1 - share) / n) ** 0.5  # four standard errors of a share of n images


def test_without_label_noise_every_label_is_right():
    assert wrong(0.0, 3) == {}


def test_wrong_labels_are_other_classes_and_all_of_them_occur():
    moves = [pair for seed in range(20) for pair in wrong(0.5, seed).values()]
    assert all(given in range(CLASSES) for _, given in moves)
    assert {(given - true) % CLASSES for true, given in moves} == set(range(1, CLASSES))


def test_more_noise_keeps_the_labels_that_less_noise_made_wrong():
    few, many = wrong(0.1, 0), wrong(0.4, 0)
    assert few.items() <= many.items()
    assert len(few) < len(many)


def test_seeds_choose_their_wrong_labels_independently():
    sets = [set(wrong(0.3, seed)) for seed in range(6)]
    shares = [len(one & other) / len(one) for one, other in itertools.combinations(sets, 2)]
    assert sum(shares) / len(shares) == pytest.approx(0.3, abs=0.03)


# --- networks and optimizers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "depth", "count"), [(64, 1, 4810), (64, 0, 650), (16, 3, 1754)])
def test_width_and_depth_shape_the_network(width, depth, count):
    model = Digits(width=width, depth=depth).build_model(0)
    assert sum(isinstance(layer, nn.ReLU) for layer in model) == depth
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert model(torch.zeros(3, 64)).shape == (3, 10)


@pytest.mark.parametrize(
    ("name", "kind", "momentum"),
    [
        ("sgd", torch.optim.SGD, 0.0),
        ("momentum", torch.optim.SGD, 0.9),
        ("adam", torch.optim.Adam, None),
        ("adamw", torch.optim.AdamW, None),
    ],
)
def test_each_optimizer_is_what_it_is_called(name, kind, momentum):
    task = Digits(optimizer=name, lr=0.25)
    optimizer = task.describe_optimizer().build(task.build_model(0).parameters())
    assert type(optimizer) is kind
    assert optimizer.param_groups[0]["lr"] == 0.25
    assert optimizer.param_groups[0].get("momentum") == momentum


def train(task: Digits, steps: int, oscillator: Oscillator) -> tuple[dict[str, float], dict[str, float]]:
    """The metrics of the model's own and of the averaged weights after training."""
    model = task.build_model(0)
    optimizer, average = task.describe_optimizer().build(model.parameters()), Belay(model, oscillator)
    for batch in task.batches(0, 0, steps):
        optimizer.zero_grad()
        task.loss(model, batch).backward()
        optimizer.step()
        average.update()
    with torch.no_grad():
        live = task.evaluate(model)
        with average.average_parameters():
            return live, task.evaluate(model)


@pytest.mark.parametrize(("optimizer", "lr"), [("sgd", 0.5), ("momentum", 0.05), ("adam", 0.005), ("adamw", 0.005)])
def test_every_optimizer_learns_above_85_percent(optimizer, lr):
    live, averaged = train(Digits(optimizer=optimizer, lr=lr), 200, Oscillator(0.95, 0.5, 0.1))
    assert live["val_accuracy"] > 0.85
    assert averaged["val_accuracy"] > 0.85
    assert averaged["val_loss"] < 0.6


def test_metrics_are_those_of_the_validation_images():
    class Sure(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.tensor([100.0] + [0.0] * 9).expand(len(images), CLASSES)

    training_zeros = sum(label == 0 for label in by_image(*epoch(Digits(batch_size=600), 0)).values())
    validation_zeros = int((load_digits().target == 0).sum()) - training_zeros
    measured = Digits().evaluate(Sure())
    assert measured["val_accuracy"] == pytest.approx(validation_zeros / 1197)
    assert measured["val_loss"] == pytest.approx(100 * (1 - validation_zeros / 1197))


def test_the_loss_is_the_cross_entropy_in_nats():
    task = Digits(batch_size=10)
    images, labels = next(task.batches(0, 0, 1))
    uniform = nn.Linear(64, 10)
    nn.init.zeros_(uniform.weight)
    nn.init.zeros_(uniform.bias)
    assert task.loss(uniform, (images, labels)).item() == pytest.approx(2.302585, abs=1e-6)


@pytest.mark.parametrize(("schedule", "factors"), [
    ("constant", [1, 1, 1, 1]),
    ("linear", [1, 0.75, 0.5, 0.25]),
    ("cosine", [1, 0.853553, 0.5, 0.146447]),
])  # fmt: skip
def test_the_learning_rate_falls_as_the_schedule_says(schedule: str, factors: list[float]) -> None:
    task = Digits(schedule=schedule)
    assert [task.lr_factor(step, 4) for step in (1, 2, 3, 4)] == pytest.approx(factors, abs=1e-6)
