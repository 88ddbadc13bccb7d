"""The calibration and evaluation texts of a run, each read, or written by the model, when first asked for."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from math import ceil
from random import Random

import msgspec

from sparsedash.engine.calibration.token_sequences import calibration_sequences
from sparsedash.engine.evaluation.questions import choose_passages, distinct_passages
from sparsedash.engine.run.run_log import RunLog
from sparsedash.engine.run.run_model import RunModel
from sparsedash.engine.texts.corpora import Texts, openings, read_texts
from sparsedash.engine.texts.generation import sample_texts
from sparsedash.schema import notes
from sparsedash.schema.cache_keys import mixed_text_identity, own_text_identity, text_key, unread_text_identity
from sparsedash.schema.errors import StoreError
from sparsedash.schema.hosting.upkeep import about_artefact
from sparsedash.schema.notes import NoteName
from sparsedash.schema.progress import Step
from sparsedash.schema.records import Passages
from sparsedash.schema.settings import BUILTIN_TEXT, SELF, RunSettings
from sparsedash.storage.fingerprints import fingerprint
from sparsedash.storage.halfway import Halfway
from sparsedash.storage.store import Store


class RunTexts:
    """The two text sets that a run's settings name."""

    def __init__(self, settings: RunSettings, store: Store, model: RunModel, run_log: RunLog) -> None:
        self._calibration, self._evaluation = settings.calibration, settings.evaluation
        self._reads_text = settings.reads_text
        self._store, self._model, self._run_log = store, model, run_log
        self._sequences: dict[float, list[list[int]]] = {}

    @cached_property
    def passages(self) -> Passages:
        """The passages to answer, kept in the store for the pages."""
        chosen = choose_passages(self._evaluation_texts, self._evaluation)
        self._store.put(chosen.key, chosen)
        return chosen

    @property
    def passages_warnings(self) -> list[str]:
        """Warnings about passages that occur more than once, and about fewer passages than were asked for."""
        asked, n_texts = self._evaluation.n_passages, len(self._evaluation_texts.texts)
        found = len(distinct_passages(self._evaluation_texts))
        warnings = []
        if repeated := n_texts - found:
            warnings.append(f"{repeated:,} of {n_texts:,} passages repeat an earlier one and are left out.")
        if asked is not None and found < asked:
            warnings.append(
                f"The text has {found:,} passages, not the {asked:,} that were asked for; all are answered."
            )
        return warnings

    @property
    def evaluation_identity(self) -> str:
        """What tells this evaluation text from others."""
        return self._evaluation_texts.identity

    def calibration_identity(self, plain_share: float = 0.0) -> str:
        """What tells this calibration text from others.

        Text by the model itself is told by the model and the settings. Where no method depends on the text, what was
        told of it when it was read last is enough; what never was read is not read now.
        plain_share: of the text, how much is plain.
        """
        text = self._own_identity
        return mixed_text_identity(text, self._plain_texts.identity, plain_share) if plain_share else text

    @cached_property
    def _own_identity(self) -> str:
        if self._calibration.corpus == SELF:
            return own_text_identity(self._model.identity, self._model.dtype, self._calibration)
        if self._reads_text:
            return self._calibration_texts.identity
        corpus = self._calibration.corpus
        return self._store.recall(_identity_note(corpus)) or unread_text_identity(corpus)

    def sequences(self, plain_share: float = 0.0) -> list[list[int]]:
        """Token ids of the calibration text, of which a share is plain: as many tokens either way."""
        if plain_share not in self._sequences:
            self._sequences[plain_share] = self._cut(plain_share)
        return self._sequences[plain_share]

    def _cut(self, plain_share: float) -> list[list[int]]:
        asked = self._calibration
        plain: list[list[int]] = []
        if plain_share:
            few = replace(asked, n_samples=max(1, round(plain_share * asked.n_samples)))
            plain = calibration_sequences(self._model.loaded, self._plain_texts, few)
        n_rest = asked.n_samples - ceil(sum(map(len, plain)) / asked.length)
        if n_rest < 1:
            return plain
        is_own = asked.corpus == SELF
        texts = self._written_texts() if is_own else self._calibration_texts
        found = plain + calibration_sequences(self._model.loaded, texts, replace(asked, n_samples=n_rest))
        if plain:
            # What is kept out of the fit, and what is read first, shall be of both.
            Random(asked.seed).shuffle(found)
        return found

    @property
    def expected_lengths(self) -> list[int]:
        """Tokens of each calibration sequence; of text that the model would have to write first, those asked for."""
        if self._calibration.corpus == SELF:
            return [self._calibration.length] * self._calibration.n_samples
        return [len(ids) for ids in self.sequences()]

    @cached_property
    def _calibration_texts(self) -> Texts:
        """Texts that are read from somewhere; not those that the model writes."""
        return self._read(self._calibration.corpus)

    @cached_property
    def _plain_texts(self) -> Texts:
        return self._read(BUILTIN_TEXT)

    @cached_property
    def _evaluation_texts(self) -> Texts:
        return self._read(self._evaluation.corpus)

    def _read(self, reference: str) -> Texts:
        with self._run_log.timed("text"):
            self._run_log.on_step(Step("text", 0, 1, message=f"Reading {reference}"))
            texts = read_texts(reference, self._store.folder)
        self._store.remember(_identity_note(reference), texts.identity)
        return texts

    @property
    def written_text_key(self) -> str:
        """Under which the calibration text by the model itself is kept; empty where it is read from somewhere."""
        asked = self._calibration
        return text_key(self._model.identity, self._model.dtype, asked) if asked.corpus == SELF else ""

    def _written_texts(self) -> Texts:
        """Calibration text by the model itself, kept because writing it takes longer than anything else."""
        key = self.written_text_key
        known = self._store.get_artefact(key)
        if known is None:
            loaded, on_step = self._model.loaded, self._run_log.on_step
            halfway = Halfway(self._store, self._model.identity)
            made = halfway.numbered(f"{key}/written", _packed, _unpacked)
            with self._run_log.timed("text"):
                known = _packed(sample_texts(loaded, openings(), self._calibration, on_step, made))
            self._store.put_artefact(key, known, about_artefact("text", self._model.identity))
            halfway.done()
        return Texts(texts=tuple(_unpacked(known)), identity=self._own_identity)


def _packed(texts: Sequence[str]) -> bytes:
    return msgspec.json.encode(texts)


def _unpacked(data: bytes) -> list[str]:
    try:
        return msgspec.json.decode(data, type=list[str])
    except msgspec.DecodeError as error:
        raise StoreError(f"Stored calibration text cannot be read: {error}.", "Start the run again.") from error


def _identity_note(reference: str) -> NoteName:
    return notes.text_identity(reference, fingerprint(reference))
