"""How the process of the Pulumi program runs; __main__.py imports it before anything else."""

import gc
import signal

# The engine ends a program with SIGINT; Python's own handler would bury the error in a traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)
# Everything that is imported lives as long as the program. Collecting garbage in it, while it loads
# and at the end, took 7% of the time of a weight edit.
gc.disable()


def end_of_imports() -> None:
    """Collect garbage from here on, but never look at what has been imported."""
    gc.freeze()
    gc.enable()
