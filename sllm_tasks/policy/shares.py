"""What tenants got of the cluster since jobs began to wait: virtual token counters.

The counters are those of *Fairness in Serving Large Language Models* (OSDI '24), in tokens asked for or produced, with
its rule for tenants that come back: who had nothing waiting starts level with the tenant that got least, so that
nobody saves up a claim. When nobody waits there is nothing to share, and all counters are forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """What the router remembers from one pass to the next; losing it costs a moment's fairness."""

    #: Tokens per unit of weight, of every tenant that had jobs waiting since somebody's began to.
    counters: Mapping[str, float] = field(default_factory=dict)
    #: Tenants whose jobs wait.
    waiting: frozenset[str] = frozenset()
    #: Tokens of interactive jobs that started while batch jobs waited, less what those got for it.
    batch_credit: int = 0
    #: What the counters are as of: each tenant's service since the live state was made.
    served: Mapping[str, int] = field(default_factory=dict)

    def brought_up(self, served: Mapping[str, int], waiting: AbstractSet[str], weights: Mapping[str, float]) -> Shares:
        """Count what was served since, let tenants in whose jobs wait now, and those out that have been forgotten.

        `served` only grows, save for what jobs that ended early give back, or when the live state was lost.
        """
        if not waiting:
            return Shares()
        counters = {
            tenant: counter + (served.get(tenant, 0) - self.served.get(tenant, 0)) / weights.get(tenant, 1.0)
            for tenant, counter in self.counters.items()
        }
        stayed = [counters[tenant] for tenant in self.waiting & waiting]
        floor = min(stayed) if stayed else max(counters.values(), default=0.0)
        for tenant in waiting - self.waiting:
            counters[tenant] = max(counters.get(tenant, floor), floor)
        return Shares(
            counters=counters,
            waiting=frozenset(waiting),
            batch_credit=self.batch_credit,
            served={tenant: served.get(tenant, 0) for tenant in counters},
        )
