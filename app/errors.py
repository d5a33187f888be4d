"""The errors that callers see, with their HTTP status and whether to retry.

A message names the offending value and the remedy. A refusal is a result (`app.gate.Verdict`), not an error.
"""

from errno import EDQUOT, ENOSPC

from app.reason import Reason

FULL = (ENOSPC, EDQUOT)
"""The error numbers of a write to a full disk."""


class SplatgateError(Exception):
    """Base class of the errors that are shown to the user as one line, without a traceback."""

    status = 500
    retryable = False


class ConfigError(SplatgateError):
    """config.toml or a SPLATGATE__ variable does not fit the schema."""


class BadInput(SplatgateError):
    """The caller's input cannot be used."""

    status = 422


class BadFile(BadInput):
    """A splat, picture or certificate file is damaged, of the wrong kind, or over a limit."""


class NotWritable(BadFile):
    """A file cannot be written where it was asked for."""


class BadPrompt(BadInput):
    """The prompt is empty, too long, or beyond what the profile can generate."""


class Unavailable(SplatgateError):
    """This host lacks something: a profile's models, a GPU, a package of an extra."""

    status = 503


class DatabaseDown(Unavailable):
    """The database cannot be opened, read or written."""

    retryable = True


class DatabaseDamaged(DatabaseDown):
    """The file of the database is damaged."""


class StorageDown(Unavailable):
    """The asset store cannot be reached, read or written, or a disk is full. Jobs wait until it can be used again."""

    retryable = True


class BadWeights(Unavailable):
    """A model file is missing, has the wrong shape, or is not the pinned one."""


class NotFetched(BadWeights):
    """A required model is not on this host."""


class WrongWeights(BadWeights):
    """A model on this host differs from models.lock.json: truncated, modified, or from another commit."""


class FetchFailed(Unavailable):
    """A model could not be downloaded: no network, no permission, no such repository, disk full."""

    retryable = True


class StageFailed(SplatgateError):
    """A stage produced nothing usable (non-finite values, nothing to decode). It ends an attempt, not a job."""

    retryable = True

    def __init__(self, reason: Reason) -> None:
        super().__init__(str(reason))
        self.reason = reason


class NothingMade(StageFailed):
    """No attempt produced a splat. The job counts as refused, for the reason of the first attempt."""


class SelfTestFailed(SplatgateError):
    """The score of the self-test differs from the expected one."""


class JobFailed(SplatgateError):
    """The job ended without a result."""

    retryable = True


class NotFound(BadInput):
    """No such job, or a job without such a file."""

    status = 404


class Conflict(BadInput):
    """The request conflicts with the state of the job."""

    status = 409


class KeyReused(BadInput):
    """An Idempotency-Key was used again with another body."""


class QueueFull(SplatgateError):
    """jobs.max_queued jobs are waiting. retry_after: whole seconds until a place is likely to be free."""

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
    """A request from a page of another site, or from another machine."""

    status = 403


class TooLarge(BadInput):
    """The body is over limits.max_body_mb or limits.max_form_mb, or has too many parts."""

    status = 413


class TooBusy(SplatgateError):
    """limits.max_requests requests are being handled already."""

    status = 503
    retryable = True


class TooSlow(SplatgateError):
    """The body of a request did not arrive within limits.body_seconds."""

    status = 408
    retryable = True


class NotYet(SplatgateError):
    """The job has not ended within worker.wait_seconds; it continues."""

    status = 504
    retryable = True
