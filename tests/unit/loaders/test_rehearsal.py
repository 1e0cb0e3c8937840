"""The code of models is imported before their first load, whatever else lies beside their checkpoints."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from loaders.checkpoint import load
from loaders.rehearsal import Rehearsal
from loaders.templates import Templates
from scripts.architectures import write_tiny

_PROGRAM = """
import sys
from pathlib import Path
from loaders.rehearsal import Rehearsal
from loaders.templates import Templates
rehearsal = Rehearsal(Templates())
for folder in sys.argv[1:]:
    while rehearsal.look(Path(folder).iterdir()):
        pass
    print("transformers.models.gptj.modeling_gptj" in sys.modules)
"""


def test_a_model_is_imported_from_its_checkpoint_beside_what_is_none(tmp_path: Path) -> None:
    bad, good = tmp_path / "bad", tmp_path / "good"
    for path, config in (
        (bad / "malformed", '{"model_type": '),
        (bad / "odd", '{"model_type": ["gptj"]}'),
        (bad / "strange", '{"model_type": "warp"}'),
        (bad / "without weights", '{"model_type": "gptj"}'),
    ):
        path.mkdir(parents=True)
        (path / "config.json").write_text(config)
    (bad / "empty").mkdir()
    (bad / "a file").touch()
    write_tiny(good / "safetensors", "gptj")
    command = [sys.executable, "-c", _PROGRAM, str(bad), str(good)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True"]


def test_a_load_and_a_rehearsal_at_the_same_time_leave_each_other_alone(tmp_path: Path) -> None:
    write_tiny(tmp_path, "opt")

    def rehearse_often() -> None:
        for _ in range(20):
            Rehearsal(Templates()).look([tmp_path])

    with ThreadPoolExecutor(1) as other:
        rehearsals = other.submit(rehearse_often)
        while not rehearsals.done():
            with load(tmp_path, with_model=True) as loaded:
                assert loaded.model().num_parameters() > 0
        rehearsals.result()


def test_what_is_alike_is_rehearsed_once_one_at_a_time_and_others_when_they_come(tmp_path: Path) -> None:
    rehearsal = Rehearsal(Templates())
    for name, kind in (("a", "opt"), ("b", "opt"), ("c", "gpt2")):
        write_tiny(tmp_path / name, kind)
    paths = [tmp_path / name for name in "abc"]
    assert [rehearsal.look(paths) for _ in range(3)] == [True, True, False]
    write_tiny(tmp_path / "d", "gpt_neox")
    write_tiny(tmp_path / "e", "opt")
    later = [tmp_path / name for name in "edabc"]
    assert [rehearsal.look(later) for _ in range(2)] == [True, False]
