"""Settings shared by all tests."""

from hypothesis import settings

# The same examples at every run, however slow the machine.
settings.register_profile("segtrans", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("segtrans")
