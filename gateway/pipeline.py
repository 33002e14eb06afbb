"""The pipeline: one turn from admission to the ledger, in the order in which it happens.

recall → compose → cache → generate (or replay) → remember and account → completed

The question is remembered while the answer is generated; the answer and the bill are written
side by side at the end. `completed` is sent only after both are in memory's log and in the
ledger, or in the durable outbox with a warning. Whatever the end (failure, deadline, the reader
gone), what was used is booked and the cache's lease is given up.
"""

import asyncio

from gateway.clients import Clients
from gateway.outbox import Outbox
from gateway.runs import Run
from gateway.settings import GatewaySettings
from gateway.stages import cache
from gateway.stages.account import account
from gateway.stages.compose import compose, fitting
from gateway.stages.generate import generate, replay
from gateway.stages.recall import recall
from gateway.stages.remember import remember_answer, remember_question
from gateway.turn import TurnInProgress
from mesh import metrics
from mesh.call import Call, Identity, outgoing_call
from mesh.clock import Clock
from mesh.errors import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    PlexusError,
    to_failure,
)
from mesh.logs import Log
from mesh.tasks import alongside
from plexus.common.v1 import model_pb2
from plexus.gateway.v1 import gateway_service_pb2 as pb
from plexus.metrics.v1 import metrics_service_pb2 as metrics_pb

DEADLINE_MARGIN_S = 0.1
"""A run ends this long before its caller's deadline, so that `failed` still reaches the caller."""
SETTLE_TIMEOUT_S = 5.0
"""What is left for booking after a run was cut short; its caller no longer waits."""

log = Log("pipeline")


class Pipeline:
    """Runs turns. Stateless between turns; safe to share."""

    def __init__(
        self, clients: Clients, outbox: Outbox, settings: GatewaySettings, clock: Clock
    ) -> None:
        self._clients = clients
        self._outbox = outbox
        self._settings = settings
        self._clock = clock

    async def execute(self, run: Run, turn: pb.Turn, call: Call) -> None:
        """Run an admitted turn to its terminal event; never raises, also when cancelled."""
        work = TurnInProgress(run, turn, call.identity, self._settings, self._clock)
        run.append(pb.ChatResponse(started=self._started(work)))
        failure: PlexusError
        try:
            async with asyncio.timeout(self._time_left_s(call)):
                completed = await self._run(work)
            run.append(pb.ChatResponse(completed=completed))
            metrics.TURNS.labels("completed").inc()
            return
        except PlexusError as error:
            failure = error
        except TimeoutError:
            failure = DeadlineExceeded("the turn's deadline passed")
        except asyncio.CancelledError:
            failure = Cancelled("the turn was cancelled")
        except Exception as error:
            log.fault("fault", error, request_id=run.id)
            failure = Internal(f"a fault of ours; see the log for request {run.id}")
        metrics.TURNS.labels(failure.reason).inc()
        await self._settle(work, call.identity, failure)

    async def _run(self, work: TurnInProgress) -> pb.Completed:
        with work.stage("recall") as stage:
            recalled = await recall(work, self._clients, self._settings)
            stage.verdict = counted(len(recalled.items), "memory", "memories")
        with work.stage("compose") as stage:
            limit = self._settings.prompt_token_limit
            given = fitting(work.turn.request, recalled, token_limit=limit)
            work.recalled_count = len(given)
            work.request = compose(work.turn.request, given)
            stage.verdict = counted(len(work.request.messages), "message", "messages")
        with work.stage("cache") as stage:
            work.lookup = await cache.lookup(work, self._clients, self._settings)
            stage.verdict = cache.VERDICTS.get(work.lookup.verdict, "")
        response = await alongside(self._answer(work), self._remember_question(work))
        report = await self._finish(work, response)
        if report is not None:
            work.send(pb.ChatResponse(usage=report))
        return self._completed(work, response)

    async def _answer(self, work: TurnInProgress) -> model_pb2.ModelResponse:
        with work.stage("generate") as stage:
            if work.is_hit:
                stage.verdict = "replayed"
                work.response = replay(work, work.lookup.response)
            else:
                work.response = await generate(work, self._clients, self._settings)
                stage.verdict = f"{work.response.provider}/{work.response.model}"
            return work.response

    async def _finish(
        self, work: TurnInProgress, response: model_pb2.ModelResponse
    ) -> pb.UsageReport | None:
        """Write the answer to memory, the ledger and the cache, side by side."""
        return await alongside(
            self._account(work),
            self._remember_answer(work),
            cache.store(work, response, self._clients, self._settings),
        )

    async def _remember_question(self, work: TurnInProgress) -> None:
        await remember_question(work, self._clients, self._outbox, self._settings)

    async def _remember_answer(self, work: TurnInProgress) -> None:
        with work.stage("remember"):
            await remember_answer(work, self._clients, self._outbox, self._settings)

    async def _account(self, work: TurnInProgress) -> pb.UsageReport | None:
        with work.stage("account"):
            return await account(
                work, metrics_pb.OUTCOME_COMPLETED, self._clients, self._outbox, self._settings
            )

    async def _settle(self, work: TurnInProgress, identity: Identity, error: PlexusError) -> None:
        """Book what a broken turn used, free its lease, and end its log."""
        work.run.settling = True
        cancelled = isinstance(error, Cancelled)
        outcome = metrics_pb.OUTCOME_CANCELLED if cancelled else metrics_pb.OUTCOME_FAILED
        work.coalescer.flush()
        if isinstance(error, DeadlineExceeded):
            # The caller is about to give up: it hears of the failure first, and gets no bill.
            work.run.append(pb.ChatResponse(failed=to_failure(error)))
        try:
            with outgoing_call(identity, timeout_s=SETTLE_TIMEOUT_S, request_id=work.run.id):
                await cache.release(work, self._clients, self._settings)
                report = await account(work, outcome, self._clients, self._outbox, self._settings)
            if report is not None:
                work.send(pb.ChatResponse(usage=report))
        except Exception as fault:
            log.fault("settle", fault, request_id=work.run.id)
        finally:
            work.run.append(pb.ChatResponse(failed=to_failure(error)))

    def _time_left_s(self, call: Call) -> float | None:
        if call.deadline_s is None:
            return None
        left_s = call.deadline_s - self._clock.monotonic_s()
        return max(0.0, left_s - min(DEADLINE_MARGIN_S, left_s / 10))

    def _started(self, work: TurnInProgress) -> pb.Started:
        started = pb.Started(
            request_id=work.run.id,
            conversation_id=work.turn.scope.conversation_id,
            resume_token=work.run.resume_token,
        )
        started.start_time.FromNanoseconds(work.started_ns)
        return started

    @staticmethod
    def _completed(work: TurnInProgress, response: model_pb2.ModelResponse) -> pb.Completed:
        return pb.Completed(
            finish_reason=response.finish_reason,
            model=response.model,
            provider=response.provider,
            cache_verdict=work.lookup.verdict,
            recalled_count=work.recalled_count,
            time_to_first_token_ms=work.first_text_ms(),
            duration_ms=work.elapsed_ms(),
            upstream_ms=work.upstream_s * 1000,
        )


def counted(count: int, one: str, many: str) -> str:
    """Return a count with its noun, for people."""
    return f"{count} {one if count == 1 else many}"
