"""What is read from a `Prefer` header."""

from __future__ import annotations

import time

import pytest

from webapp.preferences import MAX_WAIT_S, wanted_wait_s


@pytest.mark.parametrize(
    "header",
    [
        "wait=7",
        "WAIT=7",
        "wait = 7",
        "wait\t=\t7",
        'wait="7"',
        r'wait="\7"',
        "wait=007",
        "wait=7; strict",
        "wait=7;a=b ; c",
        "respond-async, wait=7",
        'respond-async,return="a, wait=9; b" , wait=7',
        "handling=lenient;wait=9, wait=7",
        ", ,wait=7,",
        "wait=7, wait=9",
        "not well formed, wait=7",
    ],
)
def test_the_wish_to_wait_is_understood_in_every_legal_spelling(header: str) -> None:
    assert wanted_wait_s(header) == 7


@pytest.mark.parametrize(
    "header",
    ["", "wait", "wait=", 'wait=""', "wait=x", "wait=-7", "wait=7.5", "wait=\u0667", "wait 7", "await=7",
     "wait=x, wait=7", 'note="wait=7"', 'wait="7', "a;wait=7"],
)  # fmt: skip
def test_what_is_no_wish_to_wait_is_passed_over(header: str) -> None:
    assert wanted_wait_s(header) == 0


@pytest.mark.parametrize("digits", ["61", "3600", "9" * 7, "9" * 8000, "0" * 5000 + "60"])
def test_nobody_waits_longer_than_the_limit(digits: str) -> None:
    assert wanted_wait_s(f"wait={digits}") == MAX_WAIT_S


@pytest.mark.parametrize("header", ['"' * 8000, "a;" * 4000, ", " * 4000, '"\\' * 4000, "a=" * 4000, "a" * 8000 + "!;"])
def test_a_header_made_to_be_slow_is_not(header: str) -> None:
    started_s = time.process_time()
    assert wanted_wait_s(header) == 0
    assert time.process_time() - started_s < 5
