"""`timeout`: a limit on a block of code that awaits, and that can be cancelled at any moment."""

import sys

if sys.version_info >= (3, 11):
    from asyncio import timeout
else:  # aiohttp brings it. asyncio.wait_for loses a cancellation that comes together with the result, before 3.12.
    from async_timeout import timeout

__all__ = ["timeout"]
