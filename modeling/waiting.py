"""How OpenMP's threads wait for each other: a few microseconds awake, then asleep. Said before torch is loaded.

By default libgomp's spin for milliseconds, which ruins whoever shares the cores: 2.7 s instead of 0.06 s for a small
model while both arms compute. Asleep at once, each of a photo's hundred parallel loops waits until its other thread has
been woken, 6 to 10 % of a photo. 300 to 600 turns cost none of that, and nothing while two workers share two cores;
1000 cost 7 % then, 10,000 half (docs/benchmarks.md, "Threads that wait").
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

VARIABLES = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "500"}
"""The first for every OpenMP, the second for libgomp, which torch's wheels bring along, and where it wins."""


def wait_briefly(environ: MutableMapping[str, str] = os.environ) -> None:
    """Sets `VARIABLES` unless the user has said how threads shall wait. Of no use once torch has been imported."""
    if VARIABLES.keys().isdisjoint(environ):
        environ.update(VARIABLES)
