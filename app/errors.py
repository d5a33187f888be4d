"""Every failure a caller can meet, one line each: HTTP status, and whether trying again can help.

A message names the value at fault and the remedy. A refusal by the gate is a result (`app.gate.Verdict`), not an error.
"""

from errno import EDQUOT, ENOSPC

from app.reason import Reason

FULL = (ENOSPC, EDQUOT)
"""What a write to a full disk ends with."""


class SplatgateError(Exception):
    """Root of the errors that are shown to the user as one line, without a traceback."""

    status = 500
    retryable = False


class ConfigError(SplatgateError):
    """config.toml or a SPLATGATE__ variable does not fit the schema."""


class BadInput(SplatgateError):
    """What the caller gave cannot be used as it is."""

    status = 422


class BadFile(BadInput):
    """A splat, picture or certificate file is broken, of another kind, or over a limit."""


class BadPrompt(BadInput):
    """The prompt is empty, too long, or outside what the profile can make."""


class Unavailable(SplatgateError):
    """Something this host lacks: a profile's models, a GPU, a package of an extra."""

    status = 503


class DatabaseDown(Unavailable):
    """The database cannot be opened, read or written."""

    retryable = True


class StorageDown(Unavailable):
    """The object store of assets.url cannot be reached, read or written, or the disk is full."""

    retryable = True


class BadWeights(Unavailable):
    """A model file is missing, of the wrong shape, or not the one that was pinned."""


class NotFetched(BadWeights):
    """A model that is needed is not on this host."""


class WrongWeights(BadWeights):
    """A model on this host is not what models.lock.json says: cut short, changed, or of another commit."""


class FetchFailed(Unavailable):
    """A model could not be fetched: no network, no permission, no such repository, no room on the disk."""

    retryable = True


class StageFailed(SplatgateError):
    """A stage ran and produced nothing usable (non-finite values, nothing to decode). It ends an attempt, not a job."""

    retryable = True

    def __init__(self, reason: Reason) -> None:
        super().__init__(str(reason))
        self.reason = reason


class NothingMade(StageFailed):
    """Every attempt ended without a splat. It counts as refused, for the reason of the first attempt."""


class SelfTestFailed(SplatgateError):
    """The self-test scored something else than it did before."""


class JobFailed(SplatgateError):
    """The job ended without a result."""

    retryable = True


class NotFound(BadInput):
    """No such job, or a job without such a file."""

    status = 404


class Conflict(BadInput):
    """What is asked for does not fit the state that a job is in."""

    status = 409


class KeyReused(BadInput):
    """An Idempotency-Key came back with another body."""


class QueueFull(SplatgateError):
    """jobs.max_queued jobs wait already. retry_after: whole seconds after which a place is likely to be free."""

    status = 429
    retryable = True

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TooManyFailures(SplatgateError):
    """An address has sent wrong tokens too often. retry_after: whole seconds after which it may try again."""

    status = 429
    retryable = True

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unauthorized(BadInput):
    """No token, or one that is not in auth.tokens_file."""

    status = 401


class Forbidden(BadInput):
    """A request that only a page of another site, or another machine, would send."""

    status = 403


class TooLarge(BadInput):
    """The body is over limits.max_body_mb."""

    status = 413


class TooBusy(SplatgateError):
    """limits.max_requests requests are being answered already."""

    status = 503
    retryable = True


class TooSlow(SplatgateError):
    """The body of a request did not arrive within limits.body_seconds."""

    status = 408
    retryable = True


class NotYet(SplatgateError):
    """The answer was not there within worker.wait_seconds; the job goes on."""

    status = 504
    retryable = True
