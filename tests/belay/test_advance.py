"""Updates in compiled code: the numbers of eager code, from code that is not made anew at each step."""

import copy

import pytest
import torch
from torch import nn

from belay import Belay, Oscillator, methods
from belay.advance import advance_, advance_compiled_, settings_of

WARMUP, STEPS = 50, 80
OSCILLATORS = {
    "ema": Oscillator.ema(0.99),
    "coupled ema": Oscillator(0.99, 1.0, 0.05),
    "pushing ema": Oscillator(0.9, 1.0, -0.05),
    "underdamped": Oscillator(0.99, 0.1),
    "critical": Oscillator.critical(lag=20),
    "overdamped": Oscillator(0.999, 0.5),
    "pulling": Oscillator(0.99, 0.1, 0.05),
    "pushing": Oscillator(0.9, 0.4, -0.1),
    "overdamped and pulling": Oscillator(0.999, 0.5, 0.1),
}


@pytest.fixture(autouse=True)
def _no_compiled_code_is_left():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


class Pair:
    """Two equal models with equal averages: one is updated by compiled code, the other by eager code."""

    def __init__(self, oscillator, dtype=torch.float32, **options):
        model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).to(dtype)
        self.models, self.graphs = (model, copy.deepcopy(model)), []
        self.averages = [
            Belay(model, oscillator, nonfinite="propagate", buffers="average", **options) for model in self.models
        ]

    def counting(self, backend):
        """A backend that notes in `graphs` each graph that it compiles."""

        def compiled(graph, example):
            self.graphs.append(graph)
            return torch._dynamo.lookup_backend(backend)(graph, example)

        return compiled

    def compiled_at(self, backend, steps=STEPS, fullgraph=True):
        """Trains both; returns the steps, counted from 1, at which code was compiled."""
        at = []
        compiled = torch.compile(self.averages[0].update, backend=self.counting(backend), fullgraph=fullgraph)
        for count in range(1, steps + 1):
            before = len(self.graphs)
            for model in self.models:
                with torch.no_grad():
                    for tensor in (*model.parameters(), model[1].running_mean):
                        tensor.add_(0.01 * count % 0.07)
            compiled()
            at += [count] * (len(self.graphs) - before)
            self.averages[1].update()
        return at

    def tensors(self):
        for average, model in zip(self.averages, self.models, strict=True):
            state = average.state_dict()
            yield [*model.parameters()] + [
                t for kind in ("average", "velocity", "buffers") for t in state[kind].values()
            ]

    def is_equal(self):
        ours, theirs = self.tensors()
        return self.averages[0].steps == self.averages[1].steps and all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize("oscillator", OSCILLATORS.values(), ids=OSCILLATORS.keys())
def test_a_warmup_compiles_at_its_first_two_steps_alone_to_the_numbers_of_eager_code(oscillator):
    pair = Pair(oscillator, warmup=WARMUP)
    assert pair.compiled_at("aot_eager") == [1, 2]
    assert pair.is_equal()


@pytest.mark.parametrize("name", ["ema", "pulling", "overdamped"])
def test_a_warmup_compiles_as_seldom_where_only_some_steps_update(name):
    pair = Pair(OSCILLATORS[name], warmup=WARMUP, update_every=4)
    assert pair.compiled_at("eager") == [2, 4]
    assert pair.is_equal()


@pytest.mark.parametrize("oscillator", [Oscillator.ema(0.9), Oscillator(0.9, 1.5), Oscillator(0.9, 0.3, 0.1)], ids=str)
def test_without_warmup_updates_compile_at_the_first_two_steps(oscillator):
    pair = Pair(oscillator)
    assert pair.compiled_at("eager") == [1, 2]
    assert pair.is_equal()


@pytest.mark.filterwarnings("ignore:an average pulls half-precision", "ignore:Complex modules")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.complex64], ids=str)
def test_a_compiled_warmup_is_the_eager_one_in_other_dtypes(dtype):
    pair = Pair(OSCILLATORS["pulling"], dtype, warmup=WARMUP)
    assert pair.compiled_at("aot_eager") == [1, 2]
    assert pair.is_equal()


