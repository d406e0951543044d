"""Sweeps the store now and then."""

import asyncio

import structlog

from app.settings import Options
from variants import retention
from variants.data_folder import DataFolder

log = structlog.get_logger()

SWEEP_S = 3600.0
"""Time between two sweeps."""


async def sweep_often(data: DataFolder, options: Options) -> None:
    """Sweep what nothing has referred to for `keep_unused_s`, for ever."""
    while True:
        await asyncio.sleep(SWEEP_S)
        try:
            grace_s = options.now.keep_unused_s
            swept = await asyncio.to_thread(retention.sweep, data, grace_s=grace_s, actor="gateway")
        except Exception as error:  # the registry may be gone; the next time will do
            log.warning("store_not_swept", error=str(error))
        else:
            for file in swept:
                log.info("file_swept", kind=file.kind, name=file.name, size_bytes=file.size_bytes)
