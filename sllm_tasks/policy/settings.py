"""What the policy may do, and how far it looks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySettings:
    """The same for every decision of a router or of a simulated one."""

    #: Move running jobs to other gpus to make room.
    migrate: bool = True
    #: Several replicas on one gpu as long as they fit; otherwise each gpu belongs to one replica.
    share_gpus: bool = True
    #: Load on nodes that would have to fetch the checkpoint first.
    load_remote: bool = True
    #: Engines read the prompts of jobs that wait for one load one after the other, as ours does.
    reads_in_turn: bool = True
    #: Another replica of a model is loaded if its price is below this share of what the present ones offer: a little
    #: gain is not worth the memory.
    worth: float = 0.8
    #: Evicting a model costs its reload, weighed by how likely it is wanted within this time: what is wanted later
    #: would most likely be evicted by then anyway.
    wanted_within_s: float = 60.0
    #: What a second that somebody waits for a load may cost, in seconds of an idle gpu; docs/evaluation.md, Keep-alive.
    waiting_worth: float = 20.0
    #: Load models with an adaptive keep-alive before their next job is due.
    prewarm: bool = True
    #: How many candidates a decision keeps for those who want to know why.
    max_candidates: int = 5
    #: Gpus without enough free memory for which victims are sought, the most promising first: bounds the work.
    max_gpus_searched: int = 128
