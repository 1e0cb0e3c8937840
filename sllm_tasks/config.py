"""Settings: a TOML file, below `SLLM_*` variables, below flags. Read once per process and passed down.

`SLLM_HOME` is the state folder; the file is `SLLM_CONFIG` or `<home>/sllm.toml`. A secret may also come from the file
that `SLLM_<NAME>_FILE` names. Unknown keys stop the process with their name.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import socket
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from sllm_tasks.errors import ConfigError
from sllm_tasks.networks import parse_networks

#: Variables with our prefix that are no settings of a cluster process.
_OTHER_VARIABLES = frozenset({"SLLM_CONFIG", "SLLM_FAILPOINTS", "SLLM_TIMELINE", "SLLM_URL", "SLLM_API_KEY"})
_PREFIX = "SLLM_"


#: A node's pool takes one part in so many of the RAM.
_POOL_PART = 8
_MAX_NODE_NAME = 63
#: How a URL of the broker begins.
_BROKER_SCHEMES = ("redis://", "rediss://", "unix://")


def default_home() -> Path:
    """The state folder where `SLLM_HOME` names none."""
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "sllm"


def make_private(folder: Path) -> None:
    """Make a folder that only its owner may enter, also where it was there with other permissions.

    Raises ConfigError when it cannot be made, or is not ours to close.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made: {error.strerror}") from error
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & stat.S_ISVTX:
        raise ConfigError(f"home: {folder} is shared by many users; name a folder of your own")
    if mode & 0o077:
        try:
            folder.chmod(0o700)
        except PermissionError as error:
            raise ConfigError(f"home: other users may enter {folder}, and it is not yours to close") from error


def ram_bytes() -> int:
    """Memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def default_node() -> str:
    """Name this machine, with `-` for what the name of a node cannot have, such as the dots of a domain."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())[:_MAX_NODE_NAME]


