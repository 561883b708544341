"""What is imported when: a broker that was killed is missed until it is back, and who types a command waits for it."""

import subprocess
import sys

import pytest

import hotpool
from tests.pool import ROOT


def test_every_public_name_is_there_and_an_unknown_one_is_refused():
    for name in hotpool.__all__:
        assert getattr(hotpool, name) is not None
    with pytest.raises(AttributeError, match="module 'hotpool' has no attribute 'Klient'"):
        _ = hotpool.Klient


@pytest.mark.slow
@pytest.mark.parametrize("module", ["hotpool", "broker.__main__", "workers.__main__", "control.cli"])
def test_what_takes_long_to_import_is_not_waited_for_where_nobody_needs_it(module):
    code = f"import sys, {module}; print(*sorted({{'asyncio', 'numpy', 'pydantic'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
