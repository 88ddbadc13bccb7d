"""Token ids of a run's calibration text, of which a share may be the built-in mix."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil
from random import Random

from sparsedash.catalog.resources import heal_tokens
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.texts.corpora import Texts, calibration_sequences
from sparsedash.engine.texts.mixed_sequences import mixed_sequences
from sparsedash.schema.settings import BUILTIN_MIXED, SELF, CalibrationSettings
from sparsedash.schema.sparse_spec import SparseSpec
from sparsedash.schema.store_keys import mix_share

Sequences = list[list[int]]


class CalibrationTexts:
    """Calibration sequences in tokens. load: gives the model. read: gives the corpus.

    share: of the mix, 0 to 1; the number of tokens is the same.
    """

    def __init__(
        self,
        settings: CalibrationSettings,
        load: Callable[[], LoadedModel],
        read: Callable[[], Texts],
    ) -> None:
        self._settings = settings
        self._load = load
        self._read = read
        self._known: dict[float, Sequences] = {}
        self._to_heal: dict[tuple[float, int], Sequences] = {}

    def sequences(self, share: float = 0.0) -> Sequences:
        """The calibration samples."""
        if share not in self._known:
            sequences = self._samples(share, self._settings)
            if share or self._settings.corpus == BUILTIN_MIXED:
                # The held-out sequences, and the first ones, shall be of both.
                Random(self._settings.seed).shuffle(sequences)
            self._known[share] = sequences
        return self._known[share]

    def unpacked(self, share: float) -> Sequences:
        """The same number of samples, each of a single document."""
        return self._samples(share, replace(self._settings, packed=False))

    def to_heal(self, spec: SparseSpec) -> Sequences:
        """Sequences following the samples in the same corpus, up to what healing needs.

        Empty where the model writes the calibration text, since generation is slow, and for a
        method that reads the mix alone.
        """
        share = mix_share(spec, self._settings)
        samples = self.sequences(share)
        n_missing = heal_tokens(spec.heal_steps) - sum(map(len, samples))
        n_more = ceil(n_missing / self._length)
        if self._settings.corpus == SELF or share == 1 or n_more < 1:
            return []
        if (share, n_more) not in self._to_heal:
            self._to_heal[share, n_more] = self._following(samples, share, n_more)
        return self._to_heal[share, n_more]

    def n_sequences(self, spec: SparseSpec) -> int:
        """Number of samples that a model reads, those of the mix included."""
        if self._settings.corpus == SELF:
            return len(self.expected_lengths)
        return len(self.sequences(mix_share(spec, self._settings)))

    @property
    def expected_lengths(self) -> list[int]:
        """Tokens of each sample; for text still to be generated, those requested."""
        if self._settings.corpus == SELF:
            return [self._length] * self._settings.n_samples
        return list(map(len, self.sequences()))

    @property
    def _length(self) -> int:
        return min(self._settings.length, self._load().max_length)

    def _samples(self, share: float, settings: CalibrationSettings) -> Sequences:
        if settings.corpus == BUILTIN_MIXED:
            return mixed_sequences(self._load(), settings)
        mixed = self._mixed(share, settings)
        return mixed + self._named(mixed, settings)

    def _following(
        self, samples: Sequence[Sequence[int]], share: float, n_more: int
    ) -> Sequences:
        """The next n_more sequences of the corpus, or of the mix."""
        settings = self._settings
        if settings.corpus == BUILTIN_MIXED:
            longer = replace(settings, n_samples=settings.n_samples + n_more)
            already_read = set(map(tuple, samples))
            sequences = mixed_sequences(self._load(), longer)
            return [ids for ids in sequences if tuple(ids) not in already_read]
        mixed = self._mixed(share, settings)
        return self._named(mixed, settings, n_more)[len(samples) - len(mixed) :]

    def _mixed(self, share: float, settings: CalibrationSettings) -> Sequences:
        if not share:
            return []
        n_samples = max(1, round(share * settings.n_samples))
        return mixed_sequences(self._load(), replace(settings, n_samples=n_samples))

    def _named(
        self,
        mixed: Sequence[Sequence[int]],
        settings: CalibrationSettings,
        n_more: int = 0,
    ) -> Sequences:
        """Sequences of the corpus beside those of the mix, and n_more after them."""
        n_samples = (
            settings.n_samples - ceil(sum(map(len, mixed)) / self._length) + n_more
        )
        if n_samples < 1:
            return []
        named = replace(settings, n_samples=n_samples)
        return calibration_sequences(self._load(), self._read(), named)
