"""How OpenMP's threads wait is said unless the user said it."""

import os
import subprocess
import sys

import pytest

from maskserve.modeling.waiting import VARIABLES, wait_briefly


def test_threads_wait_briefly_unless_told_otherwise():
    environ = {"PATH": "/bin"}
    wait_briefly(environ)
    assert environ == {"PATH": "/bin", **VARIABLES}


@pytest.mark.parametrize("said", [{"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "0"}])
def test_what_the_user_said_stays(said: dict[str, str]):
    environ = dict(said)
    wait_briefly(environ)
    assert environ == said


def test_saying_it_loads_no_torch():
    code = "import sys, maskserve.modeling.waiting; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_torchs_own_openmp_reads_it():
    code = "import torch; torch.ones(10).sum()"
    environ = {**os.environ, **VARIABLES, "OMP_DISPLAY_ENV": "verbose"}
    said = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True).stderr
    if "GOMP_SPINCOUNT" not in said:
        pytest.skip("this torch does not run on libgomp")
    assert "GOMP_SPINCOUNT = '500'" in said
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in said
