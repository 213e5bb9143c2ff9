"""How much hypothesis tries: `HYPOTHESIS_PROFILE=fast|ci|soak`, see the Makefile's lanes."""

import os

from hypothesis import HealthCheck, settings

for profile, max_examples in {"fast": 20, "ci": 100, "soak": 2_000}.items():
    settings.register_profile(
        profile,
        max_examples=max_examples,
        derandomize=False,  # each run tries something new; a failure prints how to see it again
        print_blob=True,
        deadline=None,  # a shared machine is slow now and then; pytest-timeout catches what hangs
        suppress_health_check=[HealthCheck.too_slow],  # the same
    )
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
