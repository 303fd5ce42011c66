"""What all tests share: the signals of a terminal, the collection of garbage, and the summary."""

import gc
import signal
from collections.abc import Generator

import pytest

from tests.support.reasons import reason

# A shell without job control starts `pytest &` with SIGINT ignored, and every process that a test
# starts inherits that: none of them would end at its Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Never look again for garbage in the modules and tests that have been loaded by now."""
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what failed in pytest's summary, which has the first line of a message only."""
    report = yield
    crash = getattr(report.longrepr, "reprcrash", None)
    if report.failed and crash is not None:
        crash.message = reason(crash.message)
    return report
