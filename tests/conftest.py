"""What all tests share: the signals of a terminal, however the tests were started."""

import signal

# A shell without job control starts `pytest &` with SIGINT ignored, and every process that a test
# starts inherits that: none of them would end at its Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
