"""A model that is filled in is the one that transformers would have built, and shares nothing with the next one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import MixtralConfig, PreTrainedModel

from loaders.checkpoint import load
from loaders.errors import CheckpointMissingError
from loaders.rehearsal import Rehearsal
from loaders.restore import build
from loaders.source import open_source
from loaders.templates import Templates, template_key
from loaders.writer.convert import convert
from scripts.demo_checkpoints import TINY_CONFIGS, make_tiny

TOKEN_IDS = torch.arange(24)[None] * 7 % 300


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every model that transformers was asked to build."""
    kinds: list[str] = []

    def note(config, tensors, dtype):
        kinds.append(config.model_type)
        return build(config, tensors, dtype)

    for module in ("templates", "restore"):
        monkeypatch.setattr(f"loaders.{module}.build", note)
    return kinds


def _model(path: Path, templates: Templates) -> PreTrainedModel:
    with load(path, with_model=True, templates=templates) as checkpoint:
        return checkpoint.model()


def _built(path: Path) -> PreTrainedModel:
    """Built over its tensors, without a template."""
    with load(path) as checkpoint:
        return checkpoint.model()


def _key(path: Path) -> bytes | None:
    with open_source(path) as source:
        return template_key(source)


def _has(templates: Templates, path: Path) -> bool:
    with open_source(path) as source:
        return templates.has(source)


def _seen(rehearsal: Rehearsal, *paths: Path) -> int:
    return sum(1 for _ in range(len(paths) + 1) if rehearsal.look(paths))


@pytest.mark.parametrize("architecture", sorted(TINY_CONFIGS))
def test_a_tuned_model_is_filled_into_the_template_of_its_base(tmp_path: Path, architecture: str) -> None:
    base, tuned = make_tiny(tmp_path / "base", architecture), make_tiny(tmp_path / "tuned", architecture, seed=1)
    rehearsed, loaded = Templates(), Templates()
    Rehearsal(rehearsed).look([base])
    _model(base, loaded)
    expected = _built(tuned)
    for templates in (rehearsed, loaded):
        model = _model(tuned, templates)
        assert torch.equal(model(TOKEN_IDS).logits, expected(TOKEN_IDS).logits)
        assert model.state_dict().keys() == expected.state_dict().keys()
        assert [name for name, _ in model.named_buffers()] == [name for name, _ in expected.named_buffers()]
        assert not any(part.requires_grad or part.is_meta for part in (*model.parameters(), *model.buffers()))
        assert not model.training


def test_a_known_model_is_not_built_again_in_either_form(tmp_path: Path, builds: list[str]) -> None:
    path = make_tiny(tmp_path / "opt", "opt")
    convert(path, tmp_path / "converted")
    templates = Templates()
    assert _seen(Rehearsal(templates), path) == 1
    assert builds == ["opt"]
    for directory in (path, tmp_path / "converted", path):
        _model(directory, templates)
    assert builds == ["opt"]
    _built(path)
    assert builds == ["opt", "opt"]


def test_the_first_load_of_a_kind_makes_its_template(tmp_path: Path, builds: list[str]) -> None:
    path, templates = make_tiny(tmp_path, "llama"), Templates()
    for _ in range(3):
        _model(path, templates)
    assert builds == ["llama"]


def test_a_filled_model_takes_the_tensors_as_they_are(tmp_path: Path) -> None:
    path, templates = make_tiny(tmp_path), Templates()
    Rehearsal(templates).look([path])
    checkpoint = load(path, with_model=True, templates=templates)
    stored = {tensor.data_ptr() for tensor in checkpoint.tensors.values()}
    model = checkpoint.model()
    assert {parameter.data_ptr() for parameter in model.parameters()} == stored
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_models_of_one_template_share_nothing_that_one_of_them_may_change(tmp_path: Path) -> None:
    path, templates = make_tiny(tmp_path, "llama"), Templates()
    Rehearsal(templates).look([path])
    first, second = _model(path, templates), _model(path, templates)
    expected = second(TOKEN_IDS).logits
    mine = {id(module) for module in first.modules()}
    assert mine.isdisjoint(id(module) for module in second.modules())
    first.config.num_hidden_layers = 1
    first.generation_config.max_length = 7
    for buffer in first.buffers():
        buffer.zero_()
    for parameter in first.parameters():
        parameter.data = parameter.data * 0
    first.model.layers = first.model.layers[:1]
    for model in (second, _model(path, templates)):
        assert torch.equal(model(TOKEN_IDS).logits, expected)
        assert model.config.num_hidden_layers == len(model.model.layers) == 2
        assert model.generation_config.max_length != 7


def test_what_a_load_says_of_a_model_is_its_own(tmp_path: Path) -> None:
    path, templates = make_tiny(tmp_path, "llama"), Templates()
    for _ in range(3):
        with load(path, with_model=True, templates=templates) as checkpoint:
            files = checkpoint.model_files
            assert files.config.num_hidden_layers == 2
            assert files.eos_token_ids == {0}
            files.config.num_hidden_layers = 1


