"""What the tests of the library share: one thread, one seed, and oscillators for hypothesis to draw."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import reject, settings
from hypothesis import strategies as st

from belay import Oscillator

settings.register_profile("belay", deadline=None, max_examples=60, derandomize=True)


@pytest.fixture(autouse=True)
def _one_thread_and_one_seed() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@st.composite
def _oscillators(draw: Any) -> Oscillator:
    """Oscillators of the whole admissible range, its corners and its critical line drawn often."""
    small = st.floats(-12, 0).map(lambda exponent: 10**exponent)
    share = st.one_of(st.floats(1e-12, 1 - 1e-12), small, small.map(lambda gap: 1 - gap))
    stiffness = draw(share.filter(lambda k: k > 0))
    critical = st.just(2 * math.sqrt(stiffness) - stiffness)
    damping = draw(
        st.one_of(st.just(1.0), st.floats(1e-12, 2 - 1e-12), small, small.map(lambda gap: 2 - gap), critical)
    )
    pull = st.one_of(st.just(0.0), share.filter(lambda kappa: kappa < 1))
    lowest = -stiffness / damping if damping >= 1 else max(-stiffness / damping, -damping / (1 - damping))
    coupling = draw(st.one_of(pull, share.map(lambda part: part * lowest)))
    room = (2 - damping) * (2 - coupling)  # stiffness must be below this
    try:
        return Oscillator(1 - stiffness if coupling < 0 else 1 - min(stiffness, 0.999 * room), damping, coupling)
    except ValueError:  # pushed too far by rounding, or with a stiffness above `room`
        reject()


st.register_type_strategy(Oscillator, _oscillators())
