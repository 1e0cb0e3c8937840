"""Garbage is collected again when nobody makes many objects any more."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from loaders.collecting import collection_put_off


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    was_enabled = gc.isenabled()
    yield
    (gc.enable if was_enabled else gc.disable)()


@pytest.mark.parametrize("is_enabled", [True, False])
def test_collection_is_afterwards_what_it_was_before(is_enabled: bool) -> None:
    (gc.enable if is_enabled else gc.disable)()
    with collection_put_off:
        with collection_put_off:
            assert not gc.isenabled()
        assert not gc.isenabled(), "somebody else still makes objects"
    assert gc.isenabled() is is_enabled


def test_it_comes_back_after_an_error() -> None:
    gc.enable()
    with pytest.raises(ZeroDivisionError), collection_put_off:
        _ = 1 / 0
    assert gc.isenabled()
