"""core.training.optim against the formulas, and across an interruption."""

import io
import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mixsweep.core.trainables.image.config import OPTIMIZERS, ImageConfig
from mixsweep.core.training.optim import build_optimizer, learning_rate, plain_step, set_learning_rate

LR, DECAY, MOMENTUM = 0.01, 0.1, 0.8


def trial(optimizer: str, **values: Any) -> ImageConfig:
    values = {"lr": LR, "weight_decay": DECAY, **values}
    if optimizer == "momentum":
        values["momentum"] = MOMENTUM
    return ImageConfig(optimizer=optimizer, **values)


def gradients(steps: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(3)
    return [torch.randn(50, generator=random, dtype=torch.float64) for _ in range(steps)]


def start() -> Tensor:
    return torch.linspace(-2, 2, 50, dtype=torch.float64)


def by_hand(optimizer: str, steps: int) -> Tensor:
    """The update rules as their papers write them, in float64."""
    weight = start()
    velocity, first, second = torch.zeros(3, 50, dtype=torch.float64)
    for t, gradient in enumerate(gradients(steps), 1):
        if optimizer == "adamw":
            weight = weight - LR * DECAY * weight
        else:
            gradient = gradient + DECAY * weight
        if optimizer == "sgd":
            weight = weight - LR * gradient
        elif optimizer == "momentum":
            velocity = MOMENTUM * velocity + gradient
            weight = weight - LR * velocity
        else:
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            weight = weight - LR * (first / (1 - 0.9**t)) / ((second / (1 - 0.999**t)).sqrt() + 1e-8)
    return weight


def by_us(optimizer: str, steps: int, **values: float) -> Tensor:
    weight = nn.Parameter(start())
    rule = build_optimizer(trial(optimizer, **values), [weight])
    for gradient in gradients(steps):
        weight.grad = gradient.clone()
        rule.step()
    return weight.detach()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("steps", [1, 5])
def test_steps_are_those_of_the_formula(optimizer: str, steps: int) -> None:
    torch.testing.assert_close(by_us(optimizer, steps), by_hand(optimizer, steps), atol=1e-10, rtol=1e-9)


def test_weight_decay_acts_on_adam_and_differently_on_adamw() -> None:
    assert not torch.allclose(by_us("adam", 3), by_us("adam", 3, weight_decay=0.0))
    assert not torch.allclose(by_us("adam", 3), by_us("adamw", 3))
    assert torch.equal(by_us("adam", 3, weight_decay=0.0), by_us("adamw", 3, weight_decay=0.0))


def train(model: nn.Module, rule: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        random = torch.Generator().manual_seed(step)
        x = torch.randn(32, 20, generator=random)
        set_learning_rate(rule, 0.01 / (step + 1))
        rule.zero_grad()
        model(x).square().mean().backward()
        rule.step()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 300), nn.Tanh(), nn.Linear(300, 5))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_restored_optimizer_goes_on_bit_for_bit(optimizer: str) -> None:
    whole = network()
    train(whole, build_optimizer(trial(optimizer), whole.parameters()), range(8))

    before = network()
    rule = build_optimizer(trial(optimizer), before.parameters())
    train(before, rule, range(4))
    file = io.BytesIO()
    torch.save({"model": before.state_dict(), "optimizer": rule.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    after = network()
    rule = build_optimizer(trial(optimizer), after.parameters())
    after.load_state_dict(state["model"])
    rule.load_state_dict(state["optimizer"])
    train(after, rule, range(4, 8))

    for expected, resumed in zip(whole.parameters(), after.parameters()):
        assert torch.equal(expected, resumed)


def test_a_constant_rate_is_constant() -> None:
    config = ImageConfig(lr=0.3, epochs=2)
    assert {learning_rate(config, step, 10) for step in range(20)} == {0.3}


def test_warm_up_rises_linearly_from_its_first_share_to_the_peak() -> None:
    config = ImageConfig(lr=1.0, epochs=3, warmup_epochs=0.5)
    rates = [learning_rate(config, step, 10) for step in range(30)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert set(rates[5:]) == {1.0}


def test_cosine_falls_from_the_peak_through_half_to_zero() -> None:
    config = ImageConfig(lr=2.0, schedule="cosine", epochs=4)
    assert learning_rate(config, 0, 10) == 2.0
    assert learning_rate(config, 20, 10) == pytest.approx(1.0)
    assert learning_rate(config, 10, 10) == pytest.approx(1 + math.sqrt(0.5))
    assert learning_rate(config, 40, 10) == 0.0
    rates = [learning_rate(config, step, 10) for step in range(41)]
    assert rates == sorted(rates, reverse=True)
    assert min(rates[:40]) > 0


def test_cosine_after_warm_up_begins_at_the_peak() -> None:
    config = ImageConfig(lr=2.0, schedule="cosine", epochs=4, warmup_epochs=1)
    rates = [learning_rate(config, step, 10) for step in range(41)]
    assert rates[9:11] == [2.0, 2.0]
    assert rates[25] == pytest.approx(1.0)
    assert rates[40] == 0.0


def test_the_rate_that_is_set_is_the_one_of_the_next_step() -> None:
    weight = nn.Parameter(torch.zeros(3))
    rule = build_optimizer(ImageConfig(optimizer="sgd", lr=1.0, weight_decay=0.0), [weight])
    set_learning_rate(rule, 0.25)
    weight.grad = torch.ones(3)
    rule.step()
    assert weight.tolist() == [-0.25, -0.25, -0.25]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_plain_step_is_the_optimizers_own_bit_for_bit(optimizer: str) -> None:
    weights = [nn.Parameter(start()), nn.Parameter(start())]
    rules = [build_optimizer(trial(optimizer), [weight]) for weight in weights]
    steps = [rules[0].step, plain_step(rules[1])]
    assert steps[1] is not rules[1].step
    for gradient in gradients(20):
        for weight, step in zip(weights, steps):
            weight.grad = gradient.clone()
            step()
    assert torch.equal(*weights)
    states = [rule.state_dict()["state"].get(0, {}) for rule in rules]
    for name, value in states[0].items():
        assert value is None or torch.equal(value, states[1][name])


def test_another_optimizers_step_is_left_as_it_is() -> None:
    class Own(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            self.called = True

    rule = Own([nn.Parameter(start())], 0.1)
    plain_step(rule)()
    assert rule.called


TRAINS = """
import sys, torch
from mixsweep.core.data.datasets import load_images
from mixsweep.core.trainables.image.config import ImageConfig
from mixsweep.core.training.trainer import Trial
config = ImageConfig(dataset="digits", hidden=(8,), epochs=2, optimizer=sys.argv[1])
trial = Trial(config, load_images("digits", None), torch.device("cpu"))
first = next(trial.train())
trial.restore(trial.state())
next(trial.train()), trial.test()
print(sorted({"torch._dynamo", "sympy", "sklearn", "pandas"} & set(sys.modules)))
"""


@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
def test_a_trial_imports_neither_pytorchs_compiler_nor_scikit_learn(optimizer: str) -> None:
    """Each takes more than a second, in each task of an array."""
    done = subprocess.run([sys.executable, "-c", TRAINS, optimizer], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
