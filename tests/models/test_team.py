"""Shares of what a model computes: together they are the whole, bit for bit, whoever computes which."""

from __future__ import annotations

import copy
import json
import threading
from typing import Any

import numpy as np
import pytest
import torch

from stpipe.config.errors import DataError, TrainingError
from stpipe.core.peers import ConnectedPeers, PeerError
from stpipe.models import SentenceTransformer
from stpipe.models.inference import Job, Share, Work
from stpipe.models.team import Part, Team, answered, sharing, team_of
from tests.core.test_peers import together
from tests.models.tiny import make_encoder, make_texts
from tests.models.tiny_scores import make_cross_encoder, make_pairs
from tests.models.tiny_splade import splade_model

TEXTS = make_texts(70, longest=20)
PAIRS = make_pairs(60, longest=9)


def dense(family: str = "bert", **options: Any) -> SentenceTransformer:
    model = SentenceTransformer(modules=list(make_encoder(family).stack), device="cpu", **options)
    model.max_seq_length = 16
    return model


def sparse() -> Any:
    model = splade_model()
    model.max_seq_length = 16
    return model


#: A model, and what is asked of it.
ASKED: dict[str, tuple[Any, Any]] = {
    "dense": (dense, lambda model: model.encode(TEXTS, batch_size=2, prompt="query : ")),
    "padded": (lambda: dense("mpnet"), lambda model: model.encode(TEXTS, batch_size=3)),
    "cut": (dense, lambda model: model.encode(TEXTS, batch_size=2, truncate_dim=5, normalize_embeddings=True)),
    "int8": (dense, lambda model: model.encode(TEXTS, batch_size=2, precision="int8")),
    "half precision": (lambda: dense().bfloat16(), lambda model: model.encode(TEXTS, batch_size=2)),
    "sparse": (sparse, lambda model: model.encode(TEXTS, batch_size=2).to_dense().numpy()),
    "few dims": (sparse, lambda model: model.encode(TEXTS, batch_size=2, max_active_dims=4).to_dense().numpy()),
    "scores": (lambda: make_cross_encoder("bert"), lambda model: model.predict(PAIRS, batch_size=1, prompt="query : ")),
    "classes": (lambda: make_cross_encoder("roberta", num_labels=3), lambda model: model.predict(PAIRS, batch_size=1)),
}


def counted(model: Any) -> list[int]:
    """Grows by one with each forward."""
    forwards: list[int] = []
    model.encoder.stack[0].register_forward_hook(lambda *_: forwards.append(1))
    return forwards


def ask_together(model: Any, asked: Any, size: int, others: Any = None) -> list[Any]:
    """(result, forwards) of rank 0, and the forwards of each other process; or what they raised."""

    def asks(peers: ConnectedPeers) -> Any:
        own, exchange = copy.deepcopy(model), peers.exchange("x")
        assert exchange is not None
        forwards = counted(own)
        with sharing(own, Team(exchange)):
            found = asked(own)
        exchange.close()
        return found, len(forwards)

    def helps(peers: ConnectedPeers) -> int:
        own, exchange = copy.deepcopy(others or model), peers.exchange("x")
        assert exchange is not None
        forwards = counted(own)
        for message in exchange.messages():
            answered(own, exchange, message)
        return len(forwards)

    return together(asks, *[helps] * (size - 1))


@pytest.mark.parametrize("name", list(ASKED))
def test_processes_together_give_the_bits_of_one(name: str) -> None:
    make, asked = ASKED[name]
    model = make()
    model.encoder.choose_layout()
    forwards = counted(model)
    expected = asked(model)
    alone = len(forwards)
    assert alone > 8 and np.ptp(np.asarray(expected, dtype=np.float64)) > 0.01
    (found, own), *others = ask_together(model, asked, 3)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    assert own + sum(others) == alone and max(own, *others) - min(own, *others) <= 1, "each micro-batch once, in equal shares"


def test_shares_are_the_whole() -> None:
    model = dense()
    whole = model.encode(TEXTS, batch_size=2)
    total, rows = np.zeros_like(whole), []
    for number in range(3):
        part = Part(Share(number, 3))
        with sharing(model, part):
            found = model.encode(TEXTS, batch_size=2)
        mine = np.zeros(len(TEXTS), dtype=bool)
        mine[part.rows] = True
        assert (np.linalg.norm(found, axis=1) > 0.9)[mine].all() and not found[~mine].any()
        total += found
        rows.append(part.rows)
    np.testing.assert_array_equal(total, whole)
    assert sorted(np.concatenate(rows)) == list(range(len(TEXTS))) and min(map(len, rows)) > 10


def test_a_few_texts_are_not_worth_asking_others() -> None:
    model = dense()
    (found, own), other = ask_together(model, lambda m: m.encode(TEXTS[:3]), 2)
    np.testing.assert_array_equal(found, model.encode(TEXTS[:3]))
    assert (own, other) == (1, 0)


def test_other_models_and_other_outputs_are_computed_by_rank_0() -> None:
    model, other = dense(), dense("roberta")
    expected = other.encode(TEXTS), model.encode(TEXTS, output_value="token_embeddings")

    def asked(own: Any) -> Any:
        return other.encode(TEXTS), own.encode(TEXTS, output_value="token_embeddings")

    (found, _), helped = ask_together(model, asked, 2)
    assert helped == 0
    np.testing.assert_array_equal(found[0], expected[0])
    assert all(torch.equal(a, b) for a, b in zip(found[1], expected[1], strict=True))


def test_processes_that_plan_otherwise_are_refused() -> None:
    """As with another tokenizer on one machine: the micro-batches are others, so some texts would be nobody's."""
    model, other = dense(), dense()
    model.encoder.choose_layout()
    other.encoder.layout = "padded"
    found = ask_together(model, lambda m: m.encode(TEXTS, batch_size=2), 2, other)
    assert isinstance(found[0], TrainingError) and "do not agree on how 70 texts are cut" in str(found[0])
    assert isinstance(found[1], PeerError)


def fails(*_: Any) -> None:
    raise DataError("no room on this device")


def test_the_error_of_another_process_ends_all() -> None:
    other = dense()
    other.encoder.stack[0].register_forward_hook(fails)
    found = ask_together(dense(), lambda m: m.encode(TEXTS, batch_size=2), 3, other)
    assert isinstance(found[0], PeerError) and (found[0].exit_code, found[0].failure.message) == (3, "no room on this device")
    assert {type(error) for error in found[1:]} <= {DataError, PeerError}


def test_what_is_divided_ends_with_its_context() -> None:
    model, seen = dense(), []
    with sharing(model, Part(Share(5, 6))):
        thread = threading.Thread(target=lambda: seen.append(model.encode(TEXTS[:2])))
        thread.start()
        thread.join()
        assert not model.encode(TEXTS[:2]).any(), "the share of another process"
    np.testing.assert_array_equal(seen[0], model.encode(TEXTS[:2]), err_msg="another thread computes alone")
    assert seen[0].any()


def test_a_model_is_alone_unless_it_was_given_others() -> None:
    assert team_of(dense()) is None and team_of(object()) is None


def test_work_is_sent_as_json() -> None:
    work = Work("dense", Job(tuple(TEXTS), "p", 4, 16, True, "query", 3, 7), 5, True)
    found = Work.from_json(json.loads(json.dumps(work.as_json())))
    assert found == Work("dense", Job(TEXTS, "p", 4, 16, False, "query", 3, 7), 5, True)
