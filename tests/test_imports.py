"""What is imported when: a broker that was killed is missed until it is back, and who types a command waits for it."""

import subprocess
import sys

import pytest

import hotpool
from tests.pool import ROOT


def test_every_public_name_is_there_and_no_other():
    for name in hotpool.__all__:
        assert getattr(hotpool, name) is not None
    assert set(hotpool.__all__) <= set(dir(hotpool))
    with pytest.raises(AttributeError, match="module 'hotpool' has no attribute 'Klient'"):
        _ = hotpool.Klient


@pytest.mark.slow
@pytest.mark.parametrize("module", ["hotpool", "broker.__main__", "workers.__main__", "control.cli"])
def test_numpy_and_asyncio_are_not_waited_for_where_nobody_needs_them(module):
    code = f"import sys, {module}; print(*sorted({{'asyncio', 'numpy'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
