"""Settings of the test run."""

from hypothesis import settings

# The same examples every time, and no deadline: machines are noisy.
settings.register_profile("univfast", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("univfast")
