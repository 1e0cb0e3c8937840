"""Faults, each with the load that meets it: shared by the fault tests, which run each once, and the soak.

A case submits twenty jobs, brings its fault about while they run, and puts the cluster right again; what has to hold
afterwards is looked at by `invariants.check`.
"""

from __future__ import annotations

from collections.abc import Mapping

from tests.faults.cases import broker, ledger, messages, migrations, processes
from tests.faults.cases.common import Case

#: By the names that the soak takes for all of them.
GROUPS: Mapping[str, tuple[Case, ...]] = {
    "processes": (
        processes.worker_killed_before_claim,
        processes.worker_killed_while_loading,
        processes.worker_killed_in_prefill,
        processes.worker_killed_at_a_token,
        processes.worker_killed_under_load,
        processes.worker_told_to_stop,
        processes.worker_told_to_stop_without_a_broker,
        processes.worker_cut_off,
        processes.worker_with_a_wrong_clock,
        processes.router_killed,
        processes.router_frozen,
        processes.router_with_a_wrong_clock,
        processes.control_killed,
        processes.web_killed,
        processes.node_agent_killed,
        processes.supervisor_killed,
        processes.power_lost,
    ),
    "broker": (
        broker.broker_killed,
        broker.broker_killed_without_its_file,
        broker.broker_frozen,
        broker.broker_emptied,
        broker.broker_out_of_memory,
        broker.connections_cut,
    ),
    "messages": (
        messages.messages_twice_and_stale,
        messages.messages_forged,
        messages.junk_on_queues,
        messages.poison,
    ),
    "ledger": (ledger.ledger_locked,),
    "migration": (
        migrations.source_killed_before_a_round,
        migrations.target_killed_at_a_round,
        migrations.target_killed_before_it_acknowledges,
        migrations.source_killed_before_the_hand_over,
        migrations.source_killed_after_the_hand_over,
        migrations.target_killed_after_the_hand_over,
        migrations.both_killed_in_a_round,
        migrations.both_killed_after_the_hand_over,
        migrations.router_and_broker_killed_while_jobs_move,
    ),
}

#: By the names that the soak takes.
CASES: Mapping[str, Case] = {case.__name__: case for cases in GROUPS.values() for case in cases}
