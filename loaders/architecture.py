"""From config.json to a model class of transformers, and the sizes that follow from it."""

from __future__ import annotations

from typing import cast

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel

from loaders.directory import CONFIG, GENERATION_CONFIG, CheckpointDirectory
from loaders.errors import CheckpointCorruptError, CheckpointUnsupportedError

#: For models whose positions have no limit (ALiBi): a length that others are trained for.
_UNLIMITED_CONTEXT = 131_072


def read_config(directory: CheckpointDirectory) -> PreTrainedConfig:
    """Read config.json as transformers does; raises CheckpointUnsupportedError for what would need foreign code."""
    raw = directory.parse_json(CONFIG, directory.require_text(CONFIG))
    path = directory.path / CONFIG
    if raw.get("quantization_config") is not None:
        raise CheckpointUnsupportedError(f"{path}: `quantization_config` is set; quantized weights are not supported")
    if raw.get("auto_map") is not None:
        raise CheckpointUnsupportedError(
            f"{path}: `auto_map` is set: the model brings its own Python code, which is never run"
        )
    try:
        config = AutoConfig.from_pretrained(directory.path, local_files_only=True)  # nosec B615
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        known = raw.get("model_type")
        raise CheckpointUnsupportedError(
            f"{path}: transformers cannot read it (model_type {known!r}): {_first_line(error)}"
        ) from error
    return _causal_part(cast("PreTrainedConfig", config))


def _causal_part(config: PreTrainedConfig) -> PreTrainedConfig:
    """Take the text part of a composite config when that is what the model class is made from."""
    text = text_config(config)
    return text if model_class(config).config_class is type(text) else config


def model_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """Find the class that generates text with such a config."""
    found: object = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if found is None:
        raise CheckpointUnsupportedError(f"transformers has no causal language model for {config.model_type!r}")
    # A few configs have several classes; config.json then names the one it was saved from.
    candidates = cast("tuple[type[PreTrainedModel], ...]", found if isinstance(found, tuple) else (found,))
    named = [candidate for candidate in candidates if candidate.__name__ in (config.architectures or ())]
    return (named or candidates)[0]


def text_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the part of a config that describes the language model."""
    return config.get_text_config(decoder=True)


def num_layers(config: PreTrainedConfig) -> int:
    """Layers of the decoder; each has keys and values of its own."""
    return int(text_config(config).num_hidden_layers)


def max_context(config: PreTrainedConfig) -> int:
    """Tokens that a model has positions for."""
    return int(getattr(text_config(config), "max_position_embeddings", None) or _UNLIMITED_CONTEXT)


def eos_token_ids(directory: CheckpointDirectory, config: PreTrainedConfig) -> frozenset[int]:
    """Ids that end a text: those of generation_config.json, else those of config.json."""
    text = directory.read_text(GENERATION_CONFIG)
    value = None if text is None else directory.parse_json(GENERATION_CONFIG, text).get("eos_token_id")
    if value is None:
        value = getattr(text_config(config), "eos_token_id", None)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(token_id) is int and token_id >= 0 for token_id in ids):
        raise CheckpointCorruptError(f"{directory.path}: `eos_token_id` is {value!r}, expected ids of tokens")
    return frozenset(ids)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
