"""The official worker, as its documentation starts it: with the key of an environment, or with the secret of one piece of work.

    worker.py run FOLDER    takes up work of ANTHROPIC_ENVIRONMENT_ID with ANTHROPIC_ENVIRONMENT_KEY, until it is killed
    worker.py item FOLDER   does the work that ANTHROPIC_WORK_ID and its like name, as a program that is handed it
"""

import asyncio
import logging
import os
import sys

from anthropic import AsyncAnthropic

IDLE_S = 1.0
"""How long a worker stays with a session that has nothing to do."""


async def main(mode: str, folder: str) -> None:
    async with AsyncAnthropic(_strict_response_validation=True) as client:
        if mode == "run":
            worker = client.beta.environments.work.worker(
                environment_id=os.environ["ANTHROPIC_ENVIRONMENT_ID"],
                environment_key=os.environ["ANTHROPIC_ENVIRONMENT_KEY"],
                workdir=folder,
                max_idle=IDLE_S,
            )
            await worker.run()
        else:
            await client.beta.environments.work.worker(workdir=folder, max_idle=IDLE_S).handle_item()


logging.basicConfig(level=logging.INFO, stream=sys.stderr)
asyncio.run(main(*sys.argv[1:]))
