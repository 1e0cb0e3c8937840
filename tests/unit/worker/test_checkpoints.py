"""What a worker does with the checkpoints of its node before anybody asks for them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from sllm_tasks.worker.checkpoints import Checkpoints


def test_the_tokenizer_of_a_new_checkpoint_is_parsed_before_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[bytes] = []
    from_buffer = Tokenizer.from_buffer
    monkeypatch.setattr(
        "sllm_tasks.tokenization._parse", lambda content: (parsed.append(content), from_buffer(content))[1]
    )
    content = Tokenizer(models.WordLevel({"one": 0}, unk_token="one")).to_str().encode()
    for name in ("first", "tuned"):
        (tmp_path / name / "model").mkdir(parents=True)
        (tmp_path / name / "model" / "tokenizer.json").write_bytes(content)
    (tmp_path / "without").mkdir()
    checkpoints = Checkpoints(tmp_path, "secret", lambda _: ())
    while checkpoints.rehearse():
        pass
    assert parsed == [content], "both have the same, and it is parsed once"
    checkpoints.tokenizer(tmp_path / "tuned")
    assert parsed == [content]