class Settings(BaseSettings):
    """One process's settings; frozen. Times in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, extra="forbid", frozen=True)

    home: Path = Field(default_factory=default_home, description="State folder of this machine.")
    redis_url: str | None = Field(
        None, description="Broker and live state: redis://, rediss:// or unix://; default: a private server."
    )
    database_url: str | None = Field(None, description="Ledger: sqlite:/// or postgresql+psycopg://.")
    secret: SecretStr | None = Field(
        None, description="Signs queue messages; the same on every machine. Default: made once in the state folder."
    )
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR.")
    log_format: Literal["text", "json"] = Field("text", description="Lines for people, or JSON objects with all ids.")

    host: str = Field("127.0.0.1", description="Address the web process listens on.")
    port: int = Field(8080, ge=0, le=65535, description="Port of the web process; 0 takes a free one.")
    trusted_proxies: str = Field(
        "127.0.0.1, ::1", description="Addresses and networks of proxies whose X-Forwarded-For and -Proto are believed."
    )
    webhook_networks: str = Field(
        "", description="Networks such as 10.0.0.0/8 that webhooks may reach though they are not public."
    )
    tls_certificate: Path | None = Field(
        None, description="Certificate chain (PEM) of the web process; with `tls_key` it speaks https."
    )
    tls_key: Path | None = Field(None, validate_default=True, description="Private key (PEM) of that certificate.")
    web_threads: int = Field(256, ge=4, description="Threads of the web process; each open stream takes one.")

    node: str = Field(
        default_factory=default_node, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$", description="This node's name."
    )
    node_host: str = Field("127.0.0.1", description="Address at which other nodes reach this node's agent.")
    node_port: int = Field(0, ge=0, le=65535, description="Port of the node agent's checkpoint server; 0: a free one.")
    gpu: int = Field(0, ge=0, description="Index of the gpu that a worker owns.")
    device: str | None = Field(
        None,
        pattern=r"^(cpu|cuda:\d+)$",
        description="Device of that gpu; default: cuda:<gpu>, else cpu. With cpu, `sllm up` uses no accelerator.",
    )
    gpu_memory_bytes: int | None = Field(
        None, ge=1, description="Memory a worker may use; default: 0.9 of the device, on a CPU a share of the RAM."
    )
    ssd_bytes: int | None = Field(
        None, ge=0, description="What a node's checkpoints may take on its SSD; default: the disk, less 5 %."
    )
    pool_bytes: int | None = Field(
        None, ge=0, description="DRAM tier of a node: its chunk pool; default: an eighth of the RAM; 0: none."
    )
    pool_home: Path = Field(
        Path("/dev/shm"),  # noqa: S108 - a node's folder in it is closed to others
        description="Folder in memory (tmpfs) in which nodes keep their pools.",
    )
    max_jobs_per_gpu: int = Field(256, ge=1, description="Threads of a worker: jobs it holds at once.")
    torch_threads: int | None = Field(None, ge=1, description="Threads torch computes with; default: torch's own.")

    nodes: int = Field(2, ge=1, le=16, description="Nodes that `sllm up` starts where there is no accelerator.")
    gpus_per_node: int = Field(1, ge=1, le=16, description="CPU gpus of each of those nodes.")
    ssd_copies: int = Field(2, ge=1, description="Nodes whose SSD should have each deployed checkpoint.")
    placement_policy: Literal["copies", "popularity"] = Field(
        "copies",
        description="What is done about placements: ssd_copies of each, or also `sllm place propose`, applied.",
    )
    waiting_worth: float = Field(
        20.0,
        gt=0,
        allow_inf_nan=False,
        description="With a keep-alive of `auto`: seconds of an idle gpu that a second of waiting for a load is worth.",
    )
    fast_path: bool = Field(True, description="Send jobs straight to a warm replica; off, every job asks the router.")
    max_queued_jobs: int = Field(5000, ge=1, description="Jobs of one tenant that may wait for a place.")
    max_running_jobs: int | None = Field(
        None, ge=1, description="Jobs of one tenant that may have a place at once; default: no limit."
    )
    max_requests_per_min: int | None = Field(
        None, ge=1, description="Requests that an API key may send in a minute; default: no limit."
    )
    max_tokens_per_min: int | None = Field(
        None,
        ge=1,
        description="Tokens that an API key's jobs of a minute may have, output included; default: no limit.",
    )
    open_metrics: bool = Field(False, description="Let everybody read /metrics; else an API key that reads as admin.")
    max_body_bytes: int = Field(4 * 2**20, ge=1024, description="Largest request body.")
    max_file_bytes: int = Field(64 * 2**20, ge=1024, description="Largest file of requests for a batch.")
    result_ttl_s: int = Field(86_400, ge=60, description="How long a job's output is kept.")
    max_attempts: int = Field(3, ge=1, description="Workers that a job may lose before it ends as poison.")
    grace_s: float = Field(20.0, ge=0, description="What a worker that is told to stop gives its running jobs.")

    @field_validator("redis_url")
    @classmethod
    def _known_broker(cls, value: str | None) -> str | None:
        if value and not value.startswith(_BROKER_SCHEMES):
            raise ValueError(f"must begin with {', '.join(_BROKER_SCHEMES[:-1])} or {_BROKER_SCHEMES[-1]}")
        return value

    @field_validator("secret")
    @classmethod
    def _hides_something(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value():
            # Whoever reaches the broker could sign messages.
            raise ValueError("must not be empty")
        return value

    @field_validator("tls_key")
    @classmethod
    def _comes_with_a_certificate(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if (value is None) != (info.data.get("tls_certificate") is None):
            raise ValueError("tls_certificate and tls_key are given together")
        return value

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, value: str) -> str:
        if value.upper() not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            raise ValueError("must be DEBUG, INFO, WARNING or ERROR")
        return value.upper()

    @field_validator("trusted_proxies", "webhook_networks")
    @classmethod
    def _known_networks(cls, value: str) -> str:
        parse_networks(value)
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Everything comes through `load_settings`, which knows where each value is from."""
        return (init_settings,)

    @property
    def web_address(self) -> str:
        """Host and port of the web process, as URLs have them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def web_url(self) -> str:
        """Where the web process listens."""
        return f"{'http' if self.tls_certificate is None else 'https'}://{self.web_address}"

    @property
    def ledger_url(self) -> str:
        """Where the ledger is."""
        return self.database_url or f"sqlite:///{self.home / 'ledger.db'}"

    @property
    def node_home(self) -> Path:
        """What this node keeps: its checkpoints above all."""
        return self.home / "nodes" / self.node

    @property
    def pool_folder(self) -> Path:
        """Where this node's pool is: every node of a machine has one of its own, whatever state folder it uses."""
        name = hashlib.sha256(os.fsencode(self.node_home.absolute())).hexdigest()[:12]
        return self.pool_home / f"sllm-{os.getuid()}-{name}"

    @property
    def pool_capacity_bytes(self) -> int:
        """Size of this node's pool, 0 for none."""
        return ram_bytes() // _POOL_PART if self.pool_bytes is None else self.pool_bytes

    @property
    def redis_socket(self) -> Path:
        """The private server's socket, used where no `redis_url` is given."""
        return self.home / "run" / "redis.sock"

    @property
    def nursery_socket(self) -> Path:
        """Where `sllm up` forks processes for the node agents of this state folder."""
        return self.home / "run" / "nursery.sock"

    @property
    def live_url(self) -> str:
        """Where the live state is."""
        return self.redis_url or f"unix://{self.redis_socket}"

    @property
    def broker_url(self) -> str:
        """The same server as Celery writes it."""
        path = self.live_url.removeprefix("unix://")
        return self.live_url if path == self.live_url else f"redis+socket://{path}"


