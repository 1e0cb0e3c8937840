"""A web application over a real ledger and a real live state, and a worker that is played by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from sllm_tasks.cluster import Gpu, GpuId, Replica, ReplicaState
from sllm_tasks.config import Settings
from sllm_tasks.control.ledger_writer import LedgerWriter
from sllm_tasks.jobs import FinishReason, JobStatus, Outcome, TokenRecord, Usage
from sllm_tasks.ledger import inventory, keys
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.keys import Scope
from sllm_tasks.livestate import LiveState
from sllm_tasks.livestate.fleet import ReplicaOrder
from sllm_tasks.livestate.jobs import Append, Claim
from sllm_tasks.livestate.queues import Gates
from tests.support.described import described_answers
from webapp.app import create_app
from webapp.services import WebServices, open_services

MODEL = "words"
DIGEST = "sha256:" + "0" * 64
CONTEXT = 64
GPU = GpuId("node0", 0)
WORDS = ["<s>", "<unk>", "one", "two", "three", "four", "hello", "user", "assistant", ":"]
CHAT_TEMPLATE = "{% for message in messages %}{{ message.role }} : {{ message.content }} {% endfor %}assistant :"


def word_tokenizer() -> str:
    """A tokenizer.json of whole words that begins every prompt with `<s>`."""
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return str(tokenizer.to_str())


def add_model(ledger: Database, name: str = MODEL, *, ready: bool = True) -> None:
    """Deploy a model, as far as the web process can tell."""
    now = datetime.now(UTC)
    with ledger.transaction() as session:
        inventory.add_checkpoint(
            session,
            inventory.NewCheckpoint(
                digest=DIGEST, source="/nowhere", architecture="TestForCausalLM", dtype="float32", num_bytes=1,
                num_parameters=1, num_partitions=1, config="{}", generation_config=None, tokenizer=word_tokenizer(),
                tokenizer_config=json.dumps({"bos_token": "<s>"}), chat_template=CHAT_TEMPLATE, eos_token_ids=(),
                created_at=now,
            ),
        )  # fmt: skip
        settings = inventory.ModelSettings(
                name=name, source="/nowhere", engine="instant", dtype="float32", num_gpus=1, max_jobs=4,
                context=CONTEXT, keep_alive_s=60, min_replicas=0, max_replicas=1,
            )  # fmt: skip
        inventory.put_model(session, settings, deployment="op_test", now=now)
        if ready:
            deployed = inventory.DeployedModel(
                checkpoint=DIGEST,
                context=CONTEXT,
                dtype="float32",
                weights_bytes=1,
                kv_bytes_per_token=1,
                bytes_per_gpu=1,
            )
            inventory.note_deployed(session, settings, deployed, deployment="op_test", now=now)


def add_key(ledger: Database, *scopes: Scope, tenant: str = "default") -> str:
    """Make an API key, with every scope unless some are named."""
    now = datetime.now(UTC)
    with ledger.transaction() as session:
        keys.ensure_tenant(session, tenant, now=now)
        _, plain = keys.create_key(session, tenant=tenant, name="test", scopes=frozenset(scopes or Scope), now=now)
    return plain


class PlayedWorker:
    """The worker of one gpu with one ready replica, and control: what they would do, one call at a time."""

    worker_id = "worker_test"

    def __init__(self, live: LiveState, ledger: Database) -> None:
        self._live = live
        self._writer = LedgerWriter(ledger, live, lambda _data: None)
        self.register()

    def register(self) -> None:
        """Announce the gpu and its replica and, as the router, that nothing keeps jobs off the fast path."""
        replica = Replica(
            id="replica_test", model=MODEL, checkpoint=DIGEST, gpus=(GPU,), state=ReplicaState.READY,
            bytes_per_gpu=1, max_jobs=64, engine="instant", context=CONTEXT,
        )  # fmt: skip
        gpu = Gpu(id=GPU, worker_id=self.worker_id, device="cpu", capacity_bytes=100)
        self._live.fleet.register_gpu(gpu, [ReplicaOrder(replica=replica)])
        self._live.queues.set_gates(Gates(), "")

    def claim(self, job_id: str, attempt: int = 1) -> Claim:
        """Take a job."""
        claim = self._live.jobs.claim(job_id, attempt, GPU, self.worker_id, self._live.now_ms() + 60_000)
        assert isinstance(claim, Claim), claim
        return claim

    def emit(self, claim: Claim, words: Sequence[str], first: int = 0) -> None:
        """Write one token per word."""
        tokens = tuple(
            TokenRecord(index=first + offset, token_id=WORDS.index(word), text=f" {word}")
            for offset, word in enumerate(words)
        )
        job_id = claim.spec.job_id
        self._live.jobs.append([Append(job_id=job_id, attempt=claim.attempt, epoch=claim.epoch, tokens=tokens)])

    def finish(self, claim: Claim, text: str, num_tokens: int, status: JobStatus = JobStatus.SUCCEEDED) -> None:
        """Report the end and, as control, commit it."""
        usage = Usage(prompt_tokens=len(claim.spec.prompt_ids), completion_tokens=num_tokens)
        reason = FinishReason.STOP if status is JobStatus.SUCCEEDED else FinishReason.CANCELED
        self._live.jobs.finish(claim, Outcome(status=status, text=text, finish_reason=reason, usage=usage))
        self.commit()

    def commit(self) -> None:
        """Do what control does with reports."""
        reports = self._live.reports.read(1000, 10)
        if reports:
            self._writer.write(reports)

    def run(self, job_id: str, words: Sequence[str]) -> None:
        """Take a job from its claim to its end."""
        claim = self.claim(job_id)
        self.emit(claim, words)
        self.finish(claim, "".join(f" {word}" for word in words), len(words))


@dataclass(frozen=True, slots=True)
class Web:
    """The application and what surrounds it."""

    services: WebServices
    http: FlaskClient
    worker: PlayedWorker
    #: A key of tenant `default` with every scope.
    api_key: str

    @property
    def auth(self) -> dict[str, str]:
        """The headers of an authorised request."""
        return {"Authorization": f"Bearer {self.api_key}"}

    def submit(self, prompt: str = "one two", **fields: object) -> str:
        """Submit a job and return its id."""
        body = {"model": MODEL, "input": {"prompt": prompt}, **fields}
        response = self.http.post("/api/v1/jobs", json=body, headers=self.auth)
        assert response.status_code == 202, response.text
        job_id = response.json["id"]
        assert isinstance(job_id, str)
        return job_id


@pytest.fixture
def settings(tmp_path: Path, live_url: str, _sqlite_template: Path) -> Settings:
    """Settings of a web process with an empty, upgraded ledger."""
    settings = Settings(home=tmp_path, redis_url=live_url, port=0, web_threads=40)
    shutil.copy(_sqlite_template, tmp_path / "ledger.db")
    return settings


@pytest.fixture
def web(settings: Settings) -> Iterator[Web]:
    """The application with one model, one key and one idle worker."""
    services = open_services(settings)
    add_model(services.ledger)
    key = add_key(services.ledger)
    app = create_app(services)
    with described_answers(app):
        yield Web(services, app.test_client(), PlayedWorker(services.live, services.ledger), key)
    services.close()
