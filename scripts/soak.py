"""Bring every fault about again and again, under load, and look after each whether all invariants hold."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from tests.faults.cases import CASES, GROUPS
from tests.faults.cases.common import Case
from tests.faults.cases.ledger import postgresql_stopped
from tests.support.arena import Arena
from tests.support.cluster import Cluster
from tests.support.postgres import PostgresServer, find_binaries

_POSTGRESQL_CASE = "postgresql_stopped"


@dataclass(slots=True)
class Totals:
    """What came of all rounds."""

    rounds: Counter[str] = field(default_factory=Counter)
    checks: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def run(self, arena: Arena, case: Case) -> None:
        """Meet one fault and count what the checker found; a fault that did not come about counts as a violation."""
        name = case.__name__
        self.rounds[name] += 1
        try:
            findings = arena.meet(case)
        except AssertionError as error:
            self.violations.append(f"{name}: {error}")
            print(f"{name}: {error}", flush=True)
            return
        self.checks.update(findings.checked)
        self.violations += [f"{name}: {text}" for text in findings.violations]

    def print(self, seconds: float) -> None:
        """Print the table and every violation."""
        print(f"\n{sum(self.rounds.values())} faults in {seconds:.0f} s")
        for name, count in self.rounds.items():
            wrong = sum(text.startswith(f"{name}:") for text in self.violations)
            print(f"  {name:<34} {count:>4} times, {wrong} violations")
        print("  checks: " + ", ".join(f"{name} {count}" for name, count in sorted(self.checks.items())))
        for text in self.violations:
            print(f"  VIOLATION {text}")
        print(f"{len(self.violations)} violations")


def main() -> int:
    """Run the chosen faults; the status is 1 if anything was violated."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often each fault comes (default: 5)")
    known = ", ".join([*GROUPS, *CASES, _POSTGRESQL_CASE])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {known}")
    arguments = parser.parse_args()
    names = _cases_of(arguments.names) or [*CASES, _POSTGRESQL_CASE]
    if unknown := [name for name in names if name not in {*CASES, _POSTGRESQL_CASE}]:
        parser.error(f"no such fault: {', '.join(unknown)}")
    totals, started_s = Totals(), time.monotonic()
    cases = [CASES[name] for name in names if name in CASES]
    if cases:
        with Cluster() as cluster:
            _soak(totals, Arena(cluster), cases, arguments.rounds)
    if _POSTGRESQL_CASE in names:
        with _postgresql() as server:
            if server is not None:
                with server.database("ledger_of_a_soak") as url, Cluster(SLLM_DATABASE_URL=url) as cluster:
                    _soak(totals, Arena(cluster), [postgresql_stopped(server)], arguments.rounds)
    totals.print(time.monotonic() - started_s)
    return 1 if totals.violations else 0


def _cases_of(names: list[str]) -> list[str]:
    """Put the names of its cases in place of a group's."""
    return [case for name in names for case in ([each.__name__ for each in GROUPS.get(name, ())] or [name])]


def _soak(totals: Totals, arena: Arena, cases: list[Case], num_rounds: int) -> None:
    for number in range(1, num_rounds + 1):
        print(f"round {number} of {num_rounds}", flush=True)
        for case in cases:
            totals.run(arena, case)


@contextmanager
def _postgresql() -> Iterator[PostgresServer | None]:
    binaries = find_binaries()
    with ExitStack() as stack:
        if binaries is None:
            print(f"SKIPPED {_POSTGRESQL_CASE}: PostgreSQL is not installed (apt-get install postgresql)")
            yield None
        else:
            yield stack.enter_context(PostgresServer(binaries))


if __name__ == "__main__":
    sys.exit(main())
