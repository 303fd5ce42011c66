"""What all tests share: the signals of a terminal, and the collection of garbage."""

import gc
import signal

# A shell without job control starts `pytest &` with SIGINT ignored, and every process that a test
# starts inherits that: none of them would end at its Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Never look again for garbage in the modules and tests that have been loaded by now."""
    gc.freeze()
