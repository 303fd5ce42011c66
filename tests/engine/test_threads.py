"""Hooks that work in threads, in a run with more resources than Pulumi has threads for."""

from collections.abc import Callable

from lab import paths
from tests.engine.conftest import Project

# Each resource waits for its hook, and each hook for a thread.
PROGRAM = """
import sys
import time
sys.path.insert(0, settings["checkout"])
from components.threads import in_thread


async def measure(args):
    await in_thread(lambda: time.sleep(0.01))


hook = pulumi.ResourceHook("measure", measure)
for number in range(60):
    local.Command(
        f"one-{number}",
        create="true",
        opts=pulumi.ResourceOptions(
            hooks=pulumi.ResourceHookBinding(before_create=[hook], after_create=[hook])
        ),
    )
"""


def test_hooks_do_not_wait_for_threads_of_waiting_resources(
    project: Callable[..., Project],
) -> None:
    project(PROGRAM, checkout=str(paths.PROJECT)).up().ok()
