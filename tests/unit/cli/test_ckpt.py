"""`sllm ckpt` needs no cluster and no settings; JSON goes to standard output, everything else to standard error."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from scripts.demo_checkpoints import make_tiny
from sllm_tasks.cli.failures import Exit
from sllm_tasks.cli.main import main
from tests.support.file_server import FileServer

DEADLINE_S = 60.0


def _status(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["ckpt", *map(str, arguments)])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def _json(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    capsys.readouterr()
    assert _status(*arguments, "-o", "json") == Exit.OK
    printed = capsys.readouterr()
    assert printed.err == ""
    record: dict[str, Any] = json.loads(printed.out)
    return record


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A small model in the layout of Hugging Face."""
    return make_tiny(tmp_path / "tiny", "llama")


@pytest.fixture
def converted(tmp_path: Path, tiny: Path) -> Path:
    """The same in our format."""
    assert _status("convert", tiny, tmp_path / "converted") == Exit.OK
    return tmp_path / "converted"


def test_a_conversion_says_what_it_made(tmp_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = _json(capsys, "convert", tiny, tmp_path / "there", "--partitions", "2", "--threads", "2", "--pack")
    assert record["num_partitions"] == 2
    assert record["source"] == str(tiny)
    assert _json(capsys, "verify", tmp_path / "there")["digest"] == record["digest"]


def test_an_import_by_url_is_the_same_checkpoint(
    tmp_path: Path, tiny: Path, converted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = _json(capsys, "verify", converted)["digest"]
    with FileServer(tiny) as server:
        assert _json(capsys, "import", server.url, tmp_path / "one")["digest"] == expected
    assert _json(capsys, "import", converted, tmp_path / "two")["digest"] == expected


def test_damage_is_named_by_tensor_and_chunk(converted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    partition = converted / "partition_00000.bin"
    partition.chmod(0o644)
    with partition.open("r+b") as file:
        file.write(b"damaged")
    assert _status("verify", converted) == Exit.FAILURE
    error = capsys.readouterr().err
    assert "chunk 0" in error
    assert "model.embed_tokens.weight" in error
    assert "code: checkpoint_corrupt" in error


def test_a_directory_without_digests_is_said_to_be_checked_by_its_headers(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _json(capsys, "verify", tiny)["checked"] == "headers"


def test_an_inspection_describes_either_form_here_or_behind_a_url(
    tiny: Path, converted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = _json(capsys, "inspect", tiny)
    assert (here["format"], here["architecture"], here["num_partitions"]) == ("safetensors", "LlamaForCausalLM", 1)
    assert "tensors" not in here
    with FileServer(converted) as server:
        there = _json(capsys, "inspect", server.url, "--tensors")
        assert server.sent_of(".bin") < 1024
    assert (there["format"], there["dtypes"]) == ("sllm-checkpoint", here["dtypes"])
    assert there["num_tensors"] == len(there["tensors"]) == here["num_tensors"]
    assert {"name", "dtype", "shape", "num_bytes", "layout"} == set(there["tensors"][0])


def test_an_inspection_as_a_table_has_a_line_for_each_tensor(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _status("inspect", tiny, "--tensors") == Exit.OK
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("architecture") and line.endswith("LlamaForCausalLM") for line in lines)
    assert any(line.split()[:3] == ["model.embed_tokens.weight", "float32", "300x64"] for line in lines)


def test_a_bench_times_the_disk_and_the_pool(converted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = _json(capsys, "bench", converted, "--rounds", "2")
    assert [load["loaded_from"] for load in record["loads"]] == ["disk", "pool", "disk", "pool"]
    assert record["page_kind"]


@pytest.mark.parametrize("device", ["cuda:4096", "gpu"])
def test_a_bench_on_a_device_that_is_not_there_names_it(
    converted: Path, device: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _status("bench", converted, "--device", device) == Exit.USAGE
    assert f"{device} is no device of this machine" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["verify", "nothing-here"], Exit.NOT_FOUND),
        (["inspect", "nothing-here"], Exit.NOT_FOUND),
        (["inspect", "ftp://host/x"], Exit.USAGE),
        (["convert", "nothing-here"], Exit.USAGE),
        (["convert", "a", "b", "--partitions", "0"], Exit.USAGE),
    ],
)
def test_what_went_wrong_is_the_exit_status(
    arguments: list[str], status: Exit, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _status(*arguments) == status
    assert capsys.readouterr().out == ""


def test_a_server_that_refuses_exits_with_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with FileServer(tmp_path) as server:
        server.failures = {"adapter_model.safetensors": (100, 401)}
        assert _status("inspect", server.url) == Exit.AUTH
    assert "code: forbidden" in capsys.readouterr().err


def test_ctrl_c_ends_an_import_where_it_can_go_on(tmp_path: Path, converted: Path) -> None:
    reached, going_on = threading.Event(), threading.Event()

    def stall(name: str, begin: int) -> None:
        if name.endswith(".bin") and len([asked for asked, _, _ in server.requests if asked == name]) > 2:
            reached.set()
            going_on.wait(DEADLINE_S)

    with FileServer(converted) as server:
        server.before_range = stall
        command = [sys.executable, "-m", "sllm_tasks.cli.main", "ckpt", "import", server.url, str(tmp_path / "there")]
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert reached.wait(DEADLINE_S)
        running.send_signal(signal.SIGINT)
        out, error = running.communicate(timeout=DEADLINE_S)
        going_on.set()
    assert (running.returncode, out) == (Exit.INTERRUPTED, "")
    assert "it goes on from here" in error
    assert not (tmp_path / "there").exists()


def test_a_terminal_sees_a_bar_in_gigabytes_per_second(tmp_path: Path, tiny: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "sllm_tasks.cli.main", "ckpt", "convert", str(tiny), str(tmp_path / "there")]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, timeout=DEADLINE_S, check=True)
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "GB/s" in shown
    assert "GB/s" not in done.stdout.decode()
