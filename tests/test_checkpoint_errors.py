"""What a message may hold of what a file holds."""

from __future__ import annotations

import pickle

import pytest

from asymvq.checkpoint import CheckpointError
from asymvq.checkpoint.errors import shown

hypothesis = pytest.importorskip("hypothesis")
given, st = hypothesis.given, hypothesis.strategies


@given(st.text(st.characters(), max_size=1200))  # lone surrogates too
def test_every_message_is_one_short_printable_line(text):
    message = str(CheckpointError(text))
    assert len(message) < 500
    assert message.isprintable()
    assert str(CheckpointError(message)) == message


@given(st.text(max_size=200), st.integers(20, 80))
def test_names_are_cut_to_what_is_asked(text, longest):
    assert len(shown(text, longest)) <= longest
    if text.isprintable() and len(text) <= longest:
        assert shown(text, longest) == text


def test_the_middle_is_cut():
    message = str(CheckpointError(f"vae.safetensors: Expected a name, but got {'x' * 10**7}. Download it again."))
    assert message.startswith("vae.safetensors: Expected a name, but got xxx")
    assert message.endswith("xxx. Download it again.")


def test_control_characters_are_escaped():
    assert shown("a\x1b[31m\n\u202e\ud800") == r"a\x1b[31m\n\u202e\ud800"


def test_survives_pickling():
    error = CheckpointError("Expected\ta file.")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
