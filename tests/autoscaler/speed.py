"""How fast the number of pods may follow what is asked for: Kubernetes' behavior rules.

Two windows look back at what was asked for: up goes the least, down the most of them. Then the
policies bound what may change in their periods, counted from the changes that were made.
"""

import math
from dataclasses import dataclass, field

from tests.autoscaler.specification import Behavior, Policy, PolicyKind, Rules, Select


@dataclass(slots=True)
class Change:
    """Pods that were added, or taken away, at one time."""

    at_s: float
    pods: int
    outdated: bool = False


@dataclass(slots=True)
class History:
    """What one autoscaler remembers."""

    asked: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    added: list[Change] = field(default_factory=list[Change])
    removed: list[Change] = field(default_factory=list[Change])

    def begin(self, now_s: float, current: int) -> None:
        """Take what is there as the first thing asked for."""
        if not self.asked:
            self.asked.append((now_s, current))

    def changed(self, now_s: float, before: int, after: int, behavior: Behavior | None) -> None:
        """Note a change; without rules nobody asks for it later."""
        if behavior is None:
            return
        if after > before:
            _note(self.added, Change(now_s, after - before), behavior.up)
        else:
            _note(self.removed, Change(now_s, before - after), behavior.down)


def _note(changes: list[Change], change: Change, rules: Rules) -> None:
    """Put a change in the place of one that is older than every period of its own direction.

    The other direction's periods may be longer, and would still have counted it: so does the
    controller, and this is a port.
    """
    longest_s = max((policy.period_s for policy in rules.policies), default=0)
    for each in changes:
        each.outdated = each.outdated or each.at_s < change.at_s - longest_s
    outdated = [at for at, each in enumerate(changes) if each.outdated]
    if outdated:
        changes[outdated[-1]] = change
    else:
        changes.append(change)


def stabilized(history: History, now_s: float, current: int, asked: int, behavior: Behavior) -> int:
    """Return what both windows agree to, and remember what was asked for."""
    up, down = asked, asked
    for at_s, earlier in history.asked:
        if at_s > now_s - behavior.up.window_s:
            up = min(up, earlier)
        if at_s > now_s - behavior.down.window_s:
            down = max(down, earlier)
    longest_s = max(behavior.up.window_s, behavior.down.window_s)
    history.asked = [each for each in history.asked if each[0] >= now_s - longest_s]
    history.asked.append((now_s, asked))
    return min(max(current, up), down)


def stabilized_without_rules(history: History, now_s: float, asked: int, window_s: float) -> int:
    """Return the most that was asked for in the window, and remember what was asked for."""
    history.asked = [each for each in history.asked if each[0] >= now_s - window_s]
    history.asked.append((now_s, asked))
    return max(earlier for _, earlier in history.asked)


def most(history: History, now_s: float, current: int, rules: Rules) -> int:
    """Return the most pods that the policies for scaling up allow now."""
    if rules.select is Select.DISABLED:
        return current
    limits = [_up(policy, _at_start(history, now_s, current, policy)) for policy in rules.policies]
    return max(current, min(limits) if rules.select is Select.MIN else max(limits))


def least(history: History, now_s: float, current: int, rules: Rules) -> int:
    """Return the fewest pods that the policies for scaling down allow now."""
    if rules.select is Select.DISABLED:
        return current
    limits = [
        _down(policy, _at_start(history, now_s, current, policy)) for policy in rules.policies
    ]
    return min(current, max(limits) if rules.select is Select.MIN else min(limits))


def _at_start(history: History, now_s: float, current: int, policy: Policy) -> int:
    """Return how many pods there were when the policy's period began."""
    since_s = now_s - policy.period_s
    return current - _pods(history.added, since_s) + _pods(history.removed, since_s)


def _pods(changes: list[Change], since_s: float) -> int:
    return sum(change.pods for change in changes if change.at_s > since_s)


def _up(policy: Policy, pods: int) -> int:
    if policy.kind is PolicyKind.PODS:
        return pods + policy.value
    return math.ceil(pods * (1 + policy.value / 100))


def _down(policy: Policy, pods: int) -> int:
    if policy.kind is PolicyKind.PODS:
        return pods - policy.value
    return int(pods * (1 - policy.value / 100))