_PATHS = frozenset(name for name, field in Settings.model_fields.items() if field.annotation in {Path, Path | None})


def load_settings(
    flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] = os.environ
) -> tuple[Settings, dict[str, str]]:
    """Merge file, variables and flags; the second value tells each setting's origin.

    Raises:
        ConfigError: An unknown key or a bad value; the message names it, its origin and what was expected.

    """
    values: dict[str, Any] = {}
    origins = dict.fromkeys(Settings.model_fields, "default")

    def merge(source: Mapping[str, Any], origin_of: Mapping[str, str]) -> None:
        for name, value in source.items():
            if name not in Settings.model_fields:
                near = difflib.get_close_matches(name, Settings.model_fields, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise ConfigError(f"{origin_of[name]}: unknown setting {name!r}{hint}")
            values[name] = value
            origins[name] = origin_of[name]

    from_environ = _read_environ(environ)
    home = Path((flags or {}).get("home") or environ.get("SLLM_HOME") or default_home())
    config = Path(environ.get("SLLM_CONFIG") or home / "sllm.toml")
    merge(*_read_file(config, required=bool(environ.get("SLLM_CONFIG"))))
    merge(*from_environ)
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    merge(given, {name: f"flag --{name.replace('_', '-')}" for name in given})
    try:
        return Settings(**values), origins
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0])
        raise ConfigError(f"{origins.get(name, name)}: {name}: {first['msg'].removeprefix('Value error, ')}") from error


def masked(value: object) -> object:
    """Hide the passwords of a URL; secrets hide themselves."""
    if not isinstance(value, str):
        return value
    # Up to the last @: libraries take a password that has one itself.
    without_user = re.sub(r"(?<=://)([^:/@]*):.*@", r"\1:***@", value)
    return re.sub(r"(?<=[?&])(\w*password)=[^&]*", r"\1=***", without_user, flags=re.IGNORECASE)


def _read_file(path: Path, *, required: bool) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        if not required:
            return {}, {}
        raise ConfigError(f"{path}: {error}") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return values, dict.fromkeys(values, str(path))


def _read_environ(environ: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    values, origins = {}, {}
    for variable, given in environ.items():
        if not variable.startswith(_PREFIX) or variable in _OTHER_VARIABLES:
            continue
        name, value = variable.removeprefix(_PREFIX).lower(), given
        if not given and name in _PATHS:
            # The empty path is the folder that one happens to be in.
            continue
        if name.endswith("_file") and name.removesuffix("_file") in Settings.model_fields:
            name = name.removesuffix("_file")
            try:
                value = Path(given).read_text(encoding="utf-8").strip()
            except OSError as error:
                raise ConfigError(f"{variable}: {error}") from error
            except UnicodeDecodeError as error:
                # The error itself would repeat what is in the file.
                raise ConfigError(f"{variable}: {given} is no text in UTF-8") from error
        values[name] = value
        origins[name] = variable
    return values, origins
