"""What to recall for a turn: which memories qualify, and which of them fit the token budget.

Pure: the store is asked elsewhere (`context.py`). The window comes first because an answer that
forgets what was just said is worse than one that misses a note; but it may not eat the whole
budget while there are relevant memories to show.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mesh.tokens import estimate_tokens
from plexus.common.v1 import message_pb2
from plexus.memory.v1 import memory_service_pb2 as pb
from services.memory import payload as fields
from services.memory.filters import Filter, all_of, any_of, equals, none_of, one_of
from services.memory.store import Hit, Item

WINDOW_SHARE = 0.6
"""The window's part of the budget before relevant memories have had their turn."""
ITEM_OVERHEAD_TOKENS = 4
"""What a prompt spends around each item."""


@dataclass(frozen=True, slots=True)
class Recalled:
    """One piece of context: why it is there, what it costs, and its search score."""

    item: Item
    reason: pb.RecallReason
    token_count: int
    score: float


def visible_to(user_id: str, agent_id: str) -> Filter:
    """What a turn of this user with this agent may see: its own, and what belongs to nobody."""
    return all_of(
        one_of(fields.USER, sorted({"", user_id})), one_of(fields.AGENT, sorted({"", agent_id}))
    )


def window_filter(user_id: str, agent_id: str, conversation_id: str) -> Filter:
    """The conversation's turns."""
    return all_of(
        equals(fields.CONVERSATION, conversation_id),
        equals(fields.KIND, pb.MEMORY_KIND_TURN),
        visible_to(user_id, agent_id),
    )


def relevant_filter(user_id: str, agent_id: str, conversation_id: str) -> Filter:
    """What may be relevant: not what an assistant said elsewhere, which would feed answers back."""
    said_by_an_assistant = all_of(
        equals(fields.KIND, pb.MEMORY_KIND_TURN), equals(fields.ROLE, message_pb2.ROLE_ASSISTANT)
    )
    if not conversation_id:
        return all_of(visible_to(user_id, agent_id), none_of(said_by_an_assistant))
    here = equals(fields.CONVERSATION, conversation_id)
    return all_of(visible_to(user_id, agent_id), any_of(here, none_of(said_by_an_assistant)))


def pack(
    window: Sequence[Item],
    hits: Sequence[Hit],
    *,
    query: str,
    exclude_texts: Collection[str],
    window_turns: int,
    relevant_limit: int,
    token_budget: int,
) -> list[Recalled]:
    """Return relevant items best first, then the window oldest first, within the budget.

    `window` is newest first. The window has no holes: it ends before the first turn that does not
    fit. The answer depends on the arguments alone.
    """
    turns = [item for item in window if item.text not in exclude_texts][:window_turns]
    recent = {item.id for item in turns}
    texts = {item.text for item in turns} | set(exclude_texts)
    candidates = [hit for hit in hits if hit.item.id not in recent and not _echoes(hit, query)]
    windowed, spent = _newest_that_fit(turns, int(token_budget * WINDOW_SHARE))
    # The newest turn may have more than the window's share: it is what the turn answers to.
    if turns and not windowed:
        windowed, spent = _newest_that_fit(turns[:1], token_budget)
    relevant = _best_that_fit(candidates, texts, relevant_limit, token_budget - spent)
    spent += sum(each.token_count for each in relevant)
    more, _ = _newest_that_fit(turns[len(windowed) :], token_budget - spent)
    return [*relevant, *reversed(windowed + more)]


def cost_tokens(item: Item) -> int:
    """Return what an item takes of the budget."""
    return estimate_tokens(item.text) + ITEM_OVERHEAD_TOKENS


def _newest_that_fit(turns: Sequence[Item], budget: int) -> tuple[list[Recalled], int]:
    taken: list[Recalled] = []
    spent = 0
    for item in turns:
        cost = cost_tokens(item)
        if spent + cost > budget:
            break
        spent += cost
        taken.append(Recalled(item, pb.RECALL_REASON_WINDOW, cost, 0.0))
    return taken, spent


def _best_that_fit(
    hits: Sequence[Hit], known_texts: Collection[str], limit: int, budget: int
) -> list[Recalled]:
    """Take greedily: a long memory that does not fit leaves its room to the next."""
    taken: list[Recalled] = []
    known = set(known_texts)
    for hit in hits:
        if len(taken) >= limit:
            break
        cost = cost_tokens(hit.item)
        if hit.item.text in known or cost > budget:
            continue
        budget -= cost
        known.add(hit.item.text)
        taken.append(Recalled(hit.item, _reason(hit.item), cost, hit.score))
    return taken


def _echoes(hit: Hit, query: str) -> bool:
    return hit.item.kind == pb.MEMORY_KIND_TURN and hit.item.text == query


def _reason(item: Item) -> pb.RecallReason:
    match item.kind:
        case pb.MEMORY_KIND_SUMMARY:
            return pb.RECALL_REASON_SUMMARY
        case pb.MEMORY_KIND_FACT:
            return pb.RECALL_REASON_FACT
        case _:
            return pb.RECALL_REASON_RELEVANT