def test_a_warmup_compiles_as_seldom_where_the_graph_may_break():
    pair = Pair(OSCILLATORS["pulling"], warmup=WARMUP)
    assert pair.compiled_at("eager", fullgraph=False) == [1, 2]
    assert pair.is_equal()


def test_a_compiled_warmup_goes_on_from_a_saved_state():
    pair, saved = Pair(OSCILLATORS["pulling"], warmup=WARMUP), Pair(OSCILLATORS["pulling"], warmup=WARMUP)
    saved.compiled_at("eager", steps=25)
    for average, other in zip(pair.averages, saved.averages, strict=True):
        average.load_state_dict(copy.deepcopy(other.state_dict()))
    torch.compiler.reset()
    assert pair.compiled_at("eager", steps=40) == [1, 2]
    assert pair.is_equal()


def test_other_settings_in_the_middle_of_a_compiled_warmup_are_taken_up():
    pair = Pair(OSCILLATORS["pulling"], warmup=WARMUP)
    pair.compiled_at("eager", steps=10)
    for average in pair.averages:
        average.oscillator = Oscillator(0.95, 0.2, 0.04)
    pair.compiled_at("eager", steps=10)
    assert pair.is_equal()


def test_settings_that_change_at_each_step_compile_no_more_than_those_that_stay():
    """As Schedule-Free's do; here they stay for some steps first."""
    method = methods.schedule_free(beta=0.9)
    pair = Pair(method(method.first).oscillator)
    compiled = torch.compile(pair.averages[0].update, backend=pair.counting("eager"), fullgraph=True)
    for step in range(1, 40):
        for average, update in zip(pair.averages, (compiled, pair.averages[1].update), strict=True):
            if step > 4:
                average.oscillator = method(method.first + average.steps).oscillator
            with torch.no_grad():
                average._model.module[0].weight.add_(0.01 * step % 0.07)
            update()
    assert len(pair.graphs) == 2
    assert pair.is_equal()


@pytest.mark.parametrize("coupling", [0.0, 0.05])
def test_the_hidden_operators_change_only_the_tensors_that_they_declare(coupling):
    x, y, v = ([torch.randn(3), torch.randn(2, 2)] for _ in range(3))
    settings = 7, settings_of(Oscillator(0.99, 0.1, coupling)), 1, WARMUP
    operator = torch.ops.belay.advance_coupled if coupling else torch.ops.belay.advance_uncoupled
    torch.library.opcheck(operator.default, (x, y, v, False, True, *settings))
    torch.library.opcheck(torch.ops.belay.advance_buffers.default, (x, y, *settings))


@pytest.mark.parametrize(("name", "operator"), [("underdamped", "uncoupled"), ("pulling", "coupled")])
def test_compiled_code_is_told_that_a_warmup_moves_the_model_where_it_is_coupled_and_only_there(name, operator):
    called = []

    def listing(graph, example):
        called.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    torch.compile(Pair(OSCILLATORS[name], warmup=WARMUP).averages[0].update, backend=listing, fullgraph=True)()
    assert next(target for target in called if "advance" in target) == f"belay.advance_{operator}.default"


@pytest.mark.parametrize("oscillator", OSCILLATORS.values(), ids=OSCILLATORS)
def test_the_operators_of_compiled_code_give_the_numbers_of_eager_code_without_a_compiler_too(oscillator):
    pair = Pair(oscillator, warmup=WARMUP)
    for step in range(1, 20):
        for average, compiling in zip(pair.averages, (True, False), strict=True):
            with torch.no_grad():
                average._model.module[0].weight.mul_(0.9)
            tensors = average._groups, [average._model.module[1].running_mean], [average._buffers["1.running_mean"]]
            if compiling:
                advance_compiled_(*tensors, average._clock, average._settings, step)
            else:
                advance_(*tensors, average._clock, step)
    assert all(map(torch.equal, *pair.tensors()))
