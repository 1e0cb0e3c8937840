"""The code of models is imported before their first load, whatever else lies beside their checkpoints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import sys
from pathlib import Path
from loaders.rehearsal import rehearse
for folder in sys.argv[1:]:
    rehearse(Path(folder).iterdir())
    print("transformers.models.gptj.modeling_gptj" in sys.modules)
"""


def test_a_model_is_imported_from_its_config_beside_what_is_none(tmp_path: Path) -> None:
    bad, good = tmp_path / "bad", tmp_path / "good"
    for path, config in (
        (bad / "malformed", '{"model_type": '),
        (bad / "odd", '{"model_type": ["gptj"]}'),
        (bad / "strange", '{"model_type": "warp"}'),
        (good / "converted" / "model", '{"model_type": "gptj"}'),
    ):
        path.mkdir(parents=True)
        (path / "config.json").write_text(config)
    (bad / "empty").mkdir()
    (bad / "a file").touch()
    command = [sys.executable, "-c", _PROGRAM, str(bad), str(good)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True"]