@pytest.mark.parametrize(
    ("file", "name", "value"), [("config.json", "rms_norm_eps", 0.5), ("generation_config.json", "eos_token_id", 5)]
)
def test_another_setting_is_another_template(tmp_path: Path, file: str, name: str, value: float) -> None:
    path = make_tiny(tmp_path, "llama")
    before = _key(path)
    settings = json.loads((path / file).read_text())
    (path / file).write_text(json.dumps(settings | {name: value}))
    assert _key(path) != before


def test_another_type_is_another_template(tmp_path: Path) -> None:
    paths = [make_tiny(tmp_path / str(dtype), dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    assert _key(paths[0]) != _key(paths[1])


def test_tensors_without_a_model_have_none(tmp_path: Path) -> None:
    file = make_tiny(tmp_path) / "model.safetensors"
    assert _key(file) is None
    with load(file, with_model=True, templates=Templates()) as checkpoint:
        assert checkpoint.tensors


@pytest.fixture(params=[1, 2])
def experts(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint whose class joins experts, more of them than there are digits; over so many partitions."""
    sizes = TINY_CONFIGS["mixtral"].to_dict() | {"num_local_experts": 12}
    monkeypatch.setitem(TINY_CONFIGS, "experts", MixtralConfig(**sizes))
    path = make_tiny(tmp_path / "experts", "experts")
    convert(path, tmp_path / "converted", num_partitions=request.param)
    return tmp_path / "converted"


@pytest.mark.parametrize("is_kept", [False, True])
def test_experts_are_one_tensor_where_they_lie(experts: Path, is_kept: bool) -> None:
    with load(experts, with_model=True, templates=Templates() if is_kept else None) as checkpoint:
        model, stored = checkpoint.model(), [tensor.data_ptr() for tensor in checkpoint.tensors.values()]
    joined = [part for name, part in model.named_parameters() if "experts" in name]
    assert [part.shape[0] for part in joined] == [12] * 4
    assert all(part.is_contiguous() for part in joined)
    assert {part.data_ptr() for part in model.parameters()} <= set(stored)
    expected = _built(experts)
    assert expected.state_dict().keys() == model.state_dict().keys()
    for name, part in expected.state_dict().items():
        assert torch.equal(part, model.state_dict()[name]), name
    assert torch.equal(model(TOKEN_IDS).logits, expected(TOKEN_IDS).logits)


def test_one_expert_alone_has_the_shape_of_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = TINY_CONFIGS["mixtral"].to_dict() | {"num_local_experts": 1, "num_experts_per_tok": 1}
    monkeypatch.setitem(TINY_CONFIGS, "expert", MixtralConfig(**sizes))
    path = make_tiny(tmp_path / "expert", "expert")
    convert(path, tmp_path / "converted")
    model, expected = _model(tmp_path / "converted", Templates()), _built(path)
    assert {name: part.shape for name, part in model.named_parameters()} == {
        name: part.shape for name, part in expected.named_parameters()
    }
    assert torch.equal(model(TOKEN_IDS).logits, expected(TOKEN_IDS).logits)


@pytest.mark.parametrize("form", ["safetensors", "packed"])
def test_experts_that_lie_otherwise_are_joined_by_the_class(tmp_path: Path, form: str) -> None:
    path, templates = make_tiny(tmp_path / "experts", "mixtral", dtype=torch.bfloat16), Templates()
    expected = _built(path)
    if form == "packed":
        convert(path, tmp_path / "packed", pack=True)
        path = tmp_path / "packed"
    for _ in range(2):
        assert torch.equal(_model(path, templates)(TOKEN_IDS).logits, expected(TOKEN_IDS).logits)


def test_what_makes_no_model_is_named_by_its_load_each_time(tmp_path: Path) -> None:
    path, templates = make_tiny(tmp_path, "llama"), Templates()
    tensors = load_file(path / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, path / "model.safetensors")
    assert not Rehearsal(templates).look([tmp_path / "nowhere"])
    Rehearsal(templates).look([path])
    for _ in range(2):
        with pytest.raises(CheckpointMissingError, match=r"model\.norm\.weight"):
            _model(path, templates)


def test_the_template_that_was_not_used_for_longest_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loaders.templates._MAX_TEMPLATES", 2)
    paths = [make_tiny(tmp_path / name, name) for name in ("gpt2", "llama", "opt")]
    templates = Templates()
    rehearsal = Rehearsal(templates)
    assert _seen(rehearsal, *paths) == 2, "none is driven out for one that nobody has asked for"
    _model(paths[0], templates)
    _model(paths[2], templates)
    assert [_has(templates, path) for path in paths] == [True, False, True]
