"""Settings shared by all tests."""

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

# The same examples at every run, however slow the machine.
settings.register_profile("segtrans", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("segtrans")

# On images this small a second thread costs more than it gives, above all on busy cores; commands run by tests inherit
# the setting through the environment.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def grad_mode() -> Iterator[None]:
    """No test may end in another grad mode than it began in: the code it ran would have left its mode to its caller."""
    yield
    leaked = not torch.is_grad_enabled() or torch.is_inference_mode_enabled()
    # The tests after it have done nothing wrong; inference mode, though, ends only where it was begun.
    torch.set_grad_enabled(True)
    assert not leaked
