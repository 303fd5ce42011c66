"""Threads for work in hooks.

Pulumi keeps a thread of asyncio's own pool for each resource until it is made. A hook that waits
for a thread of that pool waits for ever once as many resources wait for their hooks.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Result = TypeVar("_Result")
_POOL = ThreadPoolExecutor(max_workers=8, thread_name_prefix="nordmesh")


async def in_thread(work: Callable[[], _Result]) -> _Result:
    """Run work in a thread of this program's own pool."""
    return await asyncio.get_running_loop().run_in_executor(_POOL, work)
