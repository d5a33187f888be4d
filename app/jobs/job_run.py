"""One run of a job, in durable steps: a job whose engine died continues after its last finished step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar, cast

from dbos import DBOS, PortableWorkflowError
from loguru import logger
from sqlalchemy.exc import SQLAlchemyError

from app.attempts import best_attempt
from app.errors import DatabaseDown, SplatgateError
from app.gate import MetricValue
from app.jobs.assets import Stored
from app.jobs.job_store import ClaimLost, JobResult, Stop
from app.jobs.progress import Progress, Stopped
from app.jobs.records import Kind
from app.jobs.splat_steps import make_turntable, repair_splat, validate_splat
from app.jobs.steps import DrawResult, JudgedAttempt, Steps
from app.reason import Reason

T = TypeVar("T")
Values = dict[str, Any]
"""A step's result, as in JSON."""

SINGLE_STEPS: dict[Kind, Callable[[Steps, Progress], JobResult]] = {
    "validate": validate_splat,
    "repair": repair_splat,
    "turntable": make_turntable,
    "cutout": Steps.cut_out,
}
"""The kinds of jobs that are one step."""


@dataclass(frozen=True)
class JobRun:
    """protect: runs an expensive call, and ends the process if the database, the storage or the GPU fails."""

    steps: Steps
    progress: Progress
    protect: Callable[[Callable[[], Any]], Any]

    def outcome(self) -> JobResult | JudgedAttempt:
        """The result of the job, or the attempt whose files are left to write. Raises ClaimLost and DatabaseDown."""
        return self._result(self._outcome)

    def write(self, judged: JudgedAttempt) -> JobResult:
        """Writes the files of an attempt. May run in another thread. Raises ClaimLost and DatabaseDown."""

        def write() -> JobResult:
            self.progress.begin_files(judged.result.attempt)
            return self.steps.write(self.progress.claim, judged)

        return self._result(lambda: cast(JobResult, self.protect(write)))

    def _outcome(self) -> JobResult | JudgedAttempt:
        job = self.progress.claim.job
        if job.kind == "generate":
            return self._generate()
        step = SINGLE_STEPS[job.kind]
        return _to_job_result(self._durable(job.kind, lambda: asdict(step(self.steps, self.progress))))

    def _generate(self) -> JobResult | JudgedAttempt:
        best = best_attempt(self.progress.claim.job.attempts, lambda number: self._attempt(number))
        result = best.result
        if result.gaussians and not result.files and not best.made:  # an earlier process made it
            best = self.protect(lambda: self.steps.build(self.progress, result.attempt, best.drawn))
        return best if best.made else best.result

    def _attempt(self, attempt: int) -> JudgedAttempt:
        drawn = _to_draw_result(
            self._durable(f"draw {attempt}", lambda: asdict(self.steps.draw(self.progress, attempt)))
        )
        judged: list[JudgedAttempt] = []

        def build() -> Values:
            judged.append(self.steps.build(self.progress, attempt, drawn))
            return asdict(judged[0].result)

        values = self._durable(f"build {attempt}", build)
        return judged[0] if judged else JudgedAttempt(_to_job_result(values), drawn)

    def _durable(self, name: str, call: Callable[[], Values]) -> Values:
        """A step: once it has returned a result, it always returns that result. Being stopped is a result too.

        Raises Stopped and ClaimLost.
        """

        def step() -> Values:
            try:
                return cast(Values, self.protect(call))
            except Stopped as stopped:
                return {"stopped": asdict(stopped.stop)}

        values = DBOS.run_step({"name": name}, step)
        if stop := values.get("stopped"):
            raise Stopped(Stop(**stop))
        return values

    def _result(self, call: Callable[[], T]) -> T | JobResult:
        """What `call` returns, or the result of a job that fails or is stopped."""
        id = self.progress.claim.job.id
        try:
            return call()
        except Stopped as stopped:
            return JobResult(stopped.stop.state, stopped.stop.error)
        except (ClaimLost, DatabaseDown):
            raise
        except SQLAlchemyError as error:  # DBOS could not record a step
            reason = str(error).partition("\n")[0]
            raise DatabaseDown(f"job {id}: a finished step could not be recorded: {reason}") from error
        except (SplatgateError, PortableWorkflowError) as error:  # the latter: a failed step, as it was recorded
            return JobResult("FAILED", str(error))
        except Exception as error:  # noqa: BLE001  any exception of a stage ends its job, not the engine
            logger.opt(exception=error).error(f"job {id}: failed")
            return JobResult("FAILED", f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")


def _to_job_result(values: Values) -> JobResult:
    tuples = {name: tuple(values[name]) for name in ("scores", "findings", "repairs")}
    tuples["reasons"] = tuple(map(Reason.from_stored, values["reasons"]))
    metrics = {
        name: MetricValue(**each) for name, each in values.get("metrics", {}).items()
    }  # none in an older release
    return JobResult(
        **values | tuples | {"metrics": metrics, "files": tuple(Stored(**file) for file in values["files"])}
    )


def _to_draw_result(values: Values) -> DrawResult:
    picture = Stored(**values["picture"]) if values["picture"] else None
    failure = Reason.from_stored(values["failure"]) if values["failure"] else None
    return DrawResult(**values | {"picture": picture, "failure": failure})
