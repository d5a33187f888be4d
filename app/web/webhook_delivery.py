"""Sends the webhooks of ended jobs, in a thread of the web process.

Not among the chores of an engine: a receiver that is slow or away would delay the taking over of a dead engine's jobs,
and hosts with engines need no way out to the network.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from loguru import logger

from app.errors import SplatgateError
from app.jobs.client import Jobs
from app.jobs.webhooks import AT_ONCE, Owed, pause, settle, take_due
from app.web.models import JobView
from app.web.webhook_request import NotDelivered, send, sign
from app.webhooks import read_key

LOOK_SECONDS, RETRY_SECONDS = 1.0, 5.0
"""Between two looks; after one that failed."""


class WebhookDelivery:
    """Thread-safe. Several processes on one database share the work. Raises ConfigError for a key that is none."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._settings = jobs.config.webhooks
        self._key = read_key(self._settings)
        self._pool = ThreadPoolExecutor(AT_ONCE, "webhook")

    def start(self) -> None:
        """Starts the thread, unless webhooks are off. It ends with the process; what it had begun is sent again."""
        if self._settings.origins:
            threading.Thread(target=self._run, name="webhooks", daemon=True).start()

    def deliver_due(self) -> int:
        """Sends what is due, and returns how many were tried. Raises DatabaseDown."""
        owed = take_due(self._jobs.store, self._jobs.clock())
        list(self._pool.map(self._deliver, owed))
        return len(owed)

    def _run(self) -> None:
        while True:
            try:
                wait = 0.0 if self.deliver_due() else LOOK_SECONDS
            except SplatgateError as error:
                logger.warning(f"webhooks: {error}")
                wait = RETRY_SECONDS
            except Exception as error:  # noqa: BLE001  the edge: one webhook must not end the others
                logger.opt(exception=error).error("webhooks: failed")
                wait = RETRY_SECONDS
            time.sleep(wait)

    def _deliver(self, owed: Owed) -> None:
        log = logger.bind(job=owed.job.id)
        try:
            self._settings.check(owed.url)  # the settings may have changed since the submission
            body = _body(owed)
            headers = sign(self._key, owed.job.id, int(time.time()), body)
            send(owed.url, body, headers, private=self._settings.private)
        except (NotDelivered, SplatgateError) as error:
            if owed.is_last:
                settle(self._jobs.store, owed, "given up")
                log.error(  # noqa: TRY400  the reason is the message
                    f"webhook of job {owed.job.id} given up after {owed.attempt} attempts: {error}"
                )
            else:
                log.warning(f"webhook of job {owed.job.id} failed, again in {pause(owed.attempt):.0f} s: {error}")
        else:
            settle(self._jobs.store, owed, "delivered")
            log.info(f"webhook of job {owed.job.id} delivered, attempt {owed.attempt}")


def _body(owed: Owed) -> bytes:
    ended = datetime.fromtimestamp(owed.job.finished or 0.0, UTC).isoformat()
    view = JobView.of(owed.job).model_dump_json()
    return f'{{"type":"job.ended","timestamp":"{ended}","data":{view}}}'.encode()
