"""Sends the webhooks of ended jobs, in a thread of the web process.

An engine does not do this: a receiver that is slow or down would delay taking over the jobs of a dead engine, and hosts
with engines need no access to the network.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from loguru import logger

from app.errors import SplatgateError
from app.jobs.client import Jobs
from app.jobs.webhooks import BATCH_SIZE, PendingWebhook, pause, settle, take_due
from app.web.models import JobView
from app.web.webhook_request import NotDelivered, send, sign
from app.webhooks import read_key

POLL_SECONDS, RETRY_SECONDS = 1.0, 5.0
"""Between two polls of the database; after one that failed."""


class WebhookDelivery:
    """Thread-safe. Several processes on one database share the work. Raises ConfigError for an invalid key."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._settings = jobs.config.webhooks
        self._key = read_key(self._settings)
        self._pool = ThreadPoolExecutor(BATCH_SIZE, "webhook")

    def start(self) -> None:
        """Starts the thread, unless webhooks are off. It ends with the process; interrupted webhooks are sent again."""
        if self._settings.origins:
            threading.Thread(target=self._run, name="webhooks", daemon=True).start()

    def deliver_due(self) -> int:
        """Tries to send the webhooks that are due, and returns how many there were. Raises DatabaseDown."""
        due = take_due(self._jobs.store, self._jobs.clock())
        list(self._pool.map(self._deliver, due))
        return len(due)

    def _run(self) -> None:
        while True:
            try:
                wait = 0.0 if self.deliver_due() else POLL_SECONDS
            except SplatgateError as error:
                logger.warning(f"webhooks: {error}")
                wait = RETRY_SECONDS
            except Exception as error:  # noqa: BLE001  one webhook must not stop the others
                logger.opt(exception=error).error("webhooks: failed")
                wait = RETRY_SECONDS
            time.sleep(wait)

    def _deliver(self, webhook: PendingWebhook) -> None:
        log = logger.bind(job=webhook.job.id)
        try:
            self._settings.check(webhook.url)  # the settings may have changed since the submission
            body = _body(webhook)
            headers = sign(self._key, webhook.job.id, int(time.time()), body)
            send(webhook.url, body, headers, private=self._settings.private)
        except (NotDelivered, SplatgateError) as error:
            if webhook.is_last:
                settle(self._jobs.store, webhook, "given up")
                log.error(  # noqa: TRY400  the reason is the message
                    f"webhook of job {webhook.job.id} given up after {webhook.attempt} attempts: {error}"
                )
            else:
                log.warning(f"webhook of job {webhook.job.id} failed, again in {pause(webhook.attempt):.0f} s: {error}")
        else:
            settle(self._jobs.store, webhook, "delivered")
            log.info(f"webhook of job {webhook.job.id} delivered, attempt {webhook.attempt}")


def _body(webhook: PendingWebhook) -> bytes:
    ended = datetime.fromtimestamp(webhook.job.finished or 0.0, UTC).isoformat()
    view = JobView.of(webhook.job).model_dump_json()
    return f'{{"type":"job.ended","timestamp":"{ended}","data":{view}}}'.encode()
